"""A folder for the Hub is an encoder's with a true card; what is pushed comes back whole or not at all."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from encoders import frames, save_small
from places import ROOT
from torch import nn

from curl_rl import Distiller, Finetuner, Pretrainer, Tap, load_encoder
from curl_rl.adapters.hub import card, probe_results, pull, push, write_hub
from curl_rl.nn.encoders import encoder_config, make_encoder
from curl_rl.objectives import OBJECTIVES
from curl_rl.representation.export import EncoderError, load_part, read_description, save_encoder
from curl_rl.representation.probing.measure import probe_folders
from curl_rl.representation.probing.options import compose_probing
from curl_rl.run.folder import tensors_of, write_folder

FILES = {"config.json", "model.safetensors", "README.md"}
PROBE = """subject,kind,weights,probe,layer,quantity,seed,value
pixels,,,ridge,features,r2,0,0.9
enc,small 3x8x8,abc,ridge,features,r2,0,0.5
enc,small 3x8x8,abc,ridge,features,r2,1,0.75
enc,small 3x8x8,abc,ridge,map,r2,0,0.25
other,nature 3x8x8,def,ridge,features,r2,0,0.8
untrained small 3x8x8,small 3x8x8,1a,ridge,features,r2,0,0.1
untrained small 3x8x8,small 3x8x8,2b,ridge,features,r2,1,0.3
untrained small 3x8x8,small 3x8x8,2b,linear,features,accuracy,1,0.3
untrained nature 3x8x8,nature 3x8x8,3c,ridge,features,r2,0,0.7
"""


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Path:
    """Give the folder that stands for the Hub: `name/repository` there holds a commit a folder."""
    place = tmp_path / "hub"

    class Api:
        def create_repo(self, repo_id, *, private, exist_ok):
            assert exist_ok
            (place / repo_id).mkdir(parents=True, exist_ok=True)
            (place / repo_id / "private").write_text(str(private))

        def upload_folder(self, *, repo_id, folder_path, allow_patterns, commit_message):
            commit = place / repo_id / str(len(list((place / repo_id).glob("[0-9]*"))))
            commit.mkdir()
            for pattern in allow_patterns:
                for path in Path(folder_path).glob(pattern):
                    shutil.copy(path, commit)
            return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/{commit.name}")

    def snapshot_download(repo_id, *, revision, allow_patterns):
        revision = revision or max(path.name for path in (place / repo_id).glob("[0-9]*"))
        assert set(allow_patterns) == {"config.json", "*.safetensors", "README.md"}
        return str(place / repo_id / revision)

    stand_in = SimpleNamespace(HfApi=Api, snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in)
    return place


def front(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


def rows(text: str) -> dict[str, str]:
    return dict(re.findall(r"^\| ([^|]+) \| (.+) \|$", text, flags=re.MULTILINE))


def test_the_hubs_folder_is_read_bit_for_bit(folder, tmp_path):
    out = write_hub(folder, tmp_path / "out")
    assert {path.name for path in out.iterdir()} == FILES
    for name in ("config.json", "model.safetensors"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    obs = frames(3)
    assert torch.equal(load_encoder(out)(obs), load_encoder(folder)(obs))


def test_the_card_of_a_run_says_how_its_encoder_came_to_be(tmp_path):
    encoder, objective = make_encoder(encoder_config("strided"), (6, 28, 28)), {"name": "byol", "coefficient": 1.0}
    told = {"task": "toy/reach", "objective": objective, "trained_frames": 12_000}
    folder = save_encoder(encoder, {"name": "strided"}, (6, 32, 32), tmp_path / "enc", **told)
    text = (write_hub(folder, tmp_path / "out", license="mit") / "README.md").read_text()
    assert front(text) == {
        "license": "mit",
        "library_name": "curl-rl",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["curl-rl", "reinforcement-learning", "self-supervised-learning", "byol"],
    }
    found = rows(text)
    assert found["task"] == "toy/reach"
    assert found["objective"] == "byol coefficient=1.0"
    assert found["trained for"] == "12,000 frames"
    assert found["labels seen"] == "none; the task's reward"
    assert found["observations"] == "(6, 32, 32), of which it sees (6, 28, 28)"
    assert found["features"] == "50, float32"
    assert found["weights, SHA-256"] == read_description(folder)["weights"]
    assert "What its features know" not in text


@pytest.mark.parametrize(("objective", "seen"), [("simclr", "0"), ("supcon", "16")], ids=["none", "all"])
def test_the_card_of_a_pre_trained_one_says_which_labels_were_seen(objective, seen, hub, tmp_path):
    images = torch.randint(256, (16, 3, 28, 28), dtype=torch.uint8)
    labelled = [(image, number % 4) for number, image in enumerate(images)]
    config = OBJECTIVES[objective].Config(**({"labels": "class"} if objective == "supcon" else {}))
    encoder = make_encoder(encoder_config("small"), (3, 28, 28))
    run = Pretrainer(encoder, objective=config, frames=labelled, batch_size=8)
    run.train(updates=2, out=tmp_path / "enc")
    text = (write_hub(tmp_path / "enc", tmp_path / "out") / "README.md").read_text()
    found = rows(text)
    assert found["trained for"] == "2 updates"
    assert found["frames"].startswith("16 (crc32 ")
    assert found["labels seen"] == seen
    assert found["objective"].startswith(objective)
    assert front(text)["license"] == "unknown"
    push(tmp_path / "out", "me/enc")
    pulled = pull("me/enc", tmp_path / "pulled")
    assert {path.name for path in pulled.iterdir()} == FILES | {"head.safetensors"}
    assert load_part(pulled, "head") is not None  # with which fine-tuning may begin


def test_the_card_of_a_classifier_says_whose_labels_it_rests_on(tmp_path):
    images = torch.randint(256, (16, 3, 28, 28), dtype=torch.uint8)
    labelled, local = [(image, number % 2) for number, image in enumerate(images)], {"batch_size": 8, "device": "cpu"}
    encoder = make_encoder(encoder_config("small"), (3, 28, 28))
    Finetuner(encoder, frames=labelled[:12], **local).train(updates=1, out=tmp_path / "clf")
    Distiller(tmp_path / "clf", frames=list(images), **local).train(updates=1, out=tmp_path / "clf_s")
    cards = {
        name: rows((write_hub(tmp_path / name, tmp_path / f"{name}_hub") / "README.md").read_text())
        for name in ("clf", "clf_s")
    }
    assert cards["clf"]["labels seen"].startswith("12")
    assert cards["clf_s"]["labels seen"] == "0; 12 by its teacher"
    assert [card["classes"] for card in cards.values()] == ["0, 1", "0, 1"]
    assert "task" not in cards["clf"]


def block_of(text: str) -> str:
    (block,) = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return block


def test_what_the_card_says_of_loading_works_in_another_process(folder, tmp_path):
    code = block_of((write_hub(folder, tmp_path / "a" / "enc") / "README.md").read_text())
    code += "assert features.shape == (1, 6)\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "a", env=environment, check=True)


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 2, 3), nn.Flatten())


def test_the_card_of_a_users_network_asks_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tap = Tap(Net()).see((3, 8, 8))
    write_hub(save_encoder(tap, tap.config, (3, 8, 8), Path("one")), "enc")
    text = Path("enc/README.md").read_text()
    assert "code is needed besides" in text
    names = {"Net": Net}
    exec(block_of(text), names)
    assert names["features"].shape == (1, 72)


def test_a_state_encoder_has_a_card_too(tmp_path):
    encoder = make_encoder(encoder_config("state"), (5,))
    out = write_hub(save_encoder(encoder, {"name": "state"}, (5,), tmp_path / "one"), tmp_path / "enc")
    text = (out / "README.md").read_text()
    assert "pipeline_tag" not in front(text)
    assert "dtype=torch.float32" in block_of(text)


# Probes


def test_results_are_means_over_seeds_of_the_encoder_alone(folder, tmp_path):
    weights = read_description(folder)["weights"]
    (tmp_path / "probe.csv").write_text(PROBE.replace("abc", weights[:12]))
    assert probe_results(tmp_path / "probe.csv", weights) == {
        ("ridge", "features", "r2"): {"pixels": 0.9, "encoder": 0.625, "untrained": 0.2},
        ("ridge", "map", "r2"): {"encoder": 0.25},
    }
    text = (write_hub(folder, tmp_path / "out", probe=tmp_path / "probe.csv") / "README.md").read_text()
    assert "| ridge | features | r2 | 0.625 | 0.200 | 0.900 |" in text
    assert "| ridge | map | r2 | 0.250 |  |  |" in text
    assert "0.8" not in text


def test_the_table_of_a_real_probe_is_read(folder, tmp_path):
    frames = np.random.default_rng(0).integers(256, size=(60, 3, 32, 32), dtype=np.uint8)
    np.savez(tmp_path / "rec.npz", frames=frames, ends=np.arange(60) % 5 == 4, states=frames[:, 0, 0, :2].astype(float))
    config = compose_probing([f"data={tmp_path / 'rec.npz'}", "geometry.count=16"])
    table = probe_folders([folder], tmp_path / "out", config, seeds=2)
    results = probe_results(table, read_description(folder)["weights"])
    assert {probe for probe, *_ in results} == {"geometry", "nearest_states", "ridge", "same_episode"}
    assert results["ridge", "features", "r2"].keys() == {"encoder", "pixels", "untrained"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no row of this encoder's weights"),
        ("a,b\n1,2\n", "no row of this encoder's weights"),
        (PROBE, "no row of this encoder's weights"),
        (PROBE.replace("0.9", "high"), "a row without a number as its value"),
        ("subject,probe\npixels,ridge\n", "a row without a number as its value"),
        ("subject,value\npixels\n", "a row without a number as its value"),
        (f"subject,value\npixels,{'1' * 200_000}\n", "a row without a number as its value"),
        ("\0\1\xff", "no row of this encoder's weights"),
    ],
    ids=["empty", "other columns", "other subjects", "no number", "no value", "short", "long", "binary"],
)
def test_a_csv_that_tells_nothing_is_refused_before_anything_is_written(text, message, folder, tmp_path):
    (tmp_path / "probe.csv").write_text(text)
    with pytest.raises(EncoderError, match=rf"probe.csv has {message}: give the CSV of curl-rl probe"):
        write_hub(folder, tmp_path / "out", probe=tmp_path / "probe.csv")
    assert not (tmp_path / "out").exists()


def test_nothing_that_a_file_says_breaks_the_card(folder, tmp_path):
    described = read_description(folder) | {"task": "a|b\n---\nlicense: evil\n```python"}
    text = card(described, {("x|y\n# z", "", ""): {"encoder": 1.0}}, 'odd": name')
    assert front(text)["license"] == 'odd": name'
    assert len(re.findall(r"^---$", text, flags=re.MULTILINE)) == 2
    assert len(re.findall(r"^```", text, flags=re.MULTILINE)) == 2
    assert "| x\\|y # z |" in text


# Refusals


def test_an_edited_card_is_not_overwritten(folder, tmp_path):
    out = write_hub(folder, tmp_path / "out")
    assert write_hub(folder, out) == out
    (out / "README.md").write_text("mine")
    with pytest.raises(FileExistsError, match=r"README.md is there and says something else: move it away"):
        write_hub(folder, out)
    assert (out / "README.md").read_text() == "mine"


def test_a_folder_that_was_changed_is_refused(folder, tmp_path):
    config = folder / "config.json"
    sound = config.read_text()
    for file, content in (
        (config, sound.replace("strided", "small")),
        (config, "{}"),
        (folder / "model.safetensors", "no weights"),
    ):
        file.write_text(content)
        with pytest.raises(EncoderError, match=rf"{file} cannot be used"):
            write_hub(folder, tmp_path / "out")
        config.write_text(sound)
    with pytest.raises(FileNotFoundError, match="no exported encoder in"):
        write_hub(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changes", [{"encoder": 7}, {"obs_shape": None}, {"objective": []}, {"updates": "x"}], ids=str)
def test_a_description_of_another_making_is_refused(changes, folder, tmp_path):
    described = {key: value for key, value in read_description(folder).items() if key != "weights"}
    write_folder(tmp_path / "odd", tensors_of(load_encoder(folder).encoder), described | changes)
    with pytest.raises(EncoderError, match=r"describes no encoder of this version \(.*\): export it again"):
        write_hub(tmp_path / "odd", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Push and pull


def test_what_is_pushed_is_pulled(folder, hub, tmp_path):
    write_hub(folder, tmp_path / "out")
    (tmp_path / "out" / "secret.txt").write_text("not for the Hub")
    assert push(tmp_path / "out", "me/reach") == "https://hub/me/reach/commit/0"
    assert {path.name for path in (hub / "me" / "reach" / "0").iterdir()} == FILES
    assert (hub / "me" / "reach" / "private").read_text() == "True"
    out = pull("me/reach", tmp_path / "pulled")
    assert {path.name for path in out.iterdir()} == FILES
    for name in FILES:
        assert (out / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    obs = frames(2)
    assert torch.equal(load_encoder(out)(obs), load_encoder(folder)(obs))


def test_a_revision_is_pulled(folder, hub, tmp_path):
    push(write_hub(folder, tmp_path / "first"), "me/reach", private=False)
    other = save_small(tmp_path / "other")
    push(write_hub(other, tmp_path / "second"), "me/reach")
    for revision, pushed in (("0", folder), ("1", other), (None, other)):
        out = pull("me/reach", tmp_path / f"pulled{revision}", revision=revision)
        assert read_description(out)["weights"] == read_description(pushed)["weights"]


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_what_is_not_as_it_was_pushed_is_not_pulled(file, folder, hub, tmp_path):
    push(write_hub(folder, tmp_path / "out"), "me/reach")
    there = hub / "me" / "reach" / "0" / file
    content = there.read_bytes()
    there.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    with pytest.raises(EncoderError, match=r"me/reach holds no encoder of curl_rl, or not as it was pushed"):
        pull("me/reach", tmp_path / "pulled")
    there.unlink()
    with pytest.raises(EncoderError, match=r"give another repository or revision"):
        pull("me/reach", tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()


def test_a_pull_leaves_a_users_own_readme(folder, hub, tmp_path):
    push(write_hub(folder, tmp_path / "out"), "me/reach")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "README.md").write_text("mine")
    with pytest.raises(FileExistsError, match=r"README.md is there"):
        pull("me/reach", tmp_path / "project")
    assert os.listdir(tmp_path / "project") == ["README.md"]


def test_nothing_is_pushed_that_could_not_be_loaded(folder, hub, tmp_path):
    with pytest.raises(EncoderError, match=r"has no README.md: write_hub\(.*, OUT\) writes one"):
        push(folder, "me/reach")
    out = write_hub(folder, tmp_path / "out")
    described = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(described | {"feature_dim": 7}))
    with pytest.raises(EncoderError, match="not as it was exported"):
        push(out, "me/reach")
    assert not hub.exists()


def test_without_huggingface_hub_a_folder_is_written_and_the_message_names_the_extra(folder, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    out = write_hub(folder, tmp_path / "out")
    for call in (lambda: push(out, "me/reach"), lambda: pull("me/reach", tmp_path / "pulled")):
        with pytest.raises(ImportError, match=r"need huggingface_hub: pip install 'curl-rl\[hub\]'"):
            call()


def test_the_stand_in_takes_what_huggingface_hub_takes():
    """The calls of push and pull, bound to the real signatures."""
    import inspect

    import huggingface_hub

    api = huggingface_hub.HfApi
    inspect.signature(api.create_repo).bind(None, "me/x", private=True, exist_ok=True)
    given = {"repo_id": "", "folder_path": "", "allow_patterns": [], "commit_message": ""}
    inspect.signature(api.upload_folder).bind(None, **given)
    inspect.signature(huggingface_hub.snapshot_download).bind("me/x", revision=None, allow_patterns=[])
    assert "commit_url" in inspect.signature(huggingface_hub.CommitInfo).parameters


def test_huggingface_hub_reads_the_card(folder, tmp_path):
    import huggingface_hub

    found = huggingface_hub.ModelCard((write_hub(folder, tmp_path / "out") / "README.md").read_text())
    assert (found.data.license, found.data.library_name) == ("unknown", "curl-rl")
