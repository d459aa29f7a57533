"""How well what is near is what is meant: measures of a ranking, and a threshold below which a match is "unknown"."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from curl_rl.representation.frames.base import divide
from curl_rl.representation.index import FrameIndex
from curl_rl.representation.index.exact import Exact
from curl_rl.types import ConfigError

UNKNOWN = "unknown"
_AT_ONCE = 1 << 24  # numbers of a block of queries against all frames


def ranked_measures(relevant: Tensor, counts: Sequence[int]) -> dict[str, float]:
    """Return measures of rankings, each the mean over those that have anything relevant; NaN where none has.

    Args: relevant (Q, N) bool, whether what stands at a place is relevant, the nearest first; counts, the k of recall
    and precision.

    `recall_k` is the share of queries with anything relevant among the first k (Jegou et al. 2011), `precision_k` the
    relevant share of the first k, `r_precision` that of the first R where R are relevant, `map` the mean average
    precision (Musgrave et al. 2020, section 2.2, has the last two).
    """
    total = relevant.sum(1)
    ranks, total = relevant[total > 0].double(), total[total > 0]
    if not len(ranks):
        names = [f"{name}_{count}" for count in counts for name in ("recall", "precision")]
        return dict.fromkeys([*names, "r_precision", "map"], float("nan"))
    found = ranks.cumsum(1)
    precision = found / torch.arange(1, ranks.shape[1] + 1)
    measures = {}
    for count in counts:
        at = min(count, ranks.shape[1]) - 1
        measures[f"recall_{count}"] = (found[:, at] > 0).double().mean()
        measures[f"precision_{count}"] = (found[:, at] / count).mean()
    measures["r_precision"] = precision.gather(1, total[:, None] - 1).mean()
    measures["map"] = ((precision * ranks).sum(1) / total).mean()
    return {name: float(value) for name, value in measures.items()}


def rankings(
    features: Tensor, queries: Tensor, groups: Tensor, among: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rank frames by cosine, a block of queries at a time; those of a query's own group stand last.

    Args: features (N, d); queries and among, numbers of frames; groups (N,), such as episodes.

    Yields of each block its queries (Q,), the frames that are near to each (Q, M), the nearest first, and which of them
    are of other groups.
    """
    features = F.normalize(features, dim=1)
    for ids in queries.split(max(1, _AT_ONCE // len(among))):
        cosine = features[ids] @ features[among].T
        cosine[groups[ids][:, None] == groups[among]] = -2
        cosine, order = cosine.sort(1, descending=True)
        yield ids, among[order], cosine > -2


class Threshold(NamedTuple):
    """How alike a frame must be to its nearest of a known class for that class to be its own."""

    value: float  # a cosine, or a Euclidean distance below zero
    precision: float  # share of the answers that were right on held-out frames
    answered: float  # share of the held-out frames that got an answer
    frames: int  # how many were held out


def calibrate(index: FrameIndex, precision: float = 0.95, *, share: float = 0.25, seed: int = 0) -> Threshold:
    """Return the threshold that answers most held-out frames while so large a share of the answers is right.

    Args: share, of the episodes that are held out; what was never seen takes no part, for it is not known beforehand.

    Raises ConfigError for an index without two classes, and where no threshold is so precise.
    """
    if not 0 < precision <= 1:
        raise ConfigError(f"precision must be above 0 and at most 1, got {precision}")
    names, classes = index.classes
    known = (classes >= 0).nonzero()[:, 0]
    if len(names) < 2:
        raise ConfigError("the index has no two classes to tell apart: index frames with labels or classes=folder")
    first, held_out = (known[part] for part in divide(index.episodes[known], classes[known], share, seed=seed))
    if not len(held_out) or not len(first):
        kind = "holds no episode out" if len(first) else "holds every episode out"
        raise ConfigError(f"a share of {share:g} {kind}: give more labels, or another share")
    found, likeness = _nearest(index, first, index.embeddings[held_out])
    right = classes[found] == classes[held_out]
    likeness, order = likeness.sort(descending=True, stable=True)
    precise = right[order].double().cumsum(0) / torch.arange(1, len(order) + 1)
    last_of_equals = torch.ones(len(order), dtype=torch.bool)
    last_of_equals[:-1] = likeness[:-1] > likeness[1:]
    if not len(good := ((precise >= precision) & last_of_equals).nonzero()):
        raise ConfigError(
            f"no threshold gives a precision of {precision:g} on {len(held_out):,} held-out frames (at most "
            f"{float(precise.max()):.3f}): lower it, or give more labels or another encoder"
        )
    last = int(good[-1])
    return Threshold(float(likeness[last]), float(precise[last]), (last + 1) / len(held_out), len(held_out))


def match(index: FrameIndex, query: Tensor | np.ndarray, threshold: Threshold) -> list[str]:
    """Return the class of each query's nearest frame of a known class, "unknown" where it is less alike.

    Args: query, as of `FrameIndex.search`; one gives a list of one.
    """
    known = (index.classes[1] >= 0).nonzero()[:, 0]
    ids, likeness = _nearest(index, known, index.vectors(query))
    alike = (likeness >= threshold.value).tolist()
    return [index.rows.classes[i] if near else UNKNOWN for i, near in zip(ids.tolist(), alike, strict=True)]


def _nearest(index: FrameIndex, among: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest (Q,) of some frames, and how alike it is: the cosine, or the distance below zero."""
    ids, values = Exact(index.embeddings[among], index.metric).search(vectors, 1)
    return among[ids[:, 0]], values[:, 0] if index.metric == "cosine" else -values[:, 0]
