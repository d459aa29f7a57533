"""Pixel encoders, found by name: a class in any module of this folder is an option of `encoder=`."""

import dataclasses
from typing import Any

from curl_rl.nn.encoders.base import Encoder
from curl_rl.options import Registry, check
from curl_rl.types import ConfigError

ENCODERS = Registry("encoder", __name__, Encoder, gives=("layers",))


def encoder_config(name: str, **fields: Any) -> Any:
    """Return an encoder's configuration by name. Raises ConfigError for an unknown name, field or value."""
    cls = ENCODERS[name].Config
    unknown = set(fields) - {field.name for field in dataclasses.fields(cls)}
    if unknown:
        raise ConfigError(f"encoder {name!r} has no {', '.join(sorted(unknown))}")
    config = cls(name=name, **fields)
    check(config, "encoder.")
    return config


def make_encoder(config: Any, obs_shape: tuple[int, ...], *, bf16: bool = False) -> Encoder:
    """Build the encoder that a configuration names, for observations (C, H, W) or (D,)."""
    cls, pixels = ENCODERS[config.name], len(obs_shape) == 3
    if cls.pixels != pixels:
        wanted = "a pixel encoder" if pixels else "encoder=state"
        raise ConfigError(f"observations of shape {tuple(obs_shape)} need {wanted}, not encoder={config.name}")
    return cls(config, obs_shape, bf16=bf16)
