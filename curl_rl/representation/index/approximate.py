"""Nearest neighbours among millions of points by faiss, an extra: most of them, in a fraction of the time."""

import math
import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from curl_rl.representation.index.exact import Exact

EXACT_UP_TO = 1_000_000  # frames that are searched exactly
_PROBED = 32  # of 4 sqrt(N) lists


class Approximate:
    """Points (N, d) float32 in inverted lists, of which a search looks into the nearest (Jegou et al. 2011)."""

    def __init__(self, points: Tensor, metric: str, faiss: Any):
        self.metric = metric
        width, cosine = points.shape[1], metric == "cosine"
        flat = faiss.IndexFlatIP(width) if cosine else faiss.IndexFlatL2(width)
        kind = faiss.METRIC_INNER_PRODUCT if cosine else faiss.METRIC_L2
        lists = 4 * math.isqrt(len(points))
        self._lists = faiss.IndexIVFFlat(flat, width, lists, kind)
        self._lists.nprobe = min(_PROBED, lists)
        stored = self._prepared(points)
        self._lists.train(stored)
        self._lists.add(stored)

    def search(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return the nearest points found (Q, count) int64, and their cosine or distance, the nearest first."""
        values, ids = (torch.from_numpy(each) for each in self._lists.search(self._prepared(queries), count))
        values = values if self.metric == "cosine" else values.clamp(min=0).sqrt()
        return ids, values.masked_fill(ids < 0, torch.nan)

    def _prepared(self, points: Tensor) -> Any:
        return (F.normalize(points, dim=1) if self.metric == "cosine" else points).contiguous().numpy()


def approximate(points: Tensor, metric: str) -> Approximate | Exact:
    """Return an approximate search where faiss is installed, else an exact one, and say so."""
    try:
        import faiss  # pyright: ignore[reportMissingImports]
    except ImportError:
        print(f"{len(points):,} frames are searched one by one: pip install 'curl-rl[faiss]'", file=sys.stderr)
        return Exact(points, metric)
    return Approximate(points, metric, faiss)
