"""A run's start from a trained encoder: its weights, and what a run tells of them."""

from pathlib import Path
from typing import Any

from curl_rl.config.schema import Config
from curl_rl.nn.encoders import Encoder, encoder_config
from curl_rl.run.folder import misfit, read_description, read_folder
from curl_rl.types import ConfigError


def begin_from(config: Config, encoder: Encoder) -> None:
    """Give an encoder the weights that a run starts from, and freeze it where that is asked for.

    Raises ConfigError where the folder holds another encoder, or one of other images, FileNotFoundError where it holds
    none, and EncoderError where it was changed.
    """
    if not config.pretrained.path:
        return
    path = Path(config.pretrained.path)
    described, weights = read_folder(path)
    if encoder_config(**described["encoder"]) != config.encoder:
        raise ConfigError(
            f"{path} holds {described['encoder']}, and this run has {config.encoder}: give another folder"
        )
    if (seen := tuple(described["input_shape"])) != encoder.obs_shape:
        raise ConfigError(
            f"the encoder of {path} takes images {seen}, and this run shows it {encoder.obs_shape}: set "
            "env.image_size, env.frame_stack and augmentation as it was trained with"
        )
    if fault := misfit(encoder, weights):
        raise ConfigError(f"{path} does not fit this run's encoder: {fault}")
    encoder.load_state_dict(weights)
    encoder.requires_grad_(not config.pretrained.freeze)


def told_of(config: Config) -> dict[str, Any]:
    """Return what a run's metadata and checkpoints say of the weights that it started from; nothing without any."""
    if not (path := config.pretrained.path):
        return {}
    return {"pretrained": read_description(Path(path))["weights"]}
