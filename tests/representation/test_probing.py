"""Probing: what stands beside, what is measured once, what is refused, and that encoders stay as they are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from curl_rl import cli
from curl_rl.nn.encoders import encoder_config, make_encoder
from curl_rl.representation.export import load_encoder, save_encoder
from curl_rl.representation.frames.base import Frames, numbered
from curl_rl.representation.probes import choose
from curl_rl.representation.probing.measure import of_one, probe, probe_folders
from curl_rl.representation.probing.options import compose_probing
from curl_rl.representation.probing.picture import neighbours_picture
from curl_rl.representation.tap import Tap
from curl_rl.run.measurements import read_rows
from curl_rl.types import ConfigError

SIDE = 16
KIND = "untrained small 3x16x16 feature_dim=8 filters=4"


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


def options(data, *overrides, probes=()):
    quick = [text for text in QUICK if not probes or text.partition(".")[0] in probes]
    return compose_probing([f"data={data}", *quick, *overrides])


def test_pixels_and_untrained_encoders_stand_beside_and_all_is_measured_once(tmp_path, data):
    folders = [write_encoder(tmp_path / name, seed) for seed, name in enumerate(("byol-seed1", "byol-seed2", "other"))]
    before = {folder: (folder / "model.safetensors").read_bytes() for folder in folders}
    out = tmp_path / "out"
    table = probe_folders(folders, out, options(data), seeds=2)
    rows = read_rows(table)
    assert list(dict.fromkeys(row["encoder"] for row in rows)) == [
        "pixels", f"{KIND}-seed1", f"{KIND}-seed2", "byol-seed1", "byol-seed2", "other"
    ]  # fmt: skip
    assert {row["subject"] for row in rows} == {"pixels", KIND, "byol", "other"}
    assert {row["probe"] for row in rows} == {
        "geometry", "linear", "low_shot", "nearest_states", "neighbours", "retrieval", "ridge", "same_episode"
    }  # fmt: skip
    assert {row["layer"] for row in rows if row["subject"] == "byol"} == {"features", "map"}
    assert {row["seed"] for row in rows if row["encoder"] == f"{KIND}-seed2"} == {"2"}
    assert {row["seed"] for row in rows if row["encoder"] == "other"} == {"1", "2"}
    assert len({row["weights"] for row in rows}) == 4  # none of the pixels; two began as the untrained ones
    assert all(row["command"] and row["hardware"] for row in rows)
    assert sorted(path.name for path in (out / "pictures").iterdir()) == [
        "byol.png", "other.png", "pixels.png", f"{KIND}.png"
    ]  # fmt: skip
    assert before == {folder: (folder / "model.safetensors").read_bytes() for folder in folders}


def test_going_on_measures_what_is_missing_alone(tmp_path, data, monkeypatch):
    folder, out = write_encoder(tmp_path / "enc", 0), tmp_path / "out"
    whole = read_rows(
        probe_folders([folder], tmp_path / "whole", options(data, probes=["linear"]), seeds=2, probes=["linear"])
    )
    probe_folders([folder], out, options(data, probes=["linear"]), seeds=1, probes=["linear"])
    asked = []
    measure = type(choose(["linear"], {"classes"}, "x")[0]).measure
    monkeypatch.setattr(
        "curl_rl.representation.probes.linear.Linear.measure",
        lambda self, subject, layer, seed: (
            asked.append((subject.name, layer, seed)) or measure(self, subject, layer, seed)
        ),
    )
    rows = read_rows(probe_folders([folder], out, options(data, probes=["linear"]), seeds=2, probes=["linear"]))
    assert asked == [
        ("pixels", "features", 2), *((f"{KIND}-seed2", layer, 2) for layer in ("features", "map")),
        *(("enc", layer, 2) for layer in ("features", "map")),
    ]  # fmt: skip

    def found(rows):
        return sorted((row["encoder"], row["layer"], row["seed"], row["value"]) for row in rows)

    assert found(rows) == found(whole)
    write_encoder(folder, 5)  # other weights, the same name: its numbers alone are made anew, in their place
    asked.clear()
    rows = read_rows(probe_folders([folder], out, options(data, probes=["linear"]), seeds=2, probes=["linear"]))
    assert {name for name, *_ in asked} == {"enc"}
    assert len(rows) == len(whole)


def test_features_that_are_the_map_are_measured_once(tmp_path, monkeypatch):
    large = recording()
    large["frames"] = large["frames"].repeat(3, 2).repeat(3, 3)
    np.savez(tmp_path / "rec.npz", **large)
    (ridge,), asked = choose(("ridge",), {"states", "episodes", "order"}, "here"), list[tuple[str, str]]()
    measure = type(ridge).measure
    monkeypatch.setattr(
        type(ridge),
        "measure",
        lambda self, subject, layer, seed: asked.append((subject.name, layer)) or measure(self, subject, layer, seed),
    )
    encoder = make_encoder(encoder_config("canonical"), (3, 48, 48))
    rows = [row for _, rows in probe({"enc": encoder}, tmp_path / "rec.npz", probes=[ridge], seeds=1) for row in rows]
    assert asked == [("pixels", "features"), ("untrained canonical 3x48x48-seed1", "features"), ("enc", "features")]
    told = {
        layer: [row["value"] for row in rows if (row["encoder"], row["layer"]) == ("enc", layer)]
        for layer in ("features", "map")
    }
    assert len(told["features"]) == 3
    assert told["map"] == told["features"]


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
    assert names == ["pixels", "untrained Sequential 4 3x16x16-seed1", "untrained Sequential 4 3x16x16-seed2", "mine"]
    features = {subject.name: subject.of("features") for subject, _ in found[1:]}
    assert not torch.equal(features["mine"], features["untrained Sequential 4 3x16x16-seed1"])
    assert not torch.equal(
        features["untrained Sequential 4 3x16x16-seed1"], features["untrained Sequential 4 3x16x16-seed2"]
    )
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
        probe_folders([folder], tmp_path / "out", options(data, probes=["dense"]), probes=["dense"])
    with pytest.raises(ConfigError, match="unknown probe"):
        probe_folders([folder], tmp_path / "out", options(data, probes=["lineal"]), probes=["lineal"])
    big = tmp_path / "big.npz"
    np.savez(big, frames=np.zeros((8, 3, 20, 20), np.uint8))
    with pytest.raises(ConfigError, match=r"enc does not take .*big\.npz.* render or resize images to 16x16"):
        probe_folders([folder], tmp_path / "out", options(big, probes=["geometry"]))
    assert not (tmp_path / "out" / "probe.csv").exists()
    probe_folders([folder], tmp_path / "out", options(data, probes=["linear"]), seeds=1, probes=["linear"])
    other = tmp_path / "other.npz"
    np.savez(other, **recording(seed=1))
    with pytest.raises(ConfigError, match=r"is of other frames .* give another --out"):
        probe_folders([folder], tmp_path / "out", options(other, probes=["linear"]), seeds=1, probes=["linear"])


def test_the_command_writes_table_and_page(tmp_path, data, capsys):
    folder, out = write_encoder(tmp_path / "enc", 0), tmp_path / "out"
    arguments = ["probe", str(folder), "--data", str(data), "--out", str(out), "--seeds", "2", "ridge.folds=3"]
    assert cli.main([*arguments, "--probes", "linear", "ridge"]) == 0
    assert f"wrote {out / 'index.html'}" in capsys.readouterr().out
    page = (out / "index.html").read_text()
    assert 'src="data:image/png;base64,' in page
    assert "features r2" in page
    assert (out / "tables" / "probe_linear.md").is_file()
    assert cli.main([*arguments, "--probes", "linear", "ridge"]) == 0  # in its own place again
    assert cli.main(["probe", "--data", str(data), "--out", str(out), "classes=folder"]) == 2
    assert "give an encoder's folder" in capsys.readouterr().err


def test_a_row_tells_the_command_of_its_own_encoder():
    command = "curl-rl probe runs/a runs/b/ 'runs/the c' --data runs/play --out out --seeds 3 ridge.folds=3"
    folders = [Path("runs/a"), Path("runs/b"), Path("runs/the c")]
    assert of_one(command, folders, folders[2]) == (
        "curl-rl probe 'runs/the c' --data runs/play --out out --seeds 3 ridge.folds=3"
    )
    assert of_one("python mine.py", folders, folders[0]) == "python mine.py"


def write_kind(path, filters: int, seed: int = 0):
    torch.manual_seed(seed)
    config = {"name": "small", "filters": filters, "feature_dim": 8}
    return save_encoder(make_encoder(encoder_config(**config), (3, SIDE, SIDE)), config, (3, SIDE, SIDE), path)


def test_each_kind_has_an_untrained_control_of_its_own_in_one_call_or_two(tmp_path, data):
    wide, narrow = (write_kind(tmp_path / name, filters) for name, filters in (("wide", 8), ("narrow", 4)))
    at_once = read_rows(
        probe_folders([wide, narrow], tmp_path / "one", options(data, probes=["ridge"]), seeds=2, probes=["ridge"])
    )
    for folder in (wide, narrow):
        table = probe_folders([folder], tmp_path / "two", options(data, probes=["ridge"]), seeds=2, probes=["ridge"])

    def found(rows):
        return {(row["encoder"], row["kind"], row["layer"], row["quantity"], row["seed"]): row["value"] for row in rows}

    assert found(read_rows(table)) == found(at_once)
    controls = {name: value for name, value in found(at_once).items() if name[0].startswith("untrained")}
    assert {name[1] for name in controls} == {f"small 3x16x16 feature_dim=8 filters={count}" for count in (4, 8)}
    assert len(set(controls.values())) == len(controls)


def test_an_encoder_with_other_weights_leaves_nothing_of_the_old_ones(tmp_path, data):
    folder, out = write_encoder(tmp_path / "enc", 0), tmp_path / "out"
    probe_folders([folder], out, options(data, probes=["linear", "ridge"]), seeds=1, probes=["linear", "ridge"])
    old = (out / "pictures" / "enc.png").read_bytes()
    write_encoder(folder, 5)
    rows = read_rows(probe_folders([folder], out, options(data, probes=["linear"]), seeds=1, probes=["linear"]))
    assert {row["probe"] for row in rows if row["encoder"] == "enc"} == {"linear"}
    assert {row["probe"] for row in rows if row["encoder"] == "pixels"} == {"linear", "ridge"}
    assert (out / "pictures" / "enc.png").read_bytes() != old


class Token(nn.Module):
    """A network with a parameter that nothing initialises."""

    def __init__(self):
        super().__init__()
        self.token, self.last = nn.Parameter(torch.randn(1)), nn.Linear(3 * SIDE * SIDE, 4)

    def forward(self, x):
        return self.last(x.flatten(1)) + self.token


class Restless(nn.Module):
    """A network whose weights move as it runs."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(3 * SIDE * SIDE, 4)

    def forward(self, x):
        with torch.no_grad():
            self.last.weight.add_(1e-3)
        return self.last(x.flatten(1))


@pytest.mark.parametrize(
    ("name", "net", "message"),
    [
        ("mine", Token, r"Token \(the whole\) has token and no reset_parameters\(\); give its class one"),
        ("mine", Restless, "untrained Restless 3x16x16-seed1 was to stay as it is and has changed"),
        ("pixels", Token, "an encoder is called pixels, as what stands beside is: rename it"),
        ("untrained-2", Token, "an encoder is called untrained-2"),
    ],
    ids=["token", "restless", "pixels", "untrained"],
)
def test_networks_that_cannot_be_probed(name, net, message):
    known = recording()
    frames = Frames(torch.from_numpy(known["frames"]), source="rec", episode=numbered([5] * 12))
    tap = Tap(net()).see((3, SIDE, SIDE))
    with pytest.raises(ConfigError, match=message):
        list(probe({name: tap}, frames, seeds=1))


@pytest.mark.parametrize(
    ("overrides", "probes", "message"),
    [
        (["stack=2"], (), "an encoder takes as many frames as it was trained on: leave stack out"),
        (["ridge.folds=4"], ["linear"], "ridge.folds has no effect on this probe, which does without ridge"),
        (["ridge.folds=20"], (), r"ridge.folds=20 needs as many episodes, and .*rec.npz has 12: set ridge.folds=12"),
    ],
    ids=["stack", "idle", "folds"],
)
def test_options_that_cannot_be_honoured(tmp_path, data, overrides, probes, message):
    folder = write_encoder(tmp_path / "enc", 0)
    with pytest.raises(ConfigError, match=message):
        probe_folders([folder], tmp_path / "out", compose_probing([f"data={data}", *overrides]), probes=probes)
    assert not (tmp_path / "out" / "probe.csv").exists()
