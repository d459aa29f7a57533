"""curl-rl export: of a run or of a folder, in each format, whole or not at all."""

import json
import sys
from pathlib import Path

import pytest
import torch
from encoders import CONFIG, frames

from curl_rl import cli
from curl_rl.representation.export import load_encoder, read_description
from curl_rl.run.checkpoint import Checkpoints

FORMATS = ("folder", "onnx", "hub")


@pytest.fixture
def run_dir(folder, tmp_path) -> Path:
    """Give a run's directory that holds the folder's encoder."""
    place = tmp_path / "run"
    place.mkdir()
    configuration = {
        **{"task": "toy/reach", "seed": 1, "budget_frames": 100, "encoder": CONFIG, "agent": {}, "replay": {}},
        "objective": {"name": "byol"},
        "evaluation": {"episodes": 1, "final_episodes": 0},
        "env": {"image_size": 32, "frame_stack": 2, "obs": "pixels"},
        "augmentation": {"name": "crop", "size": 28},
    }
    (place / "config.json").write_text(json.dumps(configuration))
    learner = {"encoder": load_encoder(folder).encoder.state_dict()}
    Checkpoints(place / "checkpoints").save(1, {"agent": {"learner": learner}, "clock": [1, 80, 1]})
    return place


def export(source: Path, out: Path, *more: str) -> int:
    return cli.main(["export", str(source), "--out", str(out), *more])


@pytest.mark.parametrize("source", ["run", "enc"])
def test_a_run_and_a_folder_give_the_same_encoder(source, run_dir, folder, tmp_path, capsys):
    given = {"run": run_dir, "enc": folder}[source]
    obs, expected = frames(3), load_encoder(folder)
    for name in FORMATS:
        out = tmp_path / name
        assert export(given, out, "--format", name) == 0
        assert capsys.readouterr().out == f"wrote {out / 'model.onnx' if name == 'onnx' else out}\n"
    assert torch.equal(load_encoder(tmp_path / "folder")(obs), expected(obs))
    assert torch.equal(load_encoder(tmp_path / "hub")(obs), expected(obs))
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    (found,) = session.run(None, {"obs": obs.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected(obs).detach(), rtol=0, atol=1e-4)
    card = (tmp_path / "hub" / "README.md").read_text()
    assert ("| task | toy/reach |\n| trained for | 80 frames |" in card) == (source == "run")
    assert [path.name for path in (tmp_path / "onnx").iterdir()] == ["model.onnx"]


def test_a_copy_is_the_folder_without_its_training(folder, tmp_path):
    (folder / "training").mkdir()
    assert export(folder, tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors"}
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes()
    assert export(folder, folder) == 0
    assert load_encoder(folder)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_folder_that_was_changed_is_refused(file, name, folder, tmp_path, capsys):
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    assert export(folder, tmp_path / "out", "--format", name) == 2
    assert capsys.readouterr().err.startswith(f"curl-rl: {folder / file} cannot be used: ")
    (folder / file).unlink()
    assert export(folder, tmp_path / "out", "--format", name) == 1
    told = capsys.readouterr().err
    assert f"no exported encoder in {folder} ({file} is missing)" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", FORMATS)
def test_what_something_else_holds_is_left(name, run_dir, folder, tmp_path, capsys):
    before = sorted(run_dir.rglob("*"))
    for source in (run_dir, folder):
        assert export(source, run_dir, "--format", name) == 1
        assert "holds a config.json that is no encoder's, perhaps a run's" in capsys.readouterr().err
    assert sorted(run_dir.rglob("*")) == before
    (tmp_path / "file").write_text("mine")
    assert export(folder, tmp_path / "file", "--format", name) == 1
    assert "is a file, no folder" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["onnx", "onnxruntime"])
def test_a_missing_extra_is_one_line_that_names_it(module, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "curl_rl.adapters.onnx", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    assert export(folder, tmp_path / "out", "--format", "onnx") == 2
    told = f"curl-rl: curl_rl.adapters.onnx needs {module}: pip install 'curl-rl[onnx]'\n"
    assert capsys.readouterr().err == told
    assert not (tmp_path / "out").exists()


def test_a_probes_results_stand_in_hubs_card_alone(run_dir, tmp_path, capsys):
    probe = tmp_path / "probe.csv"
    assert export(run_dir, tmp_path / "enc") == 0
    weights = read_description(tmp_path / "enc")["weights"][:12]
    probe.write_text(f"subject,weights,probe,layer,quantity,seed,value\nenc,{weights},ridge,features,r2,0,0.5\n")
    assert export(run_dir, tmp_path / "hub", "--format", "hub", "--probe", str(probe)) == 0
    assert "| ridge | features | r2 | 0.500 |  |  |" in (tmp_path / "hub" / "README.md").read_text()
    for name in ("folder", "onnx"):
        assert export(run_dir, tmp_path / "out", "--format", name, "--probe", str(probe)) == 2
        assert f"--probe has no effect with --format {name}: give --format hub" in capsys.readouterr().err
    assert export(run_dir, tmp_path / "out", "--format", "hub", "--probe", str(tmp_path / "none.csv")) == 1
    assert "none.csv: No such file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_format_is_refused(folder, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        export(folder, tmp_path / "out", "--format", "torchscript")
    assert "invalid choice: 'torchscript'" in capsys.readouterr().err


@pytest.mark.parametrize("name", FORMATS)
def test_a_place_that_is_nothing_is_refused(name, tmp_path, capsys):
    assert export(tmp_path / "nowhere", tmp_path / "out", "--format", name) == 1
    assert "is no run directory" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
