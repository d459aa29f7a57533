"""An encoder as an ONNX file gives torch's features for any batch, says what it is, and is refused where it cannot."""

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import curl_rl
from curl_rl import cli
from curl_rl.adapters import onnx as adapter
from curl_rl.adapters.onnx import write_onnx
from curl_rl.nn.encoders import ENCODERS, Encoder, encoder_config, make_encoder
from curl_rl.representation.export import EncoderError, ExportedEncoder, load_encoder, save_encoder
from curl_rl.representation.tap import Tap

PIXELS = sorted(name for name, cls in ENCODERS.items() if cls.pixels)
CONFIG = {"name": "strided", "feature_dim": 6, "filters": 4}


def moved(encoder: Encoder) -> Encoder:
    """Return an encoder whose weights are not those of a start, biases and norms included."""
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    return encoder


def exported(name: str, seen=(3, 44, 44), given=(3, 44, 44), **fields: Any) -> ExportedEncoder:
    torch.manual_seed(0)
    return ExportedEncoder(moved(make_encoder(encoder_config(name, **fields), seen)), given)


def frames(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8)


def features(path, obs: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(["features"], {"obs": obs.numpy()})
    return found


def assert_same(path, encoder: ExportedEncoder, counts=(1, 4, 7)) -> None:
    for count in counts:
        obs = frames(count, *encoder.obs_shape)
        found, expected = features(path, obs), encoder.eval()(obs).detach().numpy()
        assert (found.shape, found.dtype) == ((count, encoder.feature_dim), np.float32)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("seen", "given"),
    [((3, 44, 44), (3, 44, 44)), ((3, 44, 44), (3, 49, 49)), ((3, 44, 44), (3, 41, 41))],
    ids=["whole", "crop", "canvas"],
)
@pytest.mark.parametrize("name", PIXELS)
def test_every_encoder_gives_torchs_features(name, seen, given, tmp_path):
    encoder = exported(name, seen, given)
    assert_same(write_onnx(encoder, tmp_path / "model.onnx"), encoder)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "data_efficient", "padding": 8, "stretch": True},
        {"name": "canonical", "padded": True},
        {"name": "impala", "feature_dim": 0, "stretch": True},
    ],
    ids=lambda fields: fields["name"],
)
def test_options_that_change_the_graph_are_in_it(fields, tmp_path):
    encoder = exported(**fields)
    assert_same(write_onnx(encoder, tmp_path / "model.onnx"), encoder)


def test_of_large_features_the_largest_counts(tmp_path):
    encoder = exported("impala")
    with torch.no_grad():
        for parameter in encoder.encoder.convs.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    obs = frames(4, *encoder.obs_shape)
    found = features(write_onnx(encoder, tmp_path / "model.onnx"), obs)
    expected = encoder(obs).detach().numpy()
    assert np.abs(expected).max() > 30
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_states_are_encoded_too(tmp_path):
    encoder = exported("state", (5,), (5,))
    states = torch.randn(4, 5)
    found = features(write_onnx(encoder, tmp_path / "model.onnx"), states)
    np.testing.assert_allclose(found, encoder(states).detach().numpy(), rtol=0, atol=1e-5)


class Net(nn.Module):
    """A network with what behaves otherwise in training."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 81, 8), nn.Linear(8, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(x))


@pytest.mark.parametrize("layer", ["head.1", "trunk", ""], ids=["inside", "map", "whole"])
def test_a_users_network_is_written_up_to_its_layer_and_left_as_it_was(layer, tmp_path):
    torch.manual_seed(0)
    net = Net()
    encoder = ExportedEncoder(
        Tap(net, layer=layer, prepare=lambda obs: obs.float() / 128 - 1).see((3, 19, 19)), (3, 19, 19)
    )
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    path = write_onnx(encoder, tmp_path / "model.onnx")
    assert all(part.training for part in net.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert_same(path, encoder)


def test_an_encoder_in_bfloat16_is_written_in_float32(tmp_path):
    encoder = exported("strided")
    encoder.encoder.bf16 = True
    path = write_onnx(encoder, tmp_path / "model.onnx")
    assert encoder.encoder.bf16
    encoder.encoder.bf16 = False
    assert_same(path, encoder)


def test_the_file_says_what_it_is(tmp_path):
    encoder = exported("strided", given=(3, 50, 50), feature_dim=6, filters=4)
    folder = save_encoder(encoder.encoder, CONFIG, (3, 50, 50), tmp_path / "enc")
    model = onnx.load(write_onnx(folder, tmp_path / "model.onnx"))
    assert {prop.key: prop.value for prop in model.metadata_props} == {
        "obs_shape": "[3, 50, 50]",
        "feature_dim": "6",
        "weights": json.loads((folder / "config.json").read_text())["weights"],
        "version": curl_rl.__version__,
    }
    onnx.checker.check_model(model, full_check=True)
    shapes = [
        [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert shapes == [["batch", 3, 50, 50], ["batch", 6]]
    kinds = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    assert kinds == [onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT]


_READER = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
numpy.save(sys.argv[3], session.run(None, {"obs": numpy.load(sys.argv[2])})[0])
assert "torch" not in sys.modules and "curl_rl" not in sys.modules
"""


def test_another_process_needs_neither_torch_nor_this_package(tmp_path):
    encoder = exported("data_efficient", (4, 84, 84), (4, 84, 84))
    path, obs = write_onnx(encoder, tmp_path / "model.onnx"), frames(3, 4, 84, 84)
    np.save(tmp_path / "obs.npy", obs.numpy())
    subprocess.run([sys.executable, "-c", _READER, path, tmp_path / "obs.npy", tmp_path / "out.npy"], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), encoder(obs).detach().numpy(), rtol=0, atol=1e-4)


# Refusals


class Halved(nn.Module):
    """Looks at half of the batch that it was traced with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) - x.flatten(1)[: len(x) // 2].mean(0)


class Noisy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) + torch.rand_like(x.flatten(1))


class Unknown(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svdvals(x).flatten(1)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Halved(), r"gives other features on a batch of \d.*treat each observation alike"),
        (Noisy(), "do in eval mode nothing at random"),
        (Unknown(), r"cannot be traced into ONNX \(.*\): use operations that ONNX has"),
    ],
    ids=["batch", "random", "operation"],
)
def test_what_would_come_out_different_is_not_written(net, message, tmp_path):
    encoder = ExportedEncoder(Tap(net).see((1, 8, 8)), (1, 8, 8))
    with pytest.raises(EncoderError, match=message):
        write_onnx(encoder, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_difference_to_torch_leaves_the_older_file(monkeypatch, tmp_path):
    path = write_onnx(exported("strided"), tmp_path / "model.onnx")
    before = path.read_bytes()
    monkeypatch.setattr(adapter, "TOLERANCE", 1e-12)
    with pytest.raises(EncoderError, match="gives other features on a batch of 1"):
        write_onnx(exported("strided", filters=5), path)
    assert path.read_bytes() == before
    monkeypatch.undo()
    assert write_onnx(exported("strided", filters=5), path).read_bytes() != before


def test_nothing_else_is_overwritten(tmp_path):
    foreign = onnx.helper.make_model(onnx.helper.make_graph([], "x", [], []), producer_name="pytorch")
    for content in (b"mine", foreign.SerializeToString()):
        (tmp_path / "model.onnx").write_bytes(content)
        with pytest.raises(FileExistsError, match=r"model.onnx was not written by curl_rl: move it away"):
            write_onnx(exported("strided"), tmp_path / "model.onnx")
        assert (tmp_path / "model.onnx").read_bytes() == content
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="a folder is in the way"):
        write_onnx(exported("strided"), tmp_path / "folder")


def test_the_folder_of_a_users_network_is_refused_with_the_call(tmp_path, capsys):
    tap = Tap(Net(), layer="trunk").see((3, 19, 19))
    folder = save_encoder(tap, tap.config, (3, 19, 19), tmp_path / "enc")
    assert cli.main(["export", str(folder), "--format", "onnx", "--out", str(tmp_path / "out")]) == 2
    call = f"in Python, write_onnx(load_encoder({str(folder)!r}, module=Net()), 'model.onnx')\n"
    assert capsys.readouterr().err.endswith(call)
    assert not (tmp_path / "out").exists()
    loaded = load_encoder(folder, module=Net())
    assert_same(write_onnx(loaded, tmp_path / "model.onnx"), loaded)


def test_a_folder_that_was_changed_is_refused(tmp_path):
    folder = save_encoder(exported("strided", feature_dim=6, filters=4).encoder, CONFIG, (3, 44, 44), tmp_path / "enc")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\7")
    with pytest.raises(EncoderError, match=r"model.safetensors cannot be used: its checksum"):
        write_onnx(folder, tmp_path / "model.onnx")
    assert os.listdir(tmp_path) == ["enc"]
