"""Probing: what stands beside, what is measured once, what is refused, and that encoders stay as they are."""

import numpy as np
import pytest
import torch
from torch import nn

from curl_rl import cli
from curl_rl.nn.encoders import encoder_config, make_encoder
from curl_rl.representation.export import load_encoder, save_encoder
from curl_rl.representation.frames.base import Frames, numbered
from curl_rl.representation.probes import choose
from curl_rl.representation.probing.measure import probe, probe_folders
from curl_rl.representation.probing.options import compose_probing
from curl_rl.representation.probing.picture import neighbours_picture
from curl_rl.representation.tap import Tap
from curl_rl.run.measurements import read_rows
from curl_rl.types import ConfigError

SIDE = 16


def recording(episodes: int = 12, length: int = 5, seed: int = 0) -> dict[str, np.ndarray]:
    """A dot that wanders, its place as the state, its half as the class."""
    rng = np.random.default_rng(seed)
    place = rng.integers(2, SIDE - 2, (episodes, length, 2))
    frames = np.zeros((episodes * length, 3, SIDE, SIDE), np.uint8)
    for i, (row, column) in enumerate(place.reshape(-1, 2)):
        frames[i, :, row - 1 : row + 2, column - 1 : column + 2] = 255
    ends = np.tile(np.arange(length) == length - 1, episodes)
    halves = (place.reshape(-1, 2)[:, 1] >= SIDE // 2).astype(np.int64)
    classes = np.repeat(halves[::length], length)  # of an episode
    return {"frames": frames, "ends": ends, "classes": classes, "states": place.reshape(-1, 2).astype(np.float32)}


@pytest.fixture
def data(tmp_path):
    np.savez(tmp_path / "rec.npz", **recording())
    return tmp_path / "rec.npz"


def write_encoder(path, seed: int, stack: int = 1):
    torch.manual_seed(seed)
    config = {"name": "small", "filters": 4, "feature_dim": 8}
    shape = (3 * stack, SIDE, SIDE)
    return save_encoder(make_encoder(encoder_config(**config), shape), config, shape, path)


QUICK = ["geometry.count=32", "geometry.pad=1", "ridge.folds=3"]


def options(data, *overrides):
    return compose_probing([f"data={data}", *QUICK, *overrides])


def test_pixels_and_untrained_encoders_stand_beside_and_all_is_measured_once(tmp_path, data):
    folders = [write_encoder(tmp_path / name, seed) for seed, name in enumerate(("byol-seed1", "byol-seed2", "other"))]
    before = {folder: (folder / "model.safetensors").read_bytes() for folder in folders}
    out = tmp_path / "out"
    table = probe_folders(folders, out, options(data), seeds=2)
    rows = read_rows(table)
    assert list(dict.fromkeys(row["encoder"] for row in rows)) == [
        "pixels", "untrained-seed1", "untrained-seed2", "byol-seed1", "byol-seed2", "other"
    ]  # fmt: skip
    assert {row["subject"] for row in rows} == {"pixels", "untrained", "byol", "other"}
    assert {row["probe"] for row in rows} == {
        "geometry",
        "linear",
        "low_shot",
        "nearest_states",
        "neighbours",
        "retrieval",
        "ridge",
    }
    assert {row["layer"] for row in rows if row["subject"] == "byol"} == {"features", "map"}
    assert {row["seed"] for row in rows if row["encoder"] == "untrained-seed2"} == {"2"}
    assert {row["seed"] for row in rows if row["encoder"] == "other"} == {"1", "2"}
    assert len({row["weights"] for row in rows}) == 4  # none, and three that were trained
    assert all(row["command"] and row["hardware"] for row in rows)
    assert sorted(path.name for path in (out / "pictures").iterdir()) == [
        "byol.png", "other.png", "pixels.png", "untrained.png"
    ]  # fmt: skip
    assert before == {folder: (folder / "model.safetensors").read_bytes() for folder in folders}


def test_going_on_measures_what_is_missing_alone(tmp_path, data, monkeypatch):
    folder, out = write_encoder(tmp_path / "enc", 0), tmp_path / "out"
    whole = read_rows(probe_folders([folder], tmp_path / "whole", options(data), seeds=2, probes=["linear"]))
    probe_folders([folder], out, options(data), seeds=1, probes=["linear"])
    asked = []
    measure = type(choose(["linear"], {"classes"}, "x")[0]).measure
    monkeypatch.setattr(
        "curl_rl.representation.probes.linear.Linear.measure",
        lambda self, subject, layer, seed: (
            asked.append((subject.name, layer, seed)) or measure(self, subject, layer, seed)
        ),
    )
    rows = read_rows(probe_folders([folder], out, options(data), seeds=2, probes=["linear"]))
    assert asked == [
        ("pixels", "features", 2), *(("untrained-seed2", layer, 2) for layer in ("features", "map")),
        *(("enc", layer, 2) for layer in ("features", "map")),
    ]  # fmt: skip

    def found(rows):
        return sorted((row["encoder"], row["layer"], row["seed"], row["value"]) for row in rows)

    assert found(rows) == found(whole)
    write_encoder(folder, 5)  # other weights, the same name: its numbers alone are made anew, in their place
    asked.clear()
    rows = read_rows(probe_folders([folder], out, options(data), seeds=2, probes=["linear"]))
    assert {name for name, *_ in asked} == {"enc"}
    assert len(rows) == len(whole)


def test_frames_are_stacked_as_the_encoder_takes_them(tmp_path, data):
    folder = write_encoder(tmp_path / "enc", 0, stack=2)
    seen = []
    module = load_encoder(folder)
    conv = module.encoder.conv
    module.encoder.conv = lambda obs: seen.append(tuple(obs.shape[1:])) or conv(obs)
    frames = Frames(
        torch.from_numpy(recording()["frames"]), source="rec", episode=numbered([5] * 12), ordered=True,
        state=torch.from_numpy(recording()["states"]),
    )  # fmt: skip
    list(probe({"enc": module}, frames, seeds=1))
    assert set(seen) == {(6, SIDE, SIDE)}
    unordered = Frames(torch.from_numpy(recording()["frames"]), source="single images")
    with pytest.raises(ConfigError, match=r"enc does not take single images: .* stack as many frames"):
        list(probe({"enc": module}, unordered, seeds=1))


def test_a_network_of_ones_own_is_probed_and_untrained_beside():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 6))
    tap = Tap(net.train(), layer="4").see((3, SIDE, SIDE))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    known = recording()
    frames = Frames(
        torch.from_numpy(known["frames"]), source="rec", classes=torch.from_numpy(known["classes"]),
        episode=numbered([5] * 12),
    )  # fmt: skip
    found = list(probe({"mine": tap}, frames, seeds=2, probes=choose(["linear"], frames.gives, "rec")))
    names = [subject.name for subject, _ in found]
    assert names == ["pixels", "untrained-seed1", "untrained-seed2", "mine"]
    features = {subject.name: subject.of("features") for subject, _ in found[1:]}
    assert not torch.equal(features["mine"], features["untrained-seed1"])
    assert not torch.equal(features["untrained-seed1"], features["untrained-seed2"])
    after = net.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert net.training


def test_the_picture_shows_what_is_nearest_of_other_episodes():
    images = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 1, 4, 4) * 10
    frames = Frames(images.contiguous(), source="x", episode=torch.tensor([0, 0, 1, 1, 2, 2]))
    angle = torch.tensor([0.0, 0.01, 0.1, 1.0, 1.2, 3.0])
    sheet = neighbours_picture(frames, torch.stack((angle.cos(), angle.sin()), 1), seed=0)
    side = 84 + 4
    assert sheet.shape == (1, 6 * side, 7 * side)
    shown = sheet[0, side // 2 :: side, side // 2 :: side] // 10
    row = next(row for row in shown.tolist() if row[0] == 0)
    assert row[1:5] == [2, 3, 4, 5]  # 1 is of its own episode, though nearest


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rigde.folds=3"], "ridge.folds"),
        (["ridge.folds=1"], "at least 3"),
        (["classes=name"], "folder"),
        (["low_shot.labels=[0]"], "at least 1"),
    ],
    ids=["name", "bound", "word", "list"],
)
def test_wrong_options_are_refused(tmp_path, data, overrides, message, capsys):
    folder = write_encoder(tmp_path / "enc", 0)
    status = cli.main(["probe", str(folder), "--data", str(data), "--out", str(tmp_path / "out"), *overrides])
    error = capsys.readouterr().err
    assert status == 2
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "probe.csv").exists()


def test_what_does_not_fit_is_refused_before_anything_is_measured(tmp_path, data):
    folder = write_encoder(tmp_path / "enc", 0)
    (tmp_path / "two").mkdir()
    twin = write_encoder(tmp_path / "two" / "enc", 1)
    with pytest.raises(ConfigError, match="two encoders are called enc: rename"):
        probe_folders([folder, twin], tmp_path / "out", options(data))
    with pytest.raises(ConfigError, match="probe dense needs labels"):
        probe_folders([folder], tmp_path / "out", options(data), probes=["dense"])
    with pytest.raises(ConfigError, match="unknown probe"):
        probe_folders([folder], tmp_path / "out", options(data), probes=["lineal"])
    big = tmp_path / "big.npz"
    np.savez(big, frames=np.zeros((8, 3, 20, 20), np.uint8))
    with pytest.raises(ConfigError, match=r"enc does not take .*big\.npz.* render or resize images to 16x16"):
        probe_folders([folder], tmp_path / "out", options(big))
    assert not (tmp_path / "out" / "probe.csv").exists()
    probe_folders([folder], tmp_path / "out", options(data), seeds=1, probes=["linear"])
    other = tmp_path / "other.npz"
    np.savez(other, **recording(seed=1))
    with pytest.raises(ConfigError, match=r"is of other frames .* give another --out"):
        probe_folders([folder], tmp_path / "out", options(other), seeds=1, probes=["linear"])


def test_the_command_writes_table_and_page(tmp_path, data, capsys):
    folder, out = write_encoder(tmp_path / "enc", 0), tmp_path / "out"
    arguments = ["probe", str(folder), "--data", str(data), "--out", str(out), "--seeds", "2", *QUICK]
    assert cli.main([*arguments, "--probes", "linear", "ridge"]) == 0
    assert f"wrote {out / 'index.html'}" in capsys.readouterr().out
    page = (out / "index.html").read_text()
    assert 'src="data:image/png;base64,' in page
    assert "features r2" in page
    assert (out / "tables" / "probe_linear.md").is_file()
    assert cli.main([*arguments, "--probes", "linear", "ridge"]) == 0  # in its own place again
    assert cli.main(["probe", "--data", str(data), "--out", str(out), "classes=folder"]) == 2
    assert "give an encoder's folder" in capsys.readouterr().err
