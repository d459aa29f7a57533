"""What keys of before are called now."""

from collections.abc import Mapping
from typing import Any

from curl_rl.config.difference import flat
from curl_rl.types import ConfigError

MOVED = {
    "replay.n_step": "agent.n_step",
    "agent.augmentation": "augmentation",
    "agent.augmentations": "agent.averaging",
    "agent.augmentations.k": "agent.averaging.k",
    "agent.augmentations.m": "agent.averaging.m",
    "agent.crop_size": "augmentation.size of augmentation=crop",
    "agent.shift_pad": "augmentation.pad of augmentation=shift and crop_shift",
    "agent.translate_pad": "augmentation.pad of augmentation=translate",
    "agent.cutout_min": "augmentation.least of augmentation=cutout",
    "agent.cutout_max": "augmentation.most of augmentation=cutout",
    **{
        f"agent.{name}": f"augmentation.{name} of augmentation=color_jitter"
        for name in ("brightness", "contrast", "saturation", "hue")
    },
}


def check_moved(settings: Mapping[str, Any]) -> None:
    """Raise ConfigError, which names the new one, for a key of before in settings as plain data."""
    for key in flat(settings):
        old = key if key in MOVED else key.rpartition(".")[0]
        if old in MOVED:
            raise ConfigError(f"{old!r} is {MOVED[old]} now")
