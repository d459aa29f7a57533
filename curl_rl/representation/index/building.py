"""Builds an index as a command does: says what it will take, embeds, writes, and goes on where it stopped."""

import sys
from contextlib import closing
from pathlib import Path

import torch

from curl_rl.config.indexing import Indexing
from curl_rl.config.pretraining import check_own_stack
from curl_rl.representation.export import ExportedEncoder, load_encoder
from curl_rl.representation.frames import Frames, frames_of
from curl_rl.representation.index.base import FrameIndex
from curl_rl.representation.index.folder import DESCRIPTION, LOCK, check_outside, check_place
from curl_rl.representation.index.pictures import side_of
from curl_rl.run.device import choose_device
from curl_rl.run.files import csv_text, write_whole
from curl_rl.run.locks import alone
from curl_rl.run.memory import check_fits
from curl_rl.run.progress import Progress
from curl_rl.types import ConfigError

_PER_PIXEL = 0.35  # bytes of a picture's JPEG, about


def index_frames(
    encoder: str, out: Path, config: Indexing, *, append: bool = False, table: Path | None = None, device: str = "auto"
) -> int:
    """Embed frames into an index's folder; return the exit status.

    Args: append, to an index that is there; table, a file for the embeddings in Lightly's form.

    Raises ConfigError where encoder, index and frames do not belong together, FileExistsError where another index is.
    """
    check_own_stack(config)
    check_place(out)
    check_outside(table, out)
    with alone(out / LOCK, f"another process indexes into {out}: wait for it or give another --out"):
        module = load_encoder(encoder, choose_device(device))
        frames = frames_of(config.data, **config.arguments())
        crc32, there = f"{frames.checksum:08x}", (out / DESCRIPTION).is_file()
        if append and not there:
            raise ConfigError(f"there is no index in {out}: leave --append out, or name one")
        index = FrameIndex.load(out, encoder=module) if there else None
        if index is not None and index.metric != config.metric:
            raise ConfigError(f"{out} compares by {index.metric}: give metric={index.metric}, or another --out")
        if index is not None and any(part.told["crc32"] == crc32 for part in index.parts):
            print(f"{out} has these {len(frames):,} frames", file=sys.stderr)
            index.origin = Path(encoder)
            index.put_encoder(out)  # which may be gone
        elif index is not None and not append:
            raise ConfigError(f"{out} holds an index of other frames: add --append, or give another --out")
        else:
            index = _built(index, encoder, module, frames, config)
            index.save(out)
        if table is not None:
            write_whole({table: lightly_csv(index)})
        print(f"{out}: {len(index):,} frames, {index.dim} numbers each{_search(index)}", file=sys.stderr)
    return 0


def _built(
    index: FrameIndex | None, encoder: str, module: ExportedEncoder, frames: Frames, config: Indexing
) -> FrameIndex:
    """Return an index with the frames, after what it takes was said, and that memory has it."""
    held = 2 * 4 * len(frames) * module.feature_dim  # and once more where they are normalised
    pictures = len(frames) * side_of(frames.frame_shape) ** 2 * min(frames.frame_shape[0], 3) * _PER_PIXEL
    print(
        f"{len(frames):,} frames: {held / 1e6:,.1f} MB of embeddings in memory, about {pictures / 1e6:,.1f} MB of "
        "pictures on disk",
        file=sys.stderr,
    )
    check_fits(
        f"embeddings of {len(frames):,} frames", int(held + pictures), torch.device("cpu"), "the number of frames"
    )
    with closing(Progress(len(frames))) as progress:
        if index is None:
            built = FrameIndex.build(module, frames, metric=config.metric, done=progress.update)
            built.origin = Path(encoder)
        else:
            built = index
            built.append(frames, done=progress.update)
    built.parts[-1].told.update({"data": config.data, "arguments": config.arguments()})
    return built


def _search(index: FrameIndex) -> str:
    """Return what is to be said of a search that is not exact."""
    count = min(10, len(index))
    return "" if index.exact else f"; searched by faiss, which finds {index.recall(count):.1%} of the {count} nearest"


def lightly_csv(index: FrameIndex) -> str:
    """Return the embeddings in Lightly's form: filenames, embedding_0, ..., labels, a number for each class."""
    header = ["filenames", *(f"embedding_{i}" for i in range(index.dim)), "labels"]
    _, classes = index.classes
    rows = zip(index.rows.names, index.embeddings.tolist(), classes.tolist(), strict=True)
    return csv_text([header, *([name, *values, number] for name, values, number in rows)])
