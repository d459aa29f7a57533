"""An exported encoder gives the features that the trained one gave, and refuses what it was not trained on."""

import hashlib
import json
import math
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from places import ROOT

import curl_rl
from curl_rl import cli
from curl_rl.nn.encoders import encoder_config, make_encoder
from curl_rl.nn.images import center_crop, center_fit
from curl_rl.representation.export import EncoderError, copy_encoder, export_run, load_encoder, save_encoder
from curl_rl.run.checkpoint import CheckpointError, Checkpoints
from curl_rl.run.files import WriteError
from curl_rl.types import ConfigError

CONFIG = {"name": "strided", "feature_dim": 7, "filters": 4}


def trained_encoder(input_shape=(6, 28, 28), **fields):
    encoder = make_encoder(encoder_config(**{**CONFIG, **fields}), input_shape)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return encoder


def frames(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8)


@pytest.fixture
def exported(tmp_path):
    encoder = trained_encoder()
    return encoder, save_encoder(encoder, CONFIG, (6, 32, 32), tmp_path / "enc", task="dmc/cartpole_swingup")


@pytest.mark.parametrize("name", ["paper", "strided", "nature", "impala"])
def test_every_encoder_comes_back_bit_for_bit(name, tmp_path):
    encoder = make_encoder(encoder_config(name), (3, 40, 40))
    loaded = load_encoder(save_encoder(encoder, {"name": name}, (3, 40, 40), tmp_path))
    images = frames(2, 3, 40, 40)
    assert torch.equal(loaded(images), encoder(images))
    assert loaded.feature_dim == encoder.feature_dim


def test_the_state_encoder_comes_back_bit_for_bit(tmp_path):
    encoder = make_encoder(encoder_config("state"), (5,))
    loaded = load_encoder(save_encoder(encoder, {"name": "state"}, (5,), tmp_path))
    states = torch.randn(3, 5)
    assert torch.equal(loaded(states), encoder(states))


def test_frames_are_cut_to_the_centre_as_the_agent_acts(exported):
    encoder, path = exported
    loaded = load_encoder(path)
    images = frames(3, 6, 32, 32)
    assert loaded.obs_shape == (6, 32, 32)
    assert torch.equal(loaded(images), encoder(center_crop(images, 28)))
    assert torch.equal(loaded(center_crop(images, 28)), encoder(center_crop(images, 28)))


def test_a_loaded_encoder_is_in_eval_mode_and_can_be_trained_on(exported):
    loaded = load_encoder(exported[1])
    assert not any(module.training for module in loaded.modules())
    loaded(frames(2, 6, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


def test_the_folder_says_what_it_holds(exported):
    described = json.loads((exported[1] / "config.json").read_text())
    assert described.pop("weights") == hashlib.sha256((exported[1] / "model.safetensors").read_bytes()).hexdigest()
    assert len(described.pop("checksum")) == 64
    assert described == {
        "encoder": CONFIG,
        "obs_shape": [6, 32, 32],
        "input_shape": [6, 28, 28],
        "feature_dim": 7,
        "version": curl_rl.__version__,
        "task": "dmc/cartpole_swingup",
    }


TRAINED = r"trained on observations of shape \(6, 32, 32\), got "


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (frames(2, 3, 32, 32), TRAINED + r"\(3, 32, 32\): stack as many frames"),
        (frames(2, 6, 33, 33), TRAINED + r"\(6, 33, 33\): render or resize images to 32x32 or 28x28"),
        (frames(2, 6, 30, 30), TRAINED + r"\(6, 30, 30\): render or resize"),
        (frames(2, 6, 32, 28), TRAINED + r"\(6, 32, 28\): render or resize"),
        (frames(2, 6, 27, 27), "render or resize"),
        (frames(2, 32, 32, 6), r"got \(32, 32, 6\): move the channels first, obs.permute\(0, 3, 1, 2\)"),
        (frames(6, 32, 32), r"takes a batch, got one observation of \(6, 32, 32\): give obs\[None\]"),
        (frames(6, 28, 28), r"give obs\[None\]"),
        (frames(32), "channels first, and give a batch"),
        (
            torch.eye(32).expand(2, 6, 32, 32),
            r"got float32 from 0 to 1: give \(obs \* 255\).round\(\).to\(torch.uint8\)",
        ),
        (frames(2, 6, 32, 32).float(), r"got float32 from 0 to 255: give obs.to\(torch.uint8\)"),
        (frames(2, 6, 32, 32).long(), r"got int64 from 0 to 255: give obs.to\(torch.uint8\)"),
        (frames(2, 6, 32, 32).float() - 128, "from -128 to 127: give the environment's own uint8 images"),
        (torch.full((1, 6, 32, 32), torch.nan), "from nan to nan: give the environment's own"),
        (torch.empty(0, 6, 32, 32), r"got float32: give obs.to\(torch.uint8\)"),
    ],
)
def test_wrong_frames_are_refused_with_what_makes_them_right(exported, images, message):
    with pytest.raises(ValueError, match=message):
        load_encoder(exported[1])(images)


def test_an_array_is_told_from_a_tensor(exported):
    with pytest.raises(TypeError, match=r"takes a tensor, got ndarray: give torch.as_tensor\(obs\)"):
        load_encoder(exported[1])(np.zeros((1, 6, 32, 32), np.uint8))


def test_a_missing_folder_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model.safetensors is missing\): curl-rl export RUN --out"):
        load_encoder(write_run(tmp_path / "run", []))
    with pytest.raises(FileNotFoundError, match=r"curl-rl export RUN --out"):
        load_encoder(tmp_path / "nowhere")


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    broken = trained_encoder()
    with torch.no_grad():
        broken.convs[0].bias[1] = torch.nan
    for encoder, config, obs_shape, message in (
        (trained_encoder(), CONFIG, (3, 32, 32), "stack as many frames"),
        (trained_encoder(), CONFIG, (6, 32, 30), "no crop or canvas"),
        (trained_encoder(), {**CONFIG, "feature_dim": 8}, (6, 32, 32), r"is \(7, \d+\) float32, by its .* \(8, "),
        (trained_encoder(), {"name": "paper"}, (6, 32, 32), "is in excess|is missing|by its description"),
        (broken, CONFIG, (6, 32, 32), r"convs.0.bias holds values that are not finite"),
        (trained_encoder().half(), CONFIG, (6, 32, 32), "float16, by its description"),
    ):
        with pytest.raises(ValueError, match=message):
            save_encoder(encoder, config, obs_shape, tmp_path / "enc")
    assert not (tmp_path / "enc").exists()


def test_images_of_any_shape_are_encoded_where_nothing_is_cut(tmp_path):
    encoder = trained_encoder((6, 28, 36))
    images = frames(2, 6, 28, 36)
    assert torch.equal(load_encoder(save_encoder(encoder, CONFIG, (6, 28, 36), tmp_path))(images), encoder(images))


def test_an_encoder_trained_on_translations_sees_images_in_the_middle_of_its_canvas(tmp_path):
    encoder = trained_encoder((6, 36, 36))
    loaded = load_encoder(save_encoder(encoder, CONFIG, (6, 32, 32), tmp_path))
    images = frames(2, 6, 32, 32)
    canvas = torch.zeros((2, 6, 36, 36), dtype=torch.uint8)
    canvas[:, :, 2:-2, 2:-2] = images
    assert torch.equal(loaded(images), encoder(canvas))
    for side in (31, 33, 36):  # images that fill the canvas have no black border: training never showed one
        with pytest.raises(ValueError, match=r"render or resize images to 32x32$"):
            loaded(frames(2, 6, side, side))


# Damages


def assert_all_refused(folder: Path, file: str, damages: Iterable[bytes]) -> None:
    """Check that a folder is refused, by name and with the mend, for every content of one of its files."""
    intact = (folder / file).read_bytes()
    message = rf"{folder / file} cannot be used: [^\n]*; export it again: curl-rl export RUN"
    for content in damages:
        assert content != intact
        (folder / file).write_bytes(content)
        with pytest.raises(EncoderError, match=message):
            load_encoder(folder)
    (folder / file).write_bytes(intact)
    assert load_encoder(folder)


def torn_and_flipped(content: bytes) -> Iterator[bytes]:
    for length in {*range(0, len(content), max(1, len(content) // 40)), len(content) - 1, 1, 7, 8, 9}:
        yield content[:length]
    for place in {*range(0, len(content), max(1, len(content) // 60)), *range(min(64, len(content)))}:
        for bit in (1, 32, 128):
            yield content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]
    yield content + b"0"
    yield content[::-1]


def other_values(value: Any) -> list[Any]:
    return [v for v in (None, True, "x", "", 10**9, -1, 0, 1.5, 2**63, [], [3], {}, {"a": 1}, math.nan) if v != value]


def sealed(folder: Path, described: dict[str, Any], weights: bytes | None = None) -> None:
    """Write a folder whose checksums hold, as a program of another's making could."""
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)
        described = described | {"weights": hashlib.sha256(weights).hexdigest()}
    checksum = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    (folder / "config.json").write_text(json.dumps(described | {"checksum": checksum}))


def description(folder: Path) -> dict[str, Any]:
    described = json.loads((folder / "config.json").read_text())
    del described["checksum"]
    return described


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_torn_or_flipped_file_never_loads(exported, file):
    folder = exported[1]
    content = (folder / file).read_bytes()
    assert_all_refused(folder, file, torn_and_flipped(content.rstrip() if file == "config.json" else content))


def test_another_value_of_any_key_never_loads(exported):
    folder = exported[1]
    described = json.loads((folder / "config.json").read_text())

    def damages() -> Iterator[bytes]:
        for key, value in described.items():
            yield json.dumps({name: v for name, v in described.items() if name != key}).encode()
            for other in other_values(value):
                yield json.dumps(described | {key: other}).encode()
        for key, value in described["encoder"].items():
            yield json.dumps(described | {"encoder": {n: v for n, v in CONFIG.items() if n != key}}).encode()
            for other in other_values(value):
                yield json.dumps(described | {"encoder": CONFIG | {key: other}}).encode()
        yield from (b"[]", b"null", b"7", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 5_000, b"\0" * 9)

    assert_all_refused(folder, "config.json", damages())


def test_a_description_that_does_not_fit_the_weights_is_refused_before_it_takes_memory(exported):
    folder = exported[1]
    described = description(folder)
    for changes in (
        {"encoder": CONFIG | {"feature_dim": 10**9}},  # a matrix of 1.3 TB
        {"encoder": CONFIG | {"feature_dim": 2**62}},
        {"encoder": CONFIG | {"filters": 10**6}},
        {"encoder": CONFIG | {"feature_dim": "7"}},
        {"encoder": CONFIG | {"feature_dim": -1}},
        {"encoder": {"name": "none"}},
        {"encoder": {}},
        {"input_shape": [6, 10**6, 10**6]},
        {"input_shape": [6, 4, 4]},
        {"input_shape": [12, 28, 28]},
        {"input_shape": None},
        {"input_shape": ["6", 28, 28]},
        {"obs_shape": [3, 32, 32]},
        {"obs_shape": [6]},
        {"obs_shape": 7},
    ):
        sealed(folder, described | changes)
        with pytest.raises(EncoderError, match=r"describes no encoder|by its description"):
            load_encoder(folder)
    for key in ("encoder", "input_shape", "obs_shape"):
        sealed(folder, {name: value for name, value in described.items() if name != key})
        with pytest.raises(EncoderError, match="describes no encoder"):
            load_encoder(folder)
    sealed(folder, {name: value for name, value in described.items() if name != "weights"})
    with pytest.raises(EncoderError, match=r"its checksum is not the one in config.json"):
        load_encoder(folder)


def test_weights_of_another_kind_are_refused(exported):
    encoder, folder = exported
    described, tensors = description(folder), dict(encoder.state_dict())
    name = "convs.0.weight"
    for changed, message in (
        (tensors | {name: tensors[name].to(torch.int8)}, r"convs.0.weight is .* int8, by its description .* float32"),
        (tensors | {name: tensors[name].half()}, "float16"),
        (tensors | {name: tensors[name][:, :3].clone()}, r"convs.0.weight is \(4, 3, 4, 4\)"),
        (tensors | {name: torch.full_like(tensors[name], torch.nan)}, "not finite"),
        (tensors | {name: torch.full_like(tensors[name], torch.inf)}, "not finite"),
        (tensors | {"more": torch.ones(1)}, "more is in excess"),
        ({key: value for key, value in tensors.items() if key != name}, "convs.0.weight is missing"),
        ({}, "is missing"),
    ):
        sealed(folder, described, safetensors.torch.save({key: value.contiguous() for key, value in changed.items()}))
        with pytest.raises(EncoderError, match=message):
            load_encoder(folder)
    for content in (b"", b"PK\3\4 no tensors", b"\xff" * 64):
        sealed(folder, described, content)
        with pytest.raises(EncoderError, match=r"model.safetensors cannot be used: "):
            load_encoder(folder)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_what_is_no_file_is_told(exported, file):
    path = exported[1] / file
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{file} is missing\): curl-rl export RUN"):
        load_encoder(exported[1])
    os.mkfifo(path)  # which would block a reader for ever
    with pytest.raises(FileNotFoundError, match=f"{file} is no file"):
        load_encoder(exported[1])
    path.unlink()
    path.mkdir()
    with pytest.raises(FileNotFoundError, match=f"{file} is no file"):
        load_encoder(exported[1])


def test_loading_draws_no_random_number(exported):
    before = torch.get_rng_state()
    load_encoder(exported[1])
    assert torch.equal(torch.get_rng_state(), before)


# Writing


def test_what_was_trained_in_a_folder_is_not_written_over(exported, tmp_path):
    trained = tmp_path / "trained"
    save_encoder(trained_encoder(), CONFIG, (6, 32, 32), trained, training=True)
    (trained / "training").mkdir()
    before = (trained / "config.json").read_bytes()
    for write in (
        lambda: save_encoder(exported[0], CONFIG, (6, 32, 32), trained),
        lambda: copy_encoder(exported[1], trained),
    ):
        with pytest.raises(FileExistsError, match="holds an encoder and what trained it: give another --out"):
            write()
    assert (trained / "config.json").read_bytes() == before
    assert cli.main(["export", str(exported[1]), "--out", str(trained)]) == 1


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_files_follow_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        folder = save_encoder(trained_encoder(), CONFIG, (6, 32, 32), tmp_path / "enc")
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "config.json": mode,
        "model.safetensors": mode,
    }


def test_a_full_disk_leaves_the_old_export(exported):
    old, folder = exported
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (0, 100, len(before["model.safetensors"])):  # of which the last lets the weights through
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            with pytest.raises(WriteError, match=r"cannot write .*: File too large; free space"):
                save_encoder(trained_encoder(), CONFIG, (6, 32, 32), folder, more="x" * 9_000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    images = frames(1, 6, 28, 28)
    assert torch.equal(load_encoder(folder)(images), old(images))


def test_a_kill_between_the_two_files_mixes_no_exports(exported, monkeypatch):
    folder, replace = exported[1], os.replace

    def die(source, target):
        replace(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        save_encoder(trained_encoder(), CONFIG, (6, 32, 32), folder)
    monkeypatch.undo()
    with pytest.raises(EncoderError, match=r"its checksum is not the one in config.json; export it again"):
        load_encoder(folder)
    save_encoder(trained_encoder(), CONFIG, (6, 32, 32), folder)
    assert load_encoder(folder)


def test_nothing_else_is_overwritten(tmp_path):
    def save(out: Path) -> Path:
        return save_encoder(trained_encoder(), CONFIG, (6, 32, 32), out)

    (tmp_path / "file").write_text("mine")
    run = write_run(tmp_path / "run", [trained_encoder()])
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "eval.csv").touch()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "model.safetensors").symlink_to(tmp_path / "file")
    for out, message in (
        (tmp_path / "file", "is a file, no folder"),
        (tmp_path / "file" / "below", "file is a file, no folder"),
        (run, "perhaps a run's"),
        (tmp_path / "gone", "is a run directory: give another --out"),
        (tmp_path / "linked", "a link is in the way"),
    ):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(OSError, match=message):
            save(out)
        assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "mine"
    assert load_encoder(save(run / "enc"))


def write_run(run_dir: Path, encoders, *, obs="pixels", augmentation="crop") -> Path:
    run_dir.mkdir()
    configuration = {
        "task": "dmc/walker_walk",
        "seed": 1,
        "budget_frames": 100,
        "objective": {},
        "replay": {},
        "evaluation": {"episodes": 1, "final_episodes": 0},
        "encoder": CONFIG if obs == "pixels" else {"name": "state", "feature_dim": 8},
        "env": {"image_size": 32, "frame_stack": 2, "obs": obs},
        "agent": {},
        "augmentation": {"name": augmentation} | {"crop": {"size": 28}, "translate": {"pad": 2}}.get(augmentation, {}),
    }
    (run_dir / "config.json").write_text(json.dumps(configuration))
    checkpoints = Checkpoints(run_dir / "checkpoints")
    for step, encoder in enumerate(encoders, 1):
        checkpoints.save(
            step, {"agent": {"learner": {"encoder": encoder.state_dict()}}, "clock": [step, 4 * step, step]}
        )
    return run_dir


def test_a_run_exports_its_newest_encoder(tmp_path):
    old, new = trained_encoder(), trained_encoder()
    loaded = load_encoder(export_run(write_run(tmp_path / "run", [old, new]), tmp_path / "enc"))
    images = frames(2, 6, 32, 32)
    assert torch.equal(loaded(images), new(center_crop(images, 28)))
    assert loaded.obs_shape == (6, 32, 32)
    described = json.loads((tmp_path / "enc" / "config.json").read_text())
    assert (described["task"], described["trained_frames"]) == ("dmc/walker_walk", 8)


@pytest.mark.parametrize("augmentation", ["shift", "cutout", "color_jitter", "none"])
def test_an_encoder_trained_without_crops_sees_whole_frames(augmentation, tmp_path):
    encoder = trained_encoder((6, 32, 32))
    run_dir = write_run(tmp_path / "run", [encoder], augmentation=augmentation)
    images = frames(2, 6, 32, 32)
    assert torch.equal(load_encoder(export_run(run_dir, tmp_path / "enc"))(images), encoder(images))


def test_a_run_of_translations_exports_too(tmp_path):
    encoder = trained_encoder((6, 36, 36))
    run_dir = write_run(tmp_path / "run", [encoder], augmentation="translate")
    loaded, images = load_encoder(export_run(run_dir, tmp_path / "enc")), frames(2, 6, 32, 32)
    assert (loaded.obs_shape, loaded.encoder.obs_shape) == ((6, 32, 32), (6, 36, 36))
    assert torch.equal(loaded(images), encoder(center_fit(images, 36)))


def test_a_run_from_states_exports_too(tmp_path):
    encoder = make_encoder(encoder_config("state", feature_dim=8), (5,))
    loaded = load_encoder(export_run(write_run(tmp_path / "run", [encoder], obs="state"), tmp_path / "enc"))
    assert loaded.obs_shape == (5,)
    assert torch.equal(loaded(torch.ones(1, 5)), encoder(torch.ones(1, 5)))


def test_a_torn_checkpoint_exports_the_one_before(tmp_path, capsys):
    old, new = trained_encoder(), trained_encoder()
    run_dir = write_run(tmp_path / "run", [old, new])
    newest = max((run_dir / "checkpoints").glob("state-*"))
    newest.write_bytes(newest.read_bytes()[:-9])
    loaded = load_encoder(export_run(run_dir, tmp_path / "enc"))
    images = frames(2, 6, 28, 28)
    assert torch.equal(loaded(images), old(images))
    assert "using checkpoint 1" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run directory"):
        export_run(tmp_path, tmp_path / "enc")
    with pytest.raises(FileNotFoundError, match="no checkpoint yet: train it with `curl-rl train run_dir="):
        export_run(write_run(tmp_path / "run", []), tmp_path / "enc")
    run_dir = write_run(tmp_path / "torn", [trained_encoder()])
    for path in (run_dir / "checkpoints").glob("state-*"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        export_run(run_dir, tmp_path / "enc")
    assert not (tmp_path / "enc").exists()


def test_a_run_whose_checkpoints_are_gone_is_not_told_to_train(tmp_path):
    run_dir = write_run(tmp_path / "run", [trained_encoder()])
    (run_dir / "eval.csv").write_text("agent_step,frame\n100,400\n")
    shutil.rmtree(run_dir / "checkpoints")
    with pytest.raises(FileNotFoundError, match=r"the checkpoints of .* were deleted, .*from a copy, or .*another"):
        export_run(run_dir, tmp_path / "enc")
    assert (run_dir / "eval.csv").read_text() == "agent_step,frame\n100,400\n"


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder": CONFIG | {"feature_dim": 10**9}},
        {"encoder": CONFIG | {"filters": 5}},
        {"encoder": {"name": "paper"}},
        {"encoder": {}},
        {"env": {"image_size": 64, "obs": "pixels"}, "augmentation": {"name": "none"}},
        {"env": {"obs": "state"}},
        {"env": {}},
        {"augmentation": {}},
        {"augmentation": {"name": "crop", "pad": 2}},
    ],
)
def test_a_configuration_of_another_run_is_refused(tmp_path, changes):
    run_dir = write_run(tmp_path / "run", [trained_encoder()])
    configuration = json.loads((run_dir / "config.json").read_text())
    (run_dir / "config.json").write_text(json.dumps(configuration | changes))
    with pytest.raises(ConfigError, match=r"does not hold the encoder of its config.json \(.*\): put back what"):
        export_run(run_dir, tmp_path / "enc")
    assert not (tmp_path / "enc").exists()


def modules_after(code: str) -> set[str]:
    code += "; import sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_importing_the_package_is_cheap_and_taking_an_encoder_loads_no_simulator():
    assert not modules_after("import curl_rl") & {"torch", "numpy", "gymnasium"}
    taken = modules_after("from curl_rl import load_encoder")
    assert "torch" in taken
    assert not taken & {"envs", "gymnasium", "mujoco", "dm_control", "ale_py", "hydra"}


def test_the_package_has_no_other_names():
    assert curl_rl.load_encoder is load_encoder
    with pytest.raises(AttributeError, match="no attribute 'load_encoders'"):
        curl_rl.load_encoders  # noqa: B018
