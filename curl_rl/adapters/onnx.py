"""An encoder as one ONNX file: raw uint8 images in, features out, checked by ONNX Runtime before it is written."""

import json
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from curl_rl import __version__
from curl_rl.representation.export import (
    EncoderError,
    ExportedEncoder,
    center_fit,
    check_place,
    own_encoder,
    read_description,
    weights_hash,
    write_whole,
)
from curl_rl.representation.tap import Tap

try:
    import onnx
    import onnxruntime
except ImportError as error:
    raise ImportError(f"curl_rl.adapters.onnx needs {error.name}: pip install 'curl-rl[onnx]'") from error

FILE = "model.onnx"
TOLERANCE = 1e-4  # of features, of the largest where that is above 1; 3e-5 was measured
_TRACED, _TRIED = 2, (1, 3)  # observations in a batch
_PRODUCER = "curl_rl"


def write_onnx(encoder: str | Path | ExportedEncoder, path: str | Path) -> Path:
    """Write an encoder as an ONNX file and return its path; nothing is written where ONNX Runtime differs from torch.

        write_onnx("enc", "model.onnx")

    Its input `obs` is (batch, *obs_shape) uint8, of states float32, which the graph cuts to the centre or sets on the
    canvas itself; its output `features` is (batch, feature_dim) float32; batch is any. Its metadata holds obs_shape,
    feature_dim, the version, and `weights`, their hash in the encoder's folder.

    Args: encoder, a folder, or what `load_encoder` returns, which a folder of a network of your own needs.

    Raises EncoderError for what cannot be traced or comes out different by more than 1e-4, and FileExistsError where
    another program's file is.
    """
    path = Path(path)
    check_place(path.parent)
    _check_own(path)
    if not isinstance(encoder, ExportedEncoder):
        _check_whole(Path(encoder))
    taken = own_encoder(encoder, freeze=True).cpu()
    taken.encoder.bf16 = False
    model = _described(_traced(taken), taken)
    _check_same(model, taken)
    write_whole({path: model})
    return path


def _check_whole(folder: Path) -> None:
    """Raise EncoderError for the folder of a user's own network, which is not in it."""
    if network := read_description(folder).get("encoder", {}).get("network"):
        call = f"write_onnx(load_encoder({str(folder)!r}, module={network.rpartition(':')[2]}()), {FILE!r})"
        raise EncoderError(f"{folder} holds weights of a network of your own, {network}: in Python, {call}")


class _Plain(nn.Module):
    """What an exported encoder computes, by operations that can be traced: a CPU's own ways to them are left out."""

    def __init__(self, exported: ExportedEncoder):
        super().__init__()
        self.encoder, self.side = exported.encoder, exported.encoder.obs_shape[-1]

    def forward(self, obs: Tensor) -> Tensor:
        if not self.encoder.pixels:
            return self.encoder(obs)
        images = center_fit(obs, self.side)
        if isinstance(self.encoder, Tap):
            return self.encoder(images)
        return self.encoder.head(self.encoder.convs(images.float() / 255))


def _traced(exported: ExportedEncoder) -> onnx.ModelProto:
    """Trace a batch of two. By TorchScript: torch.export cannot follow a network that is left at one of its layers."""
    plain = _Plain(exported).eval()
    axes = {"obs": {0: "batch"}, "features": {0: "batch"}}
    names = {"input_names": ["obs"], "output_names": ["features"], "dynamic_axes": axes}
    try:
        with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its age, and of what depends on the batch, which is checked
            torch.onnx.export(plain, (_drawn(exported, _TRACED),), Path(place, FILE), dynamo=False, **names)
            return onnx.load(Path(place, FILE))
    except Exception as error:  # of the user's own network
        told = str(error).strip().partition("\n")[0]
        raise EncoderError(
            f"this encoder cannot be traced into ONNX ({type(error).__name__}: {told}): use operations that ONNX has"
        ) from error


def _described(model: onnx.ModelProto, exported: ExportedEncoder) -> bytes:
    told = {
        "obs_shape": json.dumps(exported.obs_shape),
        "feature_dim": str(exported.feature_dim),
        "weights": weights_hash(exported.encoder),
        "version": __version__,
    }
    onnx.helper.set_model_props(model, told)
    model.producer_name, model.producer_version = _PRODUCER, __version__
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = exported.feature_dim
    return model.SerializeToString()


def _check_same(model: bytes, exported: ExportedEncoder) -> None:
    """Raise EncoderError where ONNX Runtime gives other features than torch for batches of other sizes."""
    for count in _TRIED:
        obs = _drawn(exported, count)
        expected = exported(obs).detach().numpy()
        try:
            session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
            found = np.asarray(session.run(None, {"obs": obs.numpy()})[0])
        except Exception as error:  # which share no class
            raise EncoderError(f"ONNX Runtime cannot run this encoder on a batch of {count} ({error})") from error
        same = found.shape == expected.shape and found.dtype == expected.dtype
        gap = np.abs(found - expected).max() if same else np.inf
        if not gap <= TOLERANCE * max(1.0, np.abs(expected).max()):
            raise EncoderError(
                f"as ONNX this encoder gives other features on a batch of {count}, by {gap:.2g}: a network must treat "
                "each observation alike, whatever their number, and do in eval mode nothing at random"
            )


def _drawn(exported: ExportedEncoder, count: int) -> Tensor:
    """Draw observations, the same ones each time."""
    generator = torch.Generator().manual_seed(count)
    shape = (count, *exported.obs_shape)
    if not exported.encoder.pixels:
        return torch.randn(shape, generator=generator)
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator)


def _check_own(path: Path) -> None:
    """Raise FileExistsError where a file is that this module did not write."""
    if not path.is_file() or not os.path.getsize(path):
        return
    try:
        own = onnx.load(path, load_external_data=False).producer_name == _PRODUCER
    except Exception:  # which share no class
        own = False
    if not own:
        raise FileExistsError(f"{path} was not written by curl_rl: move it away, or give another place")
