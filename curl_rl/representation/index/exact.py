"""Exact nearest neighbours by matrix products, a few queries at a time."""

import torch
from torch import Tensor
from torch.nn import functional as F

METRICS = ("cosine", "euclidean")
_AT_ONCE = 1 << 25  # numbers of a block of queries against all points


class Exact:
    """Points (N, d) float32 that are searched by "cosine" or "euclidean" distance, with nothing left out."""

    def __init__(self, points: Tensor, metric: str):
        self.metric = metric
        self.points = F.normalize(points, dim=1) if metric == "cosine" else points
        # Far from the origin the differences of float32 products would be noise.
        self._centre = torch.zeros(1) if metric == "cosine" else points.double().mean(0).float()
        self._among = self.points if metric == "cosine" else points - self._centre
        self._bias = torch.zeros(1) if metric == "cosine" else self._among.square().sum(1) / -2

    def search(self, queries: Tensor, count: int, apart: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Return the nearest points (Q, count) int64, and their cosine or distance, the nearest first.

        Args: queries (Q, d); apart, a group of each query (Q,) and of each point (N,): points of the query's own group
        are left out, and where fewer than `count` remain the rest is -1 and NaN.
        """
        size = max(1, _AT_ONCE // len(self.points))
        parts = [
            self._block(block, count, None if apart is None else (apart[0][at * size : (at + 1) * size], apart[1]))
            for at, block in enumerate(queries.split(size))
        ]
        return torch.cat([ids for ids, _ in parts]), torch.cat([values for _, values in parts])

    def _block(self, queries: Tensor, count: int, apart: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        queries = F.normalize(queries, dim=1) if self.metric == "cosine" else queries - self._centre
        likeness = torch.addmm(self._bias, queries, self._among.T)
        if apart is not None:
            likeness[apart[0][:, None] == apart[1]] = -torch.inf
        likeness, ids = likeness.topk(count, dim=1)
        gone = likeness == -torch.inf
        values = likeness
        if self.metric == "euclidean":
            values = (queries[:, None] - self._among[ids]).norm(dim=2).masked_fill(gone, torch.inf)
            values, order = values.sort(dim=1, stable=True)
            ids = ids.gather(1, order)
        return ids.masked_fill(gone, -1), values.masked_fill(gone, torch.nan)
