"""Random crops, shifts, cutouts and colours of uint8 image batches, on their device; each reports its offsets."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from curl_rl.types import ConfigError, Crop


def random_offsets(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Draw top-left corners uniformly over all places where a `size` window fits, shape (B, 2) int64.

    Unlike the original, whose corners stop one short, the last row and column are reachable too.
    """
    places = images.shape[-1] - size + 1
    if places < 1:
        raise ConfigError(
            f"augmentation.size={size} does not fit in images of side {images.shape[-1]}: lower the one or enlarge "
            "the other"
        )
    return _draw_corners(images, places, generator)


def _draw_corners(images: Tensor, places: int, generator: torch.Generator) -> Tensor:
    """Draw rows and columns uniformly from the first `places`, (B, 2)."""
    if images.shape[-1] != images.shape[-2]:
        raise ConfigError(f"random crops need square images, got {tuple(images.shape[-2:])}")
    return torch.randint(places, (images.shape[0], 2), generator=generator, device=images.device)


def crop(images: Tensor, size: int, offsets: Tensor, seen: tuple[Tensor, int] | None = None) -> Crop:
    """Cut a `size` x `size` window out of each image, all its channels alike.

    Args: images (B, C, H, W); offsets (B, 2) top rows and left columns; seen, the corners (B, 2) and the side of the
    part of each image that there is, the whole if not given. A window that reaches over it repeats its border.
    """
    corners, side = (torch.zeros_like(offsets), images.shape[-1]) if seen is None else seen
    cut = _crop_by_slices if images.device.type == "cpu" else _crop_by_index
    return Crop(cut(images, size, offsets, corners, side), offsets)


def _crop_by_slices(images: Tensor, size: int, offsets: Tensor, corners: Tensor, side: int) -> Tensor:
    # Row-wise copies through NumPy views, each pixel moved once: a tenth of the time of a gather on a CPU.
    out = torch.empty((*images.shape[:2], size, size), dtype=images.dtype)
    first = (corners - offsets).clamp_(min=0).tolist()  # of the window's rows and columns, that the image fills
    last = (corners + side - offsets).clamp_(max=size).tolist()
    places = zip(images.numpy(), out.numpy(), offsets.tolist(), first, last, strict=True)
    for source, target, (row, column), (top, left), (bottom, right) in places:
        middle = target[:, top:bottom]
        middle[:, :, left:right] = source[:, row + top : row + bottom, column + left : column + right]
        if left or right < size:
            middle[:, :, :left], middle[:, :, right:] = middle[:, :, left : left + 1], middle[:, :, right - 1 : right]
        if top or bottom < size:
            target[:, :top], target[:, bottom:] = target[:, top : top + 1], target[:, bottom - 1 : bottom]
    return out


def _crop_by_index(images: Tensor, size: int, offsets: Tensor, corners: Tensor, side: int) -> Tensor:
    span = torch.arange(size, device=images.device)
    places = (offsets[:, :, None] + span).clamp(corners[:, :, None], corners[:, :, None] + side - 1)
    sample = torch.arange(images.shape[0], device=images.device)[:, None, None]
    # (B, h, w, C) in memory: channels last already
    return images[sample, :, places[:, 0, :, None], places[:, 1, None, :]].permute(0, 3, 1, 2)


def random_crop(images: Tensor, size: int, generator: torch.Generator) -> Crop:
    """Crop each image at its own random place; stacked frames of one sample are cut alike.

    Args: images (B, C, H, W). Returns images (B, C, size, size). Raises ConfigError where the crop does not fit.
    """
    return crop(images, size, random_offsets(images, size, generator))


def random_shift(images: Tensor, pad: int, generator: torch.Generator) -> Crop:
    """Shift each image by up to `pad` pixels, its border replicated (Kostrikov et al. 2020, DrQ)."""
    size = images.shape[-1]
    _check_pad(pad, images, "leaves nothing of")
    return crop(images, size, _draw_corners(images, 2 * pad + 1, generator) - pad)


def random_intensity(images: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """Make each image brighter or darker by a normal variable of this deviation, cut at two of them (DrQ on Atari).

    The originals leave the sum in floats; here it is bytes again, so that white stays white.
    """
    draws = torch.randn((len(images), 1, 1, 1), generator=generator, device=images.device).clamp_(-2, 2)
    return (images * (1 + scale * draws)).add_(0.5).clamp_(0, 255).to(torch.uint8)


def _check_pad(pad: int, images: Tensor, fault: str) -> None:
    if pad >= images.shape[-1]:
        raise ConfigError(
            f"augmentation.pad={pad} {fault} images of side {images.shape[-1]}: lower the one or enlarge the other"
        )


def center_crop(images: Tensor, size: int) -> Tensor:
    """Cut the middle `size` x `size` window: (..., H, W) to (..., size, size), a view."""
    top, left = (images.shape[-2] - size) // 2, (images.shape[-1] - size) // 2
    if top < 0 or left < 0:
        raise ConfigError(f"a {size}-pixel crop does not fit {tuple(images.shape[-2:])} images; lower the crop size")
    return images[..., top : top + size, left : left + size]


def random_crop_shift(images: Tensor, margin: int, generator: torch.Generator) -> Crop:
    """Crop each image by `margin` pixels, then shift what is left by up to as many, its border replicated.

    Laskin et al.'s views on Atari: 84 to 80, padded to 88, cropped to 84.
    """
    size = images.shape[-1]
    _check_pad(margin, images, "leaves nothing of")
    corners = random_offsets(images, size - margin, generator)
    moves = _draw_corners(images, margin + 1, generator) - margin
    return crop(images, size, corners + moves, (corners, size - margin))


def random_translate(images: Tensor, pad: int, generator: torch.Generator) -> Crop:
    """Place each image at random on a black canvas that is `pad` pixels wider on every side (Laskin et al. 2020b, RAD).

    The original places an observation and the next alike; here each draw is its own, as for all other augmentations.
    """
    _check_pad(pad, images, "makes mostly black")
    placed = random_crop(F.pad(images, (2 * pad,) * 4), images.shape[-1] + 2 * pad, generator)
    return placed._replace(offsets=placed.offsets - 2 * pad)


def center_fit(images: Tensor, size: int) -> Tensor:
    """Bring images (B, C, H, W) to `size` for acting: cut to their middle, or in the middle of a black canvas."""
    margin = size - images.shape[-1]
    if margin == 0:
        return images
    if margin < 0:
        return center_crop(images, size)
    return F.pad(images, (margin // 2, margin - margin // 2) * 2)


def random_cutout(images: Tensor, least: int, most: int, generator: torch.Generator) -> Crop:
    """Black out of each image one rectangle whose sides are `least` to `most` pixels (Laskin et al. 2020b, RAD).

    It lies anywhere inside; in the original its top row and its height are one draw, and so for columns.
    """
    if most >= min(images.shape[-2:]):
        raise ConfigError(
            f"augmentation.most={most} leaves nothing of images of side {min(images.shape[-2:])}: lower the one or "
            "enlarge the other"
        )
    rows, columns = (_random_spans(images, side, least, most, generator) for side in images.shape[-2:])
    hole = rows[:, :, None] & columns[:, None, :]
    return unmoved(images * ~hole[:, None])  # on a CPU a fifth of a masked fill's time


def _random_spans(images: Tensor, side: int, least: int, most: int, generator: torch.Generator) -> Tensor:
    """Draw for each image some neighbours out of `side` places, as a mask (B, side)."""
    options: dict[str, Any] = {"generator": generator, "device": images.device}
    length = torch.randint(least, most + 1, (len(images), 1), **options)
    start = (torch.rand((len(images), 1), **options) * (side - length + 1)).long()
    place = torch.arange(side, device=images.device)
    return (place >= start) & (place < start + length)


def random_color_jitter(images: Tensor, amounts: tuple[float, ...], generator: torch.Generator) -> Crop:
    """Change each image's colours at random, all its stacked frames alike (Laskin et al. 2020b, RAD).

    Args: amounts, by how much brightness, contrast and saturation become more or less than they are, as shares of them,
    and hue turns, as a share of the circle. Contrast is about each colour's mean over the stack. Images whose channels
    are no multiple of 3 are grey, and have no saturation and hue.
    """
    draws = 2 * torch.rand((len(images), 4, 1, 1), generator=generator, device=images.device) - 1
    light, contrast, saturation, turn = (amount * draw for amount, draw in zip(amounts, draws.unbind(1), strict=True))
    mix = _color_matrix(1 + saturation, turn) if images.shape[1] % 3 == 0 else torch.ones_like(turn)
    mix = (1 + light) * mix
    mean = mix @ _color_means(images, mix.shape[1])[:, :, None]
    recolor = _recolor_one_by_one if images.device.type == "cpu" else _recolor_at_once
    return unmoved(recolor(images, (1 + contrast) * mix, (-contrast * mean)[:, :, 0]))


def _color_matrix(saturation: Tensor, turn: Tensor) -> Tensor:
    """Return the matrices (B, 3, 3) that stretch colours (r, g, b) from grey and turn them about it, given (B, 1, 1).

    The original goes through hue, saturation and value; a turn about the grey axis is its linear counterpart, under
    which brightness, contrast, saturation and hue are one matrix and its order of them does not matter.
    """
    colour = torch.arange(3, device=turn.device)
    angle = turn - (colour[:, None] - colour) / 3
    return (1 + 2 * saturation * torch.cos(2 * math.pi * angle)) / 3


def _color_means(images: Tensor, colours: int) -> Tensor:
    """Return the mean of each colour over an image's stacked frames, (B, colours)."""
    if images.device.type == "cpu":  # NumPy sums bytes thirty times faster
        sums = torch.from_numpy(images.numpy().sum((2, 3), dtype=np.uint32).astype(np.float32))
        return sums.unflatten(1, (-1, colours)).mean(1) / (images.shape[2] * images.shape[3])
    return images.unflatten(1, (-1, colours)).float().mean((1, 3, 4))


def _recolor_one_by_one(images: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    # One image stays in the cache, a convolution adds the bias, NumPy writes bytes: a quarter of the batch's time.
    frames = images.unflatten(1, (-1, bias.shape[1]))
    out = np.empty(frames.shape, np.uint8)
    for i, (weight, offset) in enumerate(zip(matrix[:, :, :, None, None], bias + 0.5, strict=True)):
        out[i] = F.conv2d(frames[i].float(), weight, offset).clamp_(0, 255).numpy()
    return torch.from_numpy(out).flatten(1, 2)


def _recolor_at_once(images: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    frames = images.unflatten(1, (-1, bias.shape[1])).flatten(3).float()  # (B, k, colours, pixels)
    frames = (matrix[:, None] @ frames).add_(bias[:, None, :, None] + 0.5)  # halves are rounded up
    return frames.clamp_(0, 255).to(torch.uint8).reshape(images.shape)


def unmoved(images: Tensor) -> Crop:
    """Return images as they are, as a view whose offsets are zero."""
    return Crop(images, torch.zeros((len(images), 2), dtype=torch.int64, device=images.device))
