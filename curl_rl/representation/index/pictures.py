"""Small pictures of frames, many on one sheet, as files that people can look at."""

import io
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from curl_rl.representation.frames import Frames

COLUMNS = 32
TILES = COLUMNS * COLUMNS  # on a sheet
SIDE = 64  # of a picture at most
_QUALITY = 85


class Tile(NamedTuple):
    """Where a frame's picture is."""

    sheet: int
    row: int
    column: int

    @property
    def number(self) -> int:
        """The picture's number among those of all sheets."""
        return self.sheet * TILES + self.row * COLUMNS + self.column

    @classmethod
    def at(cls, first: int, number: int) -> Self:
        """Return the place of a picture by its number on sheets of which the first has this one."""
        sheet, place = divmod(number, TILES)
        return cls(first + sheet, *divmod(place, COLUMNS))


def side_of(shape: tuple[int, ...]) -> int:
    """Return the side of the pictures of frames (C, H, W)."""
    return min(SIDE, max(shape[1:]))


def sheets(frames: Frames) -> Iterator[bytes]:
    """Yield JPEG files of 32 x 32 pictures, in the order of the frames."""
    for start in range(0, len(frames), TILES):
        yield _sheet(small(frames.newest(slice(start, start + TILES)), side_of(frames.frame_shape)))


def small(images: Tensor, side: int) -> Tensor:
    """Return images (B, C, H, W) uint8 as (B, 1 or 3, side, side), the whole of each in the middle of black."""
    shown = images[:, : 3 if images.shape[1] >= 3 else 1]
    scale = side / max(images.shape[2:])
    height, width = (max(1, round(scale * each)) for each in images.shape[2:])
    if (height, width) != images.shape[2:]:
        shown = F.interpolate(shown, size=(height, width), mode="bilinear", antialias=True)
    if width == height:
        return shown
    left, top = (side - width) // 2, (side - height) // 2
    return F.pad(shown, (left, side - width - left, top, side - height - top))


def read_pictures(sheets: Sequence[bytes], tiles: Iterable[Tile], side: int) -> Iterator[Tensor]:
    """Yield pictures (1 or 3, side, side) uint8; a sheet is read once for those that follow one another."""
    from PIL import Image

    opened, pixels = -1, np.empty(0)
    for tile in tiles:
        if tile.sheet != opened:
            with Image.open(io.BytesIO(sheets[tile.sheet])) as whole:
                opened, pixels = tile.sheet, np.atleast_3d(np.asarray(whole))
        left, top = tile.column * side, tile.row * side
        yield torch.from_numpy(pixels[top : top + side, left : left + side].transpose(2, 0, 1).copy())


def png(frame: Tensor) -> bytes:
    """Return a frame (C, H, W) uint8 as a PNG file, in colours where it has three channels or more."""
    return image_file(frame[: 3 if len(frame) >= 3 else 1], "PNG")


def picture_of(tiles: Sequence[Tensor]) -> bytes:
    """Return pictures side by side as a PNG file, the first apart from what follows."""
    padded = [F.pad(tile.expand(3, -1, -1), (2, 2, 2, 2), value=255) for tile in tiles]
    padded.insert(1, torch.full((3, padded[0].shape[1], 8), 255, dtype=torch.uint8))
    return image_file(torch.cat(padded, 2), "PNG")


def _sheet(tiles: Tensor) -> bytes:
    columns, (channels, side) = min(COLUMNS, len(tiles)), tiles.shape[1:3]
    rows = -(-len(tiles) // columns)
    if missing := rows * columns - len(tiles):
        tiles = torch.cat([tiles, tiles.new_zeros(missing, channels, side, side)])
    pixels = tiles.new_empty(rows, side, columns, side, channels)
    pixels.permute(0, 2, 4, 1, 3).copy_(tiles.unflatten(0, (rows, columns)))
    return image_file(pixels.flatten(2, 3).flatten(0, 1).permute(2, 0, 1), "JPEG", quality=_QUALITY)


def image_file(pixels: Tensor, kind: str, **options: int) -> bytes:
    """Return an image (1 or 3, H, W) uint8 as a file of a kind that Pillow knows, with its options."""
    from PIL import Image

    file = io.BytesIO()
    shown = pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
    Image.fromarray(shown.contiguous().numpy()).save(file, kind, **options)
    return file.getvalue()
