"""An encoder as one folder, config.json and model.safetensors, that any PyTorch code can take away."""

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from curl_rl import __version__
from curl_rl.nn.augmentations import AUGMENTATIONS
from curl_rl.nn.encoders import Encoder, encoder_config, make_encoder
from curl_rl.nn.images import center_fit
from curl_rl.nn.plain import build_layers, describe_layers
from curl_rl.options import OwnClassError
from curl_rl.representation.tap import Prepare, Tap
from curl_rl.run.checkpoint import Checkpoints
from curl_rl.run.documents import CONFIG, check_kinds, explain_missing, read_settings
from curl_rl.run.files import check_folder, write_whole
from curl_rl.run.folder import (
    WEIGHTS,
    EncoderError,
    Part,
    damaged,
    dtype_name,
    misfit,
    part_files,
    read_description,
    read_folder,
    read_part,
    tensors_of,
    weights_hash,
    write_folder,
)
from curl_rl.types import Clock, ConfigError

# Adapters import nothing but this room.
__all__ = [
    "CONFIG",
    "TRAINING",
    "WEIGHTS",
    "EncoderError",
    "ExportedEncoder",
    "blank_encoder",
    "center_fit",
    "check_place",
    "copy_encoder",
    "export_run",
    "load_encoder",
    "own_encoder",
    "raw_frames",
    "read_description",
    "read_folder",
    "save_encoder",
    "weights_hash",
    "write_whole",
]
_BUILDING = (TypeError, ValueError, LookupError, AttributeError, RuntimeError, OverflowError)
TRAINING = "training"  # the folder beside a pre-trained encoder of what made it
HEAD, CLASSIFIER = "head", "classifier"  # parts beside an encoder: what projects its features, what names them
_OF_A_RUN = ("eval.csv", "checkpoints")


class ExportedEncoder(nn.Module):
    """Raw observations to features (B, feature_dim) float32: what a trained agent sees when it acts.

    Images are (B, k*C, H, W) uint8, the oldest frame of the stack first, as the environment gave them in training
    (`obs_shape`): of an encoder of crops they are cut to their centre, of one of translations set in the middle of a
    black canvas. One of crops also takes images that are cut already. Nothing else was ever seen in training, so
    nothing else is accepted. States are (B, D) float32.
    """

    def __init__(self, encoder: Encoder, obs_shape: tuple[int, ...]):
        super().__init__()
        self.encoder = encoder
        self.obs_shape = tuple(obs_shape)
        self.feature_dim = encoder.feature_dim
        given, seen = self.obs_shape, encoder.obs_shape
        square = len(given) == len(seen) == 3 and given[1] == given[2] and seen[1] == seen[2]
        if given != seen and not (square and given[0] == seen[0]):
            raise ValueError(f"no crop or canvas makes observations of shape {seen} of {given}: stack as many frames")
        # Only a crop shows the encoder whole images of another size than the environment's.
        self._accepted = {given, seen} if square and seen[1] < given[1] else {given}
        self._frozen = False

    def freeze(self, frozen: bool = True) -> Self:
        """Keep weights and running statistics as they are, in eval mode whatever a parent's `train()` says."""
        self._frozen = frozen
        return self.requires_grad_(not frozen).train(self.training)

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and not self._frozen)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError, which names the mend, unless one observation of this shape can be encoded."""
        shape = tuple(shape)
        if shape in self._accepted:
            return
        told = f"this encoder was trained on observations of shape {self.obs_shape}, got {shape}"
        if (shape[-1:] + shape[:-1]) in self._accepted:
            raise ValueError(f"{told}: move the channels first, obs.permute(0, 3, 1, 2)")
        if len(shape) == 3 and len(self.obs_shape) == 3 and shape[0] == self.obs_shape[0]:
            sizes = " or ".join(f"{height}x{width}" for _, height, width in sorted(self._accepted, reverse=True))
            raise ValueError(f"{told}: render or resize images to {sizes}")
        raise ValueError(f"{told}: stack as many frames as in training, channels first, and give a batch")

    def forward(self, obs: Tensor) -> Tensor:
        if not isinstance(obs, Tensor):
            raise TypeError(f"this encoder takes a tensor, got {type(obs).__name__}: give torch.as_tensor(obs)")
        if tuple(obs.shape) in self._accepted:
            raise ValueError(f"this encoder takes a batch, got one observation of {tuple(obs.shape)}: give obs[None]")
        self.check(tuple(obs.shape[1:]))
        if obs.dim() == 2:
            return self.encoder(obs)
        if obs.dtype != torch.uint8:
            raise ValueError(_not_uint8(obs))
        seen = self.encoder.obs_shape
        return self.encoder(obs if obs.shape[1:] == seen else center_fit(obs, seen[-1]))


def _not_uint8(obs: Tensor) -> str:
    """Say which images were given, and what makes uint8 of them."""
    kind = dtype_name(obs)
    if not obs.numel():
        return f"this encoder scales raw uint8 images itself, got {kind}: give obs.to(torch.uint8)"
    low, high = (float(end) for end in obs.detach().aminmax())
    mend = "give obs.to(torch.uint8)" if low >= 0 and 1 < high <= 255 else "give the environment's own uint8 images"
    if low >= 0 and high <= 1 and obs.is_floating_point():
        mend = "give (obs * 255).round().to(torch.uint8)"
    return f"this encoder scales raw uint8 images itself, got {kind} from {low:g} to {high:g}: {mend}"


def describe_encoder(encoder: Encoder) -> dict[str, Any]:
    """Return what builds an encoder again, of a tap what tells its network."""
    return encoder.config if isinstance(encoder, Tap) else dataclasses.asdict(encoder.config)


def raw_frames(images: Tensor) -> Tensor:
    """Return uint8 frames of images that were divided by 255, each level exactly. Raises ValueError for any others."""
    levels = images.float() * 255  # of x / 255 in float32 within 2e-5 of x
    raw = levels.round().clamp(0, 255)
    if images.numel() and not (levels - raw).abs().max() <= 0.2:  # which is false of NaN too
        raise ValueError("these images are not uint8 frames divided by 255: give those, or the uint8 frames themselves")
    return raw.to(torch.uint8)


def save_encoder(
    encoder: Encoder,
    config: dict[str, Any],
    obs_shape: tuple[int, ...],
    out: Path,
    *,
    parts: Mapping[str, nn.Sequential | Part] | None = None,
    training: bool = False,
    **extra: Any,
) -> Path:
    """Write an encoder as a folder; an older one there stays whole until the new one is.

    Args: config, the encoder's name and options; obs_shape, of a stacked observation before the crop; parts, heads of
    plain layers, or anything else, to stand beside it; training, whether it is trained there; extra, whatever else
    config.json shall say, as JSON.

    Raises ValueError for what `load_encoder` would refuse, WriteError.
    """
    ExportedEncoder(encoder, obs_shape)
    out = Path(out)
    tensors = tensors_of(encoder)
    blank = encoder if isinstance(encoder, Tap) else _blank(config, encoder.obs_shape)
    if fault := misfit(blank, tensors):
        raise ValueError(f"this encoder is not saved: {fault}")
    check_place(out, training=training)
    if not training:
        _spare(out)
    described = {
        "encoder": dict(config),
        "obs_shape": list(obs_shape),
        "input_shape": list(encoder.obs_shape),
        "feature_dim": encoder.feature_dim,
        "version": __version__,
        **extra,
    }
    write_folder(out, tensors, described, {name: _part(part) for name, part in (parts or {}).items()})
    return out


def _part(given: nn.Sequential | Part) -> Part:
    return given if isinstance(given, Part) else Part({"layers": describe_layers(given)}, tensors_of(given))


def copy_encoder(path: str | Path, out: str | Path, beside: Mapping[str, str | bytes] | None = None) -> Path:
    """Copy an encoder's folder, which is checked, to another, and files by their names beside it; return that.

    Raises what `load_encoder` does for a folder that is no longer as it was written, and FileExistsError where such a
    file is there with another content.
    """
    path, out = Path(path), Path(out)
    described, _ = read_folder(path)
    check_place(out)
    if path.resolve() != out.resolve():
        _spare(out)
    told = {out / name: text.encode() if isinstance(text, str) else text for name, text in (beside or {}).items()}
    for file, content in told.items():
        if file.is_file() and file.read_bytes() != content:
            raise FileExistsError(f"{file} is there and says something else: move it away, or give another out")
    copied = {out / name: (path / name).read_bytes() for name in (WEIGHTS, *part_files(path, described), CONFIG)}
    write_whole({**told, **copied})  # the description last, as in write_folder
    return out


def load_part(path: str | Path, name: str) -> nn.Sequential | None:
    """Load a head of plain layers that stands beside a folder's encoder, in eval mode; None where there is none such.

    Raises EncoderError where it is no longer as it was written.
    """
    path = Path(path)
    if (part := read_part(path, read_description(path), name)) is None:
        return None
    try:
        with torch.device("meta"):
            layers = build_layers(part.told["layers"]).eval()
        fault = misfit(layers, part.tensors)
    except _BUILDING as error:
        raise damaged(path, CONFIG, f"its {name} has layers that this version cannot build ({error})") from error
    if fault:
        raise damaged(path, f"{name}.safetensors", fault)
    layers.to_empty(device="cpu").load_state_dict(part.tensors)
    return layers


def load_encoder(
    path: str | Path,
    device: str | torch.device = "cpu",
    *,
    module: nn.Module | None = None,
    prepare: Prepare | None = None,
) -> ExportedEncoder:
    """Load an exported encoder in eval mode: uint8 frames (B, k*C, H, W) in, features (B, feature_dim) out.

    Args: module, the network whose weights a folder of a `Tap` holds, which they are loaded into; prepare, as the tap
    had it.

    One of a class of your own, `encoder=package.module:Class`, imports that module, which must be there; nothing else
    that its run was made of is imported. Raises FileNotFoundError where the folder is not one that `curl-rl export`
    wrote, EncoderError where it is no longer as it was exported.
    """
    path = Path(path)
    described, tensors = read_folder(path)
    tapped = _tapped(described, path, module, prepare)
    loaded = tapped or blank_encoder(described, str(path / CONFIG))
    if fault := misfit(loaded.encoder, tensors):
        if tapped:
            raise EncoderError(f"{path} holds weights of another network than the given module: {fault}")
        raise damaged(path, WEIGHTS, fault)
    filled = loaded if tapped else loaded.to_empty(device="cpu")
    filled.load_state_dict({f"encoder.{key}": tensor for key, tensor in tensors.items()})
    return filled.to(device)


def own_encoder(encoder: str | Path | ExportedEncoder, *, freeze: bool) -> ExportedEncoder:
    """Return a folder's encoder, or a copy of a loaded one, for an agent to have alone."""
    loaded = copy.deepcopy(encoder) if isinstance(encoder, ExportedEncoder) else load_encoder(encoder)
    return loaded.freeze(freeze)


def _tapped(
    described: Mapping[str, Any], path: Path, module: nn.Module | None, prepare: Prepare | None
) -> ExportedEncoder | None:
    """Return a user's network as the encoder that a folder describes; None where it describes one of this package."""
    config = described.get("encoder", {})
    if config.get("name") != "tap":
        if module is not None or prepare is not None:
            raise EncoderError(f"{path} holds an encoder of this package: leave module and prepare out")
        return None
    network = str(config.get("network", "")).rpartition(":")[2]
    if module is None:
        raise EncoderError(
            f"{path} holds weights of a network of your own, {config.get('network')}: give it, module={network}()"
        )
    if config.get("prepare") and prepare is None:
        raise EncoderError(f"{path} was trained with prepare={config['prepare']}: give the same prepare")
    try:
        tap = Tap(module, layer=config["layer"], prepare=prepare).see(tuple(described["input_shape"]))
        return ExportedEncoder(tap, tuple(described["obs_shape"])).eval()
    except _BUILDING as error:
        raise EncoderError(f"{path} holds weights of another network than {type(module).__name__}: {error}") from error


def blank_encoder(described: Mapping[str, Any], name: str) -> ExportedEncoder:
    """Build what a description says, in eval mode on the meta device: it takes no memory, whatever its sizes."""
    if described.get("encoder", {}).get("name") == "tap":
        raise EncoderError(f"{name} describes a network of your own: load it by load_encoder(..., module=...)")
    try:
        encoder = _blank(described["encoder"], tuple(described["input_shape"]))
        return ExportedEncoder(encoder, tuple(described["obs_shape"])).eval()
    except OwnClassError as error:
        raise EncoderError(f"{name} names a class that is not in the folder: {error}") from error
    except _BUILDING as error:
        raise EncoderError(f"{name} describes no encoder that this version can build: {error}") from error


def _blank(config: Mapping[str, Any], input_shape: tuple[int, ...]) -> Encoder:
    with torch.device("meta"):
        return make_encoder(encoder_config(**config), input_shape)


def check_place(out: Path, *, training: bool = False) -> None:
    """Raise an OSError where a folder cannot be, or where a run or another program's config.json is.

    Args: training, whether what is to be there is trained there, and must not take another encoder's place.
    """
    check_folder(out)
    trained = (out / TRAINING).is_dir()
    if training and (out / WEIGHTS).exists() and not trained:
        raise FileExistsError(f"{out} holds an encoder that was not trained there: give another out")
    if (out / CONFIG).exists() and not (out / WEIGHTS).exists() and not trained:
        raise FileExistsError(f"{out} holds a {CONFIG} that is no encoder's, perhaps a run's: give another --out")
    if any((out / name).exists() for name in _OF_A_RUN):
        raise FileExistsError(f"{out} is a run directory: give another --out, for example {out / 'encoder'}")


def _spare(out: Path) -> None:
    """Raise FileExistsError where an encoder lies beside what trained it and would go on."""
    if (out / TRAINING).is_dir():
        raise FileExistsError(f"{out} holds an encoder and what trained it: give another --out")


def export_run(run_dir: str | Path, out: str | Path) -> Path:
    """Write the encoder of a run's newest intact checkpoint as a folder.

    Raises FileNotFoundError where the run has no configuration or no checkpoint, ConfigError where they do not fit.
    """
    run_dir = Path(run_dir)
    check_place(Path(out))
    run = read_settings(run_dir)
    check_kinds(run_dir, run, {"augmentation": dict})
    state = Checkpoints(run_dir / "checkpoints").load(None)
    if state is None:
        raise FileNotFoundError(explain_missing(run_dir))
    try:
        weights = state["agent"]["learner"]["encoder"]
        channels = next(iter(weights.values())).shape[1]  # the first layer knows them, whatever the frames and stack
        obs_shape, input_shape = _shapes(run, channels)
        encoder = _blank(run["encoder"], input_shape)
        frames = Clock(*state["clock"]).frame
        told = {"task": run["task"], "objective": run["objective"], "trained_frames": frames}
        if fault := misfit(encoder, weights):
            raise ValueError(fault)
    except OwnClassError as error:  # nothing is wrong with the checkpoint
        raise ConfigError(f"the run in {run_dir} needs a class of its own: {error}") from error
    except (*_BUILDING, StopIteration) as error:
        raise ConfigError(
            f"the newest checkpoint of {run_dir} does not hold the encoder of its {CONFIG} "
            f"({type(error).__name__}: {error}): put back what was changed"
        ) from error
    encoder.to_empty(device="cpu").load_state_dict(weights)
    return save_encoder(encoder, run["encoder"], obs_shape, Path(out), **told)


def _shapes(run: dict[str, Any], channels: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shape of a stacked observation and that of what the encoder sees of it."""
    if run["env"]["obs"] == "state":
        return (channels,), (channels,)
    image = run["env"]["image_size"]
    augmentation = run["augmentation"]
    seen = AUGMENTATIONS[augmentation["name"]].Config(**augmentation).seen_size(image)
    return (channels, image, image), (channels, seen, seen)
