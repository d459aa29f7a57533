"""Augmentations of one's own: any callable on images."""

from collections.abc import Callable

import torch
from torch import Tensor

from curl_rl.nn.augmentations import Augmentation, AugmentationConfig
from curl_rl.nn.images import unmoved
from curl_rl.nn.networks import random_seed
from curl_rl.representation.tap import title
from curl_rl.types import ConfigError, Crop


class Own(Augmentation):
    """What a callable makes of images (B, C, H, W) uint8: as many, of the same size.

    It draws from torch's own random numbers, which are seeded before each call, so that a resume repeats them.
    """

    def __init__(self, augment: Callable[[Tensor], Tensor]):
        super().__init__(AugmentationConfig(name=f"own:{title(augment)}"))
        self._augment = augment

    def __call__(self, images: Tensor, generator: torch.Generator) -> Crop:
        devices = [images.device] if images.is_cuda else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(random_seed(generator))
            changed = self._augment(images)
        if not isinstance(changed, Tensor) or changed.shape != images.shape or changed.dtype != torch.uint8:
            got = f"{tuple(changed.shape)} {changed.dtype}" if isinstance(changed, Tensor) else type(changed).__name__
            raise ConfigError(
                f"augment={self.config.name.removeprefix('own:')} gave {got} for images {tuple(images.shape)} uint8: "
                "give as many of that size, in uint8"
            )
        return unmoved(changed)
