"""Random changes of images that leave what they show, found by name: a class with its own options each."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from curl_rl.nn.images import (
    center_fit,
    random_color_jitter,
    random_crop,
    random_crop_shift,
    random_cutout,
    random_intensity,
    random_shift,
    random_translate,
    unmoved,
)
from curl_rl.options import Registry, option
from curl_rl.types import ConfigError, Crop


@dataclass(frozen=True)
class AugmentationConfig:
    """What every augmentation's options have in common."""

    name: str = ""

    def seen_size(self, size: int) -> int:
        """Return the side of what the encoder sees, in training and acting, of images of side `size`."""
        return size


class Augmentation:
    """A random change of images (B, C, H, W) uint8, the stacked frames of one alike, under a generator.

    A subclass names its frozen dataclass of options as `Config` and is found by that one's `name`.
    """

    Config: ClassVar[type[AugmentationConfig]]
    rests: bool = False  # whether a control that shows it nothing may name it, as the published ones do

    def __init__(self, config: Any):
        self.config = config

    def __call__(self, images: Tensor, generator: torch.Generator) -> Crop:
        """Return the changed images and where they lie. Raises ConfigError for images that are too small."""
        raise TypeError(f"{type(self).__name__} changes no images")

    def check(self, images: Tensor) -> None:
        """Raise ConfigError for what cannot be made of such images (B, C, H, W), or is not what was asked for."""
        crop, sides = self(images, torch.Generator()), map(self.config.seen_size, images.shape[-2:])
        wanted = (*images.shape[:2], *sides), (len(images), 2)
        if not isinstance(crop, Crop) or (tuple(crop.images.shape), tuple(crop.offsets.shape)) != wanted:
            raise ConfigError(f"augmentation={self.config.name} must return a Crop of images and offsets {wanted}")

    def centre(self, images: Tensor) -> Tensor:
        """Return images as acting shows them: cut to their middle, or in the middle of a black canvas."""
        side = images.shape[-1]
        return images if (seen := self.config.seen_size(side)) == side else center_fit(images, seen)


@dataclass(frozen=True)
class NoneConfig(AugmentationConfig):
    name: str = "none"


class NoAugmentation(Augmentation):
    """Images as they are."""

    Config = NoneConfig
    rests = True

    def __call__(self, images: Tensor, generator: torch.Generator) -> Crop:
        return unmoved(images)


@dataclass(frozen=True)
class CropConfig(AugmentationConfig):
    name: str = "crop"
    size: int = option(84, "side of the random crop, and of the centre crop that acting takes", at_least=1)

    def seen_size(self, size: int) -> int:
        return self.size


class RandomCrop(Augmentation):
    """A window at a random place (Laskin et al. 2020a, CURL)."""

    Config = CropConfig
    rests = True

    def __call__(self, images: Tensor, generator: torch.Generator) -> Crop:
        return random_crop(images, self.config.size, generator)


@dataclass(frozen=True)
class ShiftConfig(AugmentationConfig):
    name: str = "shift"
    pad: int = option(4, "pixels that are padded, and moved by at most", at_least=0)
    intensity: float = option(0.0, "deviation of the brightness; DrQ on Atari: 0.05, else 0", at_least=0, at_most=1)


class RandomShift(Augmentation):
    """A shift by some pixels, the border replicated, and another brightness (Kostrikov et al. 2020, DrQ)."""

    Config = ShiftConfig
    rests = True

    def __init__(self, config: ShiftConfig):
        super().__init__(config)
        self.rests = not config.intensity

    def __call__(self, images: Tensor, generator: torch.Generator) -> Crop:
        crop, intensity = random_shift(images, self.config.pad, generator), self.config.intensity
        return crop._replace(images=random_intensity(crop.images, intensity, generator)) if intensity else crop


@dataclass(frozen=True)
class CropShiftConfig(AugmentationConfig):
    name: str = "crop_shift"
    pad: int = option(4, "pixels that the crop takes away, and that the shift pads and moves by at most", at_least=0)


class RandomCropShift(Augmentation):
    """A crop, then a shift of what is left (Laskin et al. 2020a, CURL on Atari)."""

    Config = CropShiftConfig
    rests = True

    def __call__(self, images: Tensor, generator: torch.Generator) -> Crop:
        return random_crop_shift(images, self.config.pad, generator)


@dataclass(frozen=True)
class TranslateConfig(AugmentationConfig):
    name: str = "translate"
    pad: int = option(4, "black pixels on each side of the canvas that the image is put on", at_least=0)

    def seen_size(self, size: int) -> int:
        return size + 2 * self.pad


class RandomTranslate(Augmentation):
    """A random place on a black canvas (Laskin et al. 2020b, RAD)."""

    Config = TranslateConfig

    def __call__(self, images: Tensor, generator: torch.Generator) -> Crop:
        return random_translate(images, self.config.pad, generator)


@dataclass(frozen=True)
class CutoutConfig(AugmentationConfig):
    name: str = "cutout"
    least: int = option(10, "smallest side of the rectangle that is blacked out", at_least=1)
    most: int = option(30, "greatest side of the rectangle that is blacked out", at_least="least")


class RandomCutout(Augmentation):
    """One black rectangle (Laskin et al. 2020b, RAD)."""

    Config = CutoutConfig

    def __call__(self, images: Tensor, generator: torch.Generator) -> Crop:
        return random_cutout(images, self.config.least, self.config.most, generator)


def _amount(default: float, help: str) -> Any:
    told = f"{help} at most; null: RAD's {default}, on Atari the range of DrQ(eps)'s intensity jitter"
    return option(None, told, at_least=0, at_most=1)


@dataclass(frozen=True)
class ColorJitterConfig(AugmentationConfig):
    # DrQ(eps) (Agarwal et al. 2021) draws its intensity from a normal variable clipped to its range.
    name: str = "color_jitter"
    brightness: float | None = _amount(0.4, "by what share brightness falls or rises")
    contrast: float | None = _amount(0.4, "by what share contrast falls or rises")
    saturation: float | None = _amount(0.4, "by what share saturation falls or rises, if not grey,")
    hue: float | None = _amount(0.5, "by what share of the circle hues turn, if not grey,")

    @property
    def amounts(self) -> tuple[float, ...]:
        given = zip((self.brightness, self.contrast, self.saturation, self.hue), (0.4, 0.4, 0.4, 0.5), strict=True)
        return tuple(rad if amount is None else amount for amount, rad in given)


class ColorJitter(Augmentation):
    """Other brightness, contrast, saturation and hue (Laskin et al. 2020b, RAD)."""

    Config = ColorJitterConfig

    def check(self, images: Tensor) -> None:
        if images.shape[1] == 1 and (self.config.saturation or self.config.hue):
            raise ConfigError("augmentation.saturation and augmentation.hue have no effect on grey images: set both 0")
        super().check(images)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Crop:
        return random_color_jitter(images, self.config.amounts, generator)


@dataclass(frozen=True)
class Averaging:
    """RAD (one of each) and DrQ's averaging (Kostrikov et al. 2020, algorithm 1) of an agent's own loss."""

    k: int = option(0, "of the next observation, targets averaged; 0: as it is", at_least=0, at_most=100)
    m: int = option(0, "augmentations of the observation, losses averaged; 0: as it is", at_least=0, at_most=100)


AUGMENTATIONS = Registry("augmentation", __name__, Augmentation, gives=("__call__",), options=("seen_size",))
