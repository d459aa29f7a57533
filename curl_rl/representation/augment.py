"""What an encoder is shown of frames: augmentations by name, configured, or of one's own."""

from collections.abc import Callable

import torch
from torch import Tensor

from curl_rl.nn.augmentations import AUGMENTATIONS, Augmentation, AugmentationConfig
from curl_rl.nn.encoders import Encoder
from curl_rl.nn.images import unmoved
from curl_rl.nn.networks import random_seed
from curl_rl.representation.frames import Frames
from curl_rl.representation.tap import Tap, title
from curl_rl.types import ConfigError, Crop

Augment = str | Augmentation | Callable[[Tensor], Tensor]


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


def make_augmentation(given: Augment, frames: Frames) -> Augmentation:
    """Return an augmentation, checked on blank images of the frames' shape."""
    if isinstance(given, str):
        augmentation = AUGMENTATIONS[given](AUGMENTATIONS[given].Config())
    else:
        augmentation = given if isinstance(given, Augmentation) else Own(given)
    height, width = frames.frame_shape[1:]
    try:
        augmentation.check(torch.zeros((2, *frames.obs_shape), dtype=torch.uint8))
    except ConfigError as error:
        mend = "" if height == width else f": give size={min(height, width)}, which makes them square"
        raise ConfigError(f"{error}{mend}") from None
    return augmentation


def seen_shape(frames: Frames, augmentation: AugmentationConfig) -> tuple[int, ...]:
    """Return the shape (k*C, h, w) of what an encoder is shown of frames."""
    channels, *sides = frames.obs_shape
    return (channels, *(augmentation.seen_size(side) for side in sides))


def fit(encoder: Encoder, frames: Frames, augmentation: Augmentation) -> None:
    """Let a tap see the shape that it is shown; refuse an encoder that was made for another."""
    seen = seen_shape(frames, augmentation.config)
    if isinstance(encoder, Tap):
        encoder.see(seen)
    elif encoder.obs_shape != seen:
        raise ConfigError(
            f"the encoder takes images {encoder.obs_shape}, and {frames.source} shows it {seen}: give frames of its "
            "size and channels, the augmentation that it was trained with, or another encoder"
        )
