"""Augmentations by name: each is its function with its own options, and refuses what it cannot do."""

from typing import Any

import pytest
import torch
from torch import Tensor

from curl_rl.nn.augmentations import AUGMENTATIONS, Augmentation
from curl_rl.nn.images import (
    random_color_jitter,
    random_crop,
    random_crop_shift,
    random_cutout,
    random_shift,
    random_translate,
    unmoved,
)
from curl_rl.options import check
from curl_rl.types import ConfigError

AMOUNTS = (0.4, 0.3, 0.5, 0.25)
SETTINGS = {
    "crop": {"size": 9},
    "shift": {"pad": 3},
    "crop_shift": {"pad": 3},
    "translate": {"pad": 2},
    "cutout": {"least": 2, "most": 5},
    "color_jitter": dict(zip(("brightness", "contrast", "saturation", "hue"), AMOUNTS, strict=True)),
    "none": {},
}
BY_HAND = {
    "crop": lambda frames, generator: random_crop(frames, 9, generator),
    "shift": lambda frames, generator: random_shift(frames, 3, generator),
    "crop_shift": lambda frames, generator: random_crop_shift(frames, 3, generator),
    "translate": lambda frames, generator: random_translate(frames, 2, generator),
    "cutout": lambda frames, generator: random_cutout(frames, 2, 5, generator),
    "color_jitter": lambda frames, generator: random_color_jitter(frames, AMOUNTS, generator),
    "none": lambda frames, generator: unmoved(frames),
}


def images(batch: int, channels: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (batch, channels, size, size), generator=generator, dtype=torch.uint8)


def made(name: str) -> Augmentation:
    return AUGMENTATIONS[name](AUGMENTATIONS[name].Config(**SETTINGS[name]))


def test_every_augmentation_has_its_name():
    assert set(AUGMENTATIONS) == set(BY_HAND) == set(SETTINGS)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_by_name_is_its_function_with_its_own_options(name, memory_format):
    augmentation, frames = made(name), images(16, 6, 12)
    given, everywhere = frames.clone(memory_format=memory_format), torch.get_rng_state()
    result, again, other = (augmentation(given, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    expected = BY_HAND[name](frames, torch.Generator().manual_seed(0))
    assert torch.equal(result.images, expected.images)
    assert torch.equal(result.offsets, expected.offsets)
    assert torch.equal(result.images, again.images)
    assert torch.equal(result.images, other.images) == (name == "none")
    assert result.images.dtype == torch.uint8
    assert result.images.shape == (16, 6, *[augmentation.config.seen_size(12)] * 2)
    assert torch.equal(given, frames)
    assert torch.equal(torch.get_rng_state(), everywhere)


@pytest.mark.parametrize(
    ("name", "size"), [("crop", 9), ("translate", 16), *((n, 12) for n in ("shift", "cutout", "none"))]
)
def test_the_seen_size_is_that_of_the_augmented_image(name, size):
    assert made(name).config.seen_size(12) == size
    assert made(name).centre(images(2, 3, 12)).shape == (2, 3, size, size)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="looks for waits for a CUDA device")
@pytest.mark.parametrize("channels", [9, 4])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_on_cuda_nothing_waits_for_the_device(name, channels):
    augmentation, frames = made(name), images(16, channels, 12).cuda()
    generator = torch.Generator("cuda").manual_seed(0)
    augmentation(frames, generator)
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = augmentation(frames, generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert result.images.device.type == result.offsets.device.type == "cuda"


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("crop", {"size": 0}, r"augmentation.size must be at least 1 and at most .*, got 0"),
        ("shift", {"pad": -1}, r"augmentation.pad must be at least 0 and at most .*, got -1"),
        ("crop_shift", {"pad": -1}, r"augmentation.pad must be at least 0 and at most .*, got -1"),
        ("translate", {"pad": -1}, r"augmentation.pad must be at least 0 and at most .*, got -1"),
        ("cutout", {"least": 0}, r"augmentation.least must be at least 1 and at most .*, got 0"),
        ("cutout", {"least": 8, "most": 7}, r"augmentation.most=7 must be at least augmentation.least=8: change one"),
        ("color_jitter", {"brightness": 1.5}, r"augmentation.brightness must be at least 0 and at most 1, got 1.5"),
        ("color_jitter", {"hue": -0.1}, r"augmentation.hue must be at least 0 and at most 1, got -0.1"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(name, fields, message):
    with pytest.raises(ConfigError, match=message):
        check(AUGMENTATIONS[name].Config(**fields), "augmentation.")


def test_amounts_of_colour_left_open_are_rads():
    assert AUGMENTATIONS["color_jitter"].Config().amounts == (0.4, 0.4, 0.4, 0.5)
    assert AUGMENTATIONS["color_jitter"].Config(brightness=0.1, hue=0.0).amounts == (0.1, 0.4, 0.4, 0.0)


class Tensors(Augmentation):
    """Forgets to say where its images lie."""

    Config = AUGMENTATIONS["none"].Config

    def __call__(self, images: Tensor, generator: torch.Generator) -> Any:
        return images


class Half(Tensors):
    """Drops half of the batch."""

    def __call__(self, images: Tensor, generator: torch.Generator) -> Any:
        return unmoved(images[::2])


@pytest.mark.parametrize("cls", [Tensors, Half])
def test_an_augmentation_that_returns_something_else_is_refused_before_it_is_used(cls):
    with pytest.raises(ConfigError, match="must return a Crop of images and offsets"):
        cls(cls.Config()).check(torch.zeros((2, 3, 8, 8), dtype=torch.uint8))


def test_a_control_may_name_what_the_published_ones_do():
    assert {name for name, cls in AUGMENTATIONS.items() if cls.rests} == {"none", "crop", "shift", "crop_shift"}


def test_a_shift_may_change_the_brightness_by_a_normal_variable_cut_at_two_deviations():
    frames = torch.randint(256, (4_000, 3, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    frames[:, :, 0, 0], frames[:, :, 1, 1] = 200, 255
    shift = AUGMENTATIONS["shift"]
    bright = shift(shift.Config(pad=0, intensity=0.1))(frames, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    plain = random_shift(frames, 0, generator)
    factor = 1 + 0.1 * torch.randn((4_000, 1, 1, 1), generator=generator).clamp(-2, 2).double()
    assert torch.equal(bright.offsets, plain.offsets)
    off = bright.images - (frames * factor).clamp(max=255)
    assert float(off.abs().max()) <= 0.5 + 1e-4
    share = bright.images[:, 0, 0, 0].double() / 200
    assert (float(share.min()), float(share.max())) == pytest.approx((0.8, 1.2), abs=0.003)
    assert float(share.std()) == pytest.approx(0.0959, abs=0.004)  # of a normal variable cut at two deviations: 0.959
