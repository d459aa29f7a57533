"""A run's start from a trained encoder: its weights, and what a run tells of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from curl_rl.config.schema import Config
from curl_rl.nn.encoders import Encoder, encoder_config
from curl_rl.run.folder import misfit, read_description, read_folder, weights_hash
from curl_rl.types import ConfigError

T = TypeVar("T")


class Source(NamedTuple):
    """A trained encoder: where it lies, its name and options, the shape of what it sees, and its weights."""

    path: Path
    encoder: Mapping[str, Any]
    seen: tuple[int, ...]
    weights: Mapping[str, Tensor]


def begin_from(config: Config, encoder: Encoder, source: Source | None = None) -> None:
    """Give an encoder the weights that a run starts from, and freeze it where that is asked for.

    Args: source, of another run; without one the folder that the configuration names, if any.

    Raises ConfigError where the folder holds none, another encoder, or one of other images, and EncoderError where it
    was changed.
    """
    if source is None:
        if not config.pretrained.path:
            return
        source = _folder(Path(config.pretrained.path))
    path = source.path
    if encoder_config(**source.encoder) != config.encoder:
        raise ConfigError(f"{path} holds {source.encoder}, and this run has {config.encoder}: give another one")
    if source.seen != encoder.obs_shape:
        raise ConfigError(
            f"the encoder of {path} takes images {source.seen}, and this run shows it {encoder.obs_shape}: set "
            "env.image_size, env.frame_stack and augmentation as it was trained with"
        )
    if fault := misfit(encoder, source.weights):
        raise ConfigError(f"{path} does not fit this run's encoder: {fault}")
    encoder.load_state_dict(source.weights)
    encoder.requires_grad_(not config.pretrained.freeze)


def _folder(path: Path) -> Source:
    described, weights = _read(path, read_folder)
    return Source(path, described["encoder"], tuple(described["input_shape"]), weights)


def told_of(config: Config) -> dict[str, Any]:
    """Return what a run's metadata and checkpoints say of the weights that it started from; nothing without any."""
    if not (path := config.pretrained.path):
        return {}
    return {"pretrained": _read(Path(path), read_description)["weights"]}


def _read(path: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(path)
    except FileNotFoundError:
        raise ConfigError(f"there is no encoder in pretrained.path={path}: put back the one that was there") from None


def check_frozen(config: Config, encoder: Any, weights: str) -> None:
    """Raise ConfigError where a run's encoder was to stay as it began, with weights of this hash, and has changed."""
    if config.pretrained.freeze and weights_hash(encoder) != weights:
        raise ConfigError("the encoder was to stay as it is and has changed: its own forward pass moves its weights")
