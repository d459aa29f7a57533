"""Pictures of some frames of an index, each sheet read once."""

import io
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from curl_rl.representation.index import FrameIndex


def picture_number(index: FrameIndex, number: int) -> int:
    """Return the place of a frame's picture among those of all sheets, 1024 on each."""
    sheet, row, column = index.tile(number)
    return sheet * 1024 + row * 32 + column


def pictures(index: FrameIndex, numbers: Sequence[int]) -> Iterator[Tensor]:
    """Yield the pictures (1 or 3, side, side) uint8 of frames; those of one sheet should follow one another."""
    from PIL import Image

    opened, pixels = -1, np.empty(0)
    for number in numbers:
        sheet, row, column = index.tile(number)
        if sheet != opened:
            with Image.open(io.BytesIO(index.sheets[sheet])) as whole:
                opened, pixels = sheet, np.atleast_3d(np.asarray(whole))
        top, left = row * index.side, column * index.side
        tile = pixels[top : top + index.side, left : left + index.side]
        yield torch.from_numpy(tile.transpose(2, 0, 1).copy())
