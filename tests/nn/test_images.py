"""Augmentations: every draw reachable, offsets reported rightly, colours as written out, the same on every path."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curl_rl.nn.images import (
    _color_matrix,
    _color_means,
    _crop_by_index,
    _crop_by_slices,
    _recolor_at_once,
    _recolor_one_by_one,
    center_crop,
    center_fit,
    crop,
    random_color_jitter,
    random_crop,
    random_crop_shift,
    random_cutout,
    random_offsets,
    random_shift,
    random_translate,
    unmoved,
)
from curl_rl.types import ConfigError


def images(batch: int, channels: int, height: int, width: int | None = None, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (batch, channels, height, width or height), generator=generator, dtype=torch.uint8)


def cut_one_by_one(stack: torch.Tensor, size: int, offsets: torch.Tensor) -> torch.Tensor:
    corners = offsets.tolist()
    pieces = [image[:, y : y + size, x : x + size] for image, (y, x) in zip(stack, corners, strict=True)]
    return torch.stack(pieces)


def test_every_offset_is_drawn_and_all_equally_often():
    side, size, draws = 8, 5, 16_000
    generator = torch.Generator().manual_seed(0)
    offsets = random_offsets(torch.empty((draws, 1, side, side), dtype=torch.uint8), size, generator)
    places = (side - size + 1) ** 2
    counts = torch.bincount(offsets[:, 0] * (side - size + 1) + offsets[:, 1], minlength=places)
    assert len(counts) == places
    expected = draws / places
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 37.7  # the 99.9th percentile at 15 degrees of freedom


def test_first_and_last_offsets_give_the_corners_of_the_image():
    frames = images(400, 2, 8)
    cut, offsets = random_crop(frames, 7, torch.Generator().manual_seed(0))
    assert set(map(tuple, offsets.tolist())) == set(itertools.product((0, 1), repeat=2))
    for corner, pixel in (((0, 0), (0, 0)), ((1, 1), (-1, -1))):
        chosen = (offsets == torch.tensor(corner)).all(1)
        assert torch.equal(cut[chosen][..., pixel[0], pixel[1]], frames[chosen][..., pixel[0], pixel[1]])


@given(batch=st.integers(1, 5), channels=st.integers(1, 4), side=st.integers(1, 9), data=st.data())
@settings(max_examples=50, deadline=None)
def test_both_ways_of_cutting_equal_one_cut_at_a_time(batch, channels, side, data):
    size = data.draw(st.integers(1, side))
    frames = images(batch, channels, side)
    offsets = random_offsets(frames, size, torch.Generator().manual_seed(batch))
    expected = cut_one_by_one(frames, size, offsets)
    for cut in (_crop_by_slices, _crop_by_index):
        assert torch.equal(cut(frames, size, offsets, torch.zeros_like(offsets), side), expected)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_reported_offsets_cut_the_same_crop_again(memory_format):
    frames = images(16, 9, 20).contiguous(memory_format=memory_format)
    kept = frames.clone()
    drawn = random_crop(frames, 13, torch.Generator().manual_seed(3))
    assert drawn.images.dtype == torch.uint8
    assert drawn.images.shape == (16, 9, 13, 13)
    assert drawn.offsets.dtype == torch.int64
    assert torch.equal(drawn.images, cut_one_by_one(frames, 13, drawn.offsets))
    assert torch.equal(crop(frames, 13, drawn.offsets).images, drawn.images)
    assert torch.equal(frames, kept)


def test_samples_are_cut_independently_and_their_stack_alike():
    ramp = torch.arange(20 * 20, dtype=torch.int32).reshape(1, 1, 20, 20).expand(64, 9, 20, 20)
    cut, offsets = random_crop(ramp, 10, torch.Generator().manual_seed(0))
    assert torch.equal(cut, cut[:, :1].expand_as(cut))
    assert len(set(map(tuple, offsets.tolist()))) > 30
    assert torch.equal(cut[:, 0, 0, 0].long(), offsets[:, 0] * 20 + offsets[:, 1])
    rows, columns = offsets.double().T
    assert abs(float(torch.corrcoef(torch.stack([rows, columns]))[0, 1])) < 0.4


def test_the_generator_decides_the_crop():
    frames = images(32, 3, 16)
    first, again, other = (random_crop(frames, 8, torch.Generator().manual_seed(s)).offsets for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_crop_as_large_as_the_image_is_the_image():
    frames = images(4, 3, 9)
    cut, offsets = random_crop(frames, 9, torch.Generator())
    assert torch.equal(cut, frames)
    assert not offsets.any()


def test_crops_that_do_not_fit_are_refused_with_the_mend():
    with pytest.raises(ConfigError, match=r"augmentation.size=9 does not fit in images of side 8: lower the one"):
        random_crop(images(2, 3, 8), 9, torch.Generator())
    with pytest.raises(ConfigError, match=r"square images, got \(8, 10\)"):
        random_crop(images(2, 3, 8, 10), 5, torch.Generator())
    with pytest.raises(ConfigError, match="lower the crop size"):
        center_crop(images(2, 3, 8, 10), 9)


@given(channels=st.integers(1, 3), side=st.integers(1, 6), data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_window_that_reaches_over_its_part_of_the_image_repeats_the_border(channels, side, data):
    margin, reach = data.draw(st.integers(0, 3)), data.draw(st.integers(0, side - 1))
    size = data.draw(st.integers(1, side + reach))
    frames, generator = images(4, channels, side + margin), torch.Generator().manual_seed(side)
    corners = torch.randint(margin + 1, (4, 2), generator=generator)
    # Its first or its last row may lie outside, not all of them.
    moves = torch.randint(1 - size, side, (4, 2), generator=generator)
    parts = cut_one_by_one(frames, side, corners)
    padded = torch.nn.functional.pad(parts.float(), (size + side,) * 4, mode="replicate").byte()
    expected = cut_one_by_one(padded, size, moves + size + side)
    for cut in (_crop_by_slices, _crop_by_index):
        assert torch.equal(cut(frames, size, corners + moves, corners, side), expected)
    assert torch.equal(crop(frames, size, corners + moves, (corners, side)).images, expected)


def test_shift_reaches_every_offset_and_moves_the_image_by_it():
    pad, frames = 1, images(300, 2, 6)
    shifted, offsets = random_shift(frames, pad, torch.Generator().manual_seed(0))
    assert shifted.shape == frames.shape
    assert set(map(tuple, offsets.tolist())) == set(itertools.product((-1, 0, 1), repeat=2))
    padded = torch.nn.functional.pad(frames.float(), (pad,) * 4, mode="replicate").byte()
    assert torch.equal(shifted, cut_one_by_one(padded, 6, offsets + pad))
    still = (offsets == 0).all(1)
    assert still.any()
    assert torch.equal(shifted[still], frames[still])


def test_a_cropped_shift_is_a_crop_padded_and_cropped_again():
    margin, side, frames = 1, 6, images(2000, 2, 6)
    generator = torch.Generator().manual_seed(0)
    views, offsets = random_crop_shift(frames, margin, generator.clone_state())
    assert views.dtype == torch.uint8
    assert views.shape == frames.shape
    corners = [random_offsets(torch.empty(2000, 1, size, size), cut, generator) for size, cut in ((6, 5), (7, 6))]
    cropped = cut_one_by_one(frames, side - margin, corners[0])
    padded = torch.nn.functional.pad(cropped.float(), (margin,) * 4, mode="replicate").byte()
    assert torch.equal(views, cut_one_by_one(padded, side, corners[1]))
    assert set(map(tuple, torch.cat(corners, 1).tolist())) == set(itertools.product((0, 1), repeat=4))
    assert torch.equal(offsets, corners[0] + corners[1] - margin)


def test_the_offsets_of_a_cropped_shift_say_where_its_pixels_were():
    ramp = torch.arange(400, dtype=torch.int32).reshape(1, 1, 20, 20).expand(100, 2, 20, 20)
    margin = 4
    views, offsets = random_crop_shift(ramp, margin, torch.Generator().manual_seed(0))
    assert set(offsets.flatten().tolist()) == set(range(-margin, margin + 1))
    inner = slice(2 * margin, 12)  # here no border is repeated, whatever was drawn
    rows = torch.arange(20)[inner] + offsets[:, :1]
    columns = torch.arange(20)[inner] + offsets[:, 1:]
    expected = rows[:, :, None] * 20 + columns[:, None, :]
    assert torch.equal(views[:, :, inner, inner].long(), expected[:, None].expand(-1, 2, -1, -1))


def test_a_cropped_shift_of_no_margin_and_unmoved_leave_the_image():
    frames = images(4, 3, 9)
    assert torch.equal(random_crop_shift(frames, 0, torch.Generator()).images, frames)
    same, offsets = unmoved(frames)
    assert same is frames
    assert torch.equal(offsets, torch.zeros((4, 2), dtype=torch.int64))


@pytest.mark.parametrize(("side", "size", "start"), [(100, 84, 8), (8, 8, 0), (9, 4, 2), (9, 5, 2), (8, 5, 1)], ids=str)
def test_centre_crop_cuts_the_middle(side, size, start):
    frames = images(2, 3, side)
    cut = center_crop(frames, size)
    assert torch.equal(cut, frames[:, :, start : start + size, start : start + size])
    assert cut.data_ptr() == frames[:, :, start:, start:].data_ptr()
    assert torch.equal(center_crop(frames[0, 0], size), cut[0, 0])


def test_centre_crop_takes_images_that_are_not_square():
    frames = images(2, 3, 8, 11)
    assert torch.equal(center_crop(frames, 5), frames[:, :, 1:6, 3:8])


# translation


def test_a_translation_places_the_whole_image_on_black_wherever_it_fits():
    pad, side, frames = 1, 6, images(400, 2, 6).clamp_min(1)
    placed, offsets = random_translate(frames, pad, torch.Generator().manual_seed(0))
    assert (placed.shape, placed.dtype, offsets.dtype) == ((400, 2, 8, 8), torch.uint8, torch.int64)
    assert set(map(tuple, offsets.tolist())) == set(itertools.product((-2, -1, 0), repeat=2))
    assert torch.equal(cut_one_by_one(placed, side, -offsets), frames)
    assert ((placed > 0).sum((2, 3)) == side * side).all()  # and nothing else on the canvas


def test_places_of_a_translation_are_equally_likely():
    _, offsets = random_translate(images(9000, 1, 2), 1, torch.Generator().manual_seed(0))
    counts = torch.bincount(-3 * offsets[:, 0] - offsets[:, 1], minlength=9)
    assert float(((counts - 1000.0) ** 2 / 1000).sum()) < 26.1  # the 99.9th percentile at 8 degrees of freedom


@pytest.mark.parametrize(("side", "size", "start"), [(6, 10, 2), (6, 9, 1), (6, 6, 0)])
def test_fitting_a_small_image_puts_it_in_the_middle(side, size, start):
    frames = images(3, 2, side).clamp_min(1)
    fitted = center_fit(frames, size)
    assert fitted.shape == (3, 2, size, size)
    assert torch.equal(fitted[:, :, start : start + side, start : start + side], frames)
    assert int((fitted > 0).sum()) == frames.numel()


@pytest.mark.parametrize("size", [5, 9])
def test_fitting_a_large_image_cuts_its_middle(size):
    frames = images(3, 2, 9)
    assert torch.equal(center_fit(frames, size), center_crop(frames, size))


# cutout


def test_a_cutout_blacks_out_one_rectangle_of_all_channels_anywhere_inside():
    least, most, side, frames = 2, 3, 5, images(4000, 2, 5).clamp_min(1)
    cut, offsets = random_cutout(frames, least, most, torch.Generator().manual_seed(0))
    assert (cut.dtype, offsets.any()) == (torch.uint8, torch.tensor(False))
    hole = cut[:, 0] == 0
    assert torch.equal(cut, frames * ~hole[:, None])
    rows, columns = hole.any(2), hole.any(1)
    assert torch.equal(hole, rows[:, :, None] & columns[:, None, :])
    places = [
        tuple(place in range(start, start + length) for place in range(side))
        for length in range(least, most + 1)
        for start in range(side - length + 1)
    ]
    for spans in (rows, columns):  # every rectangle that fits occurs, and no other
        assert set(map(tuple, spans.tolist())) == set(places)
        assert abs(float((spans.sum(1) == least).float().mean()) - 0.5) < 0.03
    assert abs(float(torch.corrcoef(torch.stack([rows.sum(1), columns.sum(1)]).float())[0, 1])) < 0.06


def test_a_cutout_takes_images_that_are_not_square_and_leaves_its_input():
    frames = images(300, 1, 4, 6).clamp_min(1)
    kept = frames.clone()
    cut, _ = random_cutout(frames, 3, 3, torch.Generator().manual_seed(0))
    assert torch.equal(frames, kept)
    assert set((cut == 0).sum((1, 2, 3)).tolist()) == {9}
    assert {row.index(0) for row in cut.amin((1, 2)).tolist()} == {0, 1, 2, 3}
    assert {column.index(0) for column in cut.amin((1, 3)).tolist()} == {0, 1}
    with pytest.raises(ConfigError, match=r"augmentation.most=4 leaves nothing of images of side 4: lower the one or"):
        random_cutout(frames, 3, 4, torch.Generator())


# colours


def hue_turned(colour: list[float], turn: float) -> list[float]:
    """Turn a colour about the grey axis by Rodrigues' formula, with k = (1, 1, 1) / sqrt(3)."""
    angle, (r, g, b) = 2 * math.pi * turn, colour
    cross = [(b - g) / math.sqrt(3), (r - b) / math.sqrt(3), (g - r) / math.sqrt(3)]
    grey = (r + g + b) / 3
    return [
        c * math.cos(angle) + x * math.sin(angle) + grey * (1 - math.cos(angle))
        for c, x in zip(colour, cross, strict=True)
    ]


def jittered(image: torch.Tensor, light: float, spread: float, saturation: float, turn: float) -> torch.Tensor:
    """Write one image's jitter (C, H, W) out in steps: saturation, hue, brightness, contrast."""
    colours = 3 if len(image) % 3 == 0 else 1
    pixels = image.double().reshape(-1, colours, image[0].numel()).permute(0, 2, 1).reshape(-1, colours)
    if colours == 3:
        grey = pixels.mean(1, keepdim=True)
        pixels = grey + (1 + saturation) * (pixels - grey)
        pixels = torch.tensor([hue_turned(pixel, turn) for pixel in pixels.tolist()], dtype=torch.float64)
    pixels = (1 + light) * pixels
    mean = pixels.mean(0)
    pixels = mean + (1 + spread) * (pixels - mean)
    pixels = (pixels.clamp(0, 255) + 0.5).floor().clamp_max(255)
    frames = pixels.reshape(-1, image[0].numel(), colours).permute(0, 2, 1)
    return frames.reshape(image.shape)


AMOUNTS = (0.4, 0.3, 0.5, 0.25)


@pytest.mark.parametrize("channels", [9, 4, 3, 1])
def test_colour_jitter_is_its_steps_one_after_another(channels):
    frames = images(12, channels, 6)
    generator = torch.Generator().manual_seed(1)
    draws = (2 * torch.rand((12, 4), generator=generator.clone_state()) - 1) * torch.tensor(AMOUNTS)
    result, offsets = random_color_jitter(frames, AMOUNTS, generator)
    assert (result.dtype, result.shape, offsets.tolist()) == (torch.uint8, frames.shape, [[0, 0]] * 12)
    expected = torch.stack([jittered(image, *factors) for image, factors in zip(frames, draws.tolist(), strict=True)])
    wrong = (result.double() - expected).abs()
    assert wrong.max() <= 1  # where float32 falls on the other side of a half
    assert (wrong > 0).double().mean() < 0.01
    assert (result != frames).double().mean() > 0.5


def test_turning_hues_by_a_third_makes_red_green():
    red, third = torch.tensor([[1.0], [0], [0]]), torch.tensor([[[1 / 3]]])
    one = torch.ones(1, 1, 1)
    torch.testing.assert_close(_color_matrix(one, third)[0] @ red, torch.tensor([[0.0], [1], [0]]))
    torch.testing.assert_close(_color_matrix(one, -third)[0] @ red, torch.tensor([[0.0], [0], [1]]))
    torch.testing.assert_close(_color_matrix(one, 0 * third)[0], torch.eye(3))
    torch.testing.assert_close(_color_matrix(0 * one, third)[0], torch.full((3, 3), 1 / 3))


@pytest.mark.parametrize("channels", [9, 4])
def test_a_jitter_of_nothing_leaves_every_byte(channels):
    frames = images(8, channels, 16)
    assert set(frames.flatten().tolist()) == set(range(256))
    assert torch.equal(random_color_jitter(frames, (0.0,) * 4, torch.Generator()).images, frames)


def test_stacked_frames_change_alike_and_samples_do_not():
    first = images(1, 3, 5)
    stack = torch.cat([first, first.flip(-1), first.flip(-2)], 1).expand(20, -1, -1, -1)
    result = random_color_jitter(stack, AMOUNTS, torch.Generator().manual_seed(0)).images
    assert torch.equal(result[:, :3].flip(-1), result[:, 3:6])
    assert torch.equal(result[:, :3].flip(-2), result[:, 6:])
    assert len({tuple(image.flatten().tolist()) for image in result}) == 20


def test_grey_images_know_brightness_and_contrast_only():
    frames, generator = images(8, 4, 6), torch.Generator().manual_seed(0)
    coloured = random_color_jitter(frames, AMOUNTS, generator.clone_state()).images
    assert torch.equal(coloured, random_color_jitter(frames, (*AMOUNTS[:2], 0.0, 0.0), generator).images)
    flat = torch.full((200, 4, 3, 3), 100, dtype=torch.uint8)
    bright = random_color_jitter(flat, (0.1, 0.9, 0.0, 0.0), generator).images
    assert torch.equal(bright, bright[:, :1, :1, :1].expand_as(bright))  # a flat image has no contrast
    assert set(bright.flatten().tolist()) == set(range(90, 111))


@pytest.mark.parametrize("colours", [3, 1])
def test_both_ways_of_recolouring_agree(colours):
    frames, generator = images(7, 3 * colours, 8), torch.Generator().manual_seed(0)
    matrix = torch.randn((7, colours, colours), generator=generator)
    bias = 50 * torch.randn((7, colours), generator=generator)
    one, other = (way(frames, matrix, bias) for way in (_recolor_one_by_one, _recolor_at_once))
    assert (one.dtype, one.shape) == (other.dtype, other.shape) == (torch.uint8, frames.shape)
    assert ((one.int() - other.int()).abs() > 0).double().mean() < 0.01
    assert set(one.flatten().tolist()) >= {0, 255}  # neither wraps around
    assert (one.int() - other.int()).abs().max() <= 1


def test_the_mean_of_a_colour_is_over_all_frames():
    frames = images(5, 9, 7)
    expected = torch.stack([frames[:, c::3].double().mean((1, 2, 3)) for c in range(3)], 1)
    torch.testing.assert_close(_color_means(frames, 3).double(), expected, rtol=1e-6, atol=0)
