"""Finds the frames of a source that are like nothing known, and lays them out for a person to name."""

import shutil
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from curl_rl.config.pretraining import check_own_stack
from curl_rl.config.unknowns import Flagging
from curl_rl.nn.clustering import k_means
from curl_rl.representation.frames import Frames, frames_of
from curl_rl.representation.gallery import build_gallery
from curl_rl.representation.index import FrameIndex
from curl_rl.representation.index.folder import DESCRIPTION, Part
from curl_rl.representation.index.pictures import sheets
from curl_rl.representation.index.rows import Rows
from curl_rl.representation.labels import to_be_labelled
from curl_rl.representation.looking import embed
from curl_rl.representation.unknowns.recogniser import Recogniser
from curl_rl.run.device import choose_device
from curl_rl.run.files import check_folder, csv_text, write_whole
from curl_rl.run.folder import weights_hash
from curl_rl.run.progress import Progress

TABLE, LABELS, INDEX, GALLERY = "flagged.csv", "labels.csv", "index", "gallery.html"


class Flagged(NamedTuple):
    """Frames beyond the limit, the clusters in their order, in each the most unknown first."""

    ids: Tensor  # (n,) int64, the frames' numbers
    scores: Tensor  # (n,) float32
    clusters: Tensor  # (n,) int64, the largest is 0
    nearest: list[str]  # known class that each is taken for, "" where none is known


def find_unknown(recogniser: Recogniser, features: Tensor, *, clusters: int = 4, seed: int = 1) -> Flagged:
    """Return which of features (N, d) are of unknown frames, in clusters of what is alike (k-means on unit length)."""
    scores = recogniser.scores(features)
    ids = (scores > recogniser.limit).nonzero()[:, 0]
    points = F.normalize(recogniser.compared(features[ids]), dim=1)
    found = _clustered(points, min(clusters, len(ids)), seed)
    order = torch.from_numpy(np.lexsort((-scores[ids].numpy(), found.numpy())))
    ids = ids[order]
    return Flagged(ids, scores[ids], found[order], recogniser.nearest(features[ids]))


def _clustered(points: Tensor, count: int, seed: int) -> Tensor:
    """Return the cluster (n,) of each point, the largest first."""
    if not count:
        return torch.empty(0, dtype=torch.int64)
    _, found = k_means(points, count, torch.Generator().manual_seed(seed))
    sizes = torch.bincount(found, minlength=count)
    return sizes.argsort(descending=True, stable=True).argsort()[found]


def index_of(recogniser: Recogniser, frames: Frames, features: Tensor, ids: Tensor, told: dict[str, Any]) -> FrameIndex:
    """Return an index of some frames, whose features (N, d) are known. Args: told, how they are read again."""
    shown = Frames(frames.newest(ids), source=frames.source)
    place = {"crc32": f"{shown.checksum:08x}", "stack": frames.stack, "shape": list(frames.frame_shape)}
    rows = Rows(*(_taken(column, ids.tolist()) for column in Rows.of(frames)))
    encoder = recogniser.encoder
    part = Part(features[ids], rows, tuple(sheets(shown)), {**told, **place})
    return FrameIndex([part], weights=weights_hash(encoder.encoder), encoder=encoder)


def _taken(column: Any, places: list[int]) -> Any:
    return column[places] if isinstance(column, np.ndarray) else [column[each] for each in places]


def flag(config: Flagging) -> int:
    """Flag frames as configured; return the exit status.

    Writes `flagged.csv`, `labels.csv`, whose classes are left for a person, and an index of the flagged frames. Raises
    FileExistsError where a table stands already, which may hold a person's work.
    """
    out = Path(config.out)
    check_own_stack(config)
    _check_place(out)
    source, device = config.arguments(), choose_device(config.device)
    known = frames_of(config.known, **source) if config.known else None
    given: dict[str, Any] = {"by": config.by, "accept": config.accept, "seed": config.seed, "device": device}
    recogniser = Recogniser(config.network, known=known, **given)
    frames = recogniser.frames(config.data, **source)
    with closing(Progress(len(frames))) as progress:
        features = embed(recogniser.encoder, frames, progress.update)
    flagged = find_unknown(recogniser, features, clusters=config.clusters, seed=config.seed)
    _clear(out)
    if len(flagged.ids):
        index = index_of(
            recogniser, frames, features, flagged.ids, {"data": config.data, "arguments": source, "some": True}
        )
        index.save(out / INDEX)
        columns = {"cluster": [str(each) for each in flagged.clusters.tolist()], "score": flagged.scores.tolist()}
        build_gallery(index, out / GALLERY, columns=columns, clusters=0, title="Flagged frames")
    names = [frames.name(each) for each in flagged.ids.tolist()]
    write_whole({out / TABLE: _table(names, flagged), out / LABELS: to_be_labelled(names)})
    print(
        f"{out}: {len(names):,} of {len(frames):,} frames are more unknown than {config.accept:g} of "
        f"{len(recogniser.held_out):,} known ones ({recogniser.by} beyond {recogniser.limit:.4g})",
        file=sys.stderr,
    )
    return 0


def _check_place(out: Path) -> None:
    check_folder(out)
    for name in (TABLE, LABELS):
        if (out / name).exists():
            raise FileExistsError(f"{out / name} is there, perhaps with labels: give another --out, or move it away")


def _clear(out: Path) -> None:
    """Remove the index and the page of a flagging that was cut off, or whose tables were moved away."""
    if (out / INDEX / DESCRIPTION).is_file():
        shutil.rmtree(out / INDEX)
    (out / GALLERY).unlink(missing_ok=True)


def _table(names: Sequence[str], flagged: Flagged) -> str:
    rows = zip(names, flagged.scores.tolist(), flagged.clusters.tolist(), flagged.nearest, strict=True)
    told = ([name, f"{score:.6g}", *rest] for name, score, *rest in rows)
    return csv_text([["name", "score", "cluster", "nearest"], *told])
