"""An index for TensorBoard's projector: embeddings, what is known of each frame, and its picture, as plain files."""

import re
from pathlib import Path

import torch

from curl_rl.representation.gallery.contents import evenly
from curl_rl.representation.gallery.page import opened_index
from curl_rl.representation.index import FrameIndex
from curl_rl.representation.index.pictures import png
from curl_rl.representation.index.rows import COLUMNS
from curl_rl.run.files import check_folder, write_whole

_WIDEST = 8192  # pixels of a sprite, which a browser holds as one texture
_CONFIG = """\
embeddings {{
  tensor_name: "frames"
  tensor_path: "tensors.tsv"
  metadata_path: "metadata.tsv"
  sprite {{
    image_path: "sprite.png"
    single_image_dim: {side}
    single_image_dim: {side}
  }}
}}
"""


def write_projector(index: FrameIndex | str | Path, out: str | Path, *, most: int = 20_000) -> tuple[Path, int]:
    """Write the files that `tensorboard --logdir OUT` shows; return the folder, and how many frames are there.

    Args: most, frames, of more evenly chosen ones; fewer where the sprite would be too large. Raises WriteError.
    """
    out = Path(out)
    check_folder(out)
    index, _ = opened_index(index)
    numbers = evenly(len(index), min(most, (_WIDEST // index.side) ** 2))
    rows = [["number", *COLUMNS], *([n, *index.rows.told(n)] for n in numbers.tolist())]
    vectors = ("\t".join(f"{value:.6g}" for value in row) for row in index.embeddings[numbers].tolist())
    contents = {
        "tensors.tsv": "\n".join(vectors) + "\n",
        "metadata.tsv": "".join("\t".join(_cell(each) for each in row) + "\n" for row in rows),
        "sprite.png": _sprite(index, numbers.tolist()),
        "projector_config.pbtxt": _CONFIG.format(side=index.side),
    }
    write_whole({out / name: content for name, content in contents.items()})
    return out, len(numbers)


def _cell(value: object) -> str:
    """Return a value as a cell of a table without quotes: what would end cell or line is a space."""
    return re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]", " ", str(value))


def _sprite(index: FrameIndex, numbers: list[int]) -> bytes:
    """Return pictures row by row in a square, as a PNG file."""
    side, across = index.side, 1
    while across**2 < len(numbers):
        across += 1
    whole = torch.zeros(3, across * side, across * side, dtype=torch.uint8)
    for place, tile in enumerate(index.pictures(numbers)):
        top, left = place // across * side, place % across * side
        whole[:, top : top + side, left : left + side] = tile
    return png(whole)
