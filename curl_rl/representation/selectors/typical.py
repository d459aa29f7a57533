"""Frames that stand for many others, of each kind one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from curl_rl.nn.clustering import k_means
from curl_rl.options import option
from curl_rl.representation.selectors.base import Pool, Selector, SelectorConfig, ranks

_AT_ONCE = 1024


@dataclass(frozen=True)
class TypicalConfig(SelectorConfig):
    name: str = "typical"
    neighbours: int = option(20, "nearest of the cluster that tell how typical a frame is; the paper's", at_least=1)
    clusters: int = option(500, "most clusters; the paper's", at_least=1)
    least: int = option(5, "frames of a cluster at least, to be taken; the paper's", at_least=1)


class Typical(Selector):
    """The densest frame of each cluster in turn, of the largest first that has fewest labels.

    Source: Hacohen et al. 2022 (TypiClust), algorithm 1: as many clusters as there are labels and frames asked for;
    typicality is one over the mean distance to the nearest of the cluster.
    """

    Config, draws = TypicalConfig, True

    def begin(self, pool: Pool, generator: torch.Generator) -> None:
        """Find clusters, and how typical every frame is of its own."""
        count = min(int(pool.labelled.sum()) + pool.wanted, self.config.clusters, len(pool.points))
        _, self._cluster = k_means(pool.points, count, generator)
        self._labels = self._cluster[pool.labelled].bincount(minlength=count)
        self._sizes = self._cluster.bincount(minlength=count)
        typicality = self._typicality(pool.points, self._cluster, count)
        self._place = ranks(typicality).double() / len(typicality)

    def worth(self) -> Tensor:
        """Return (N,) by whose turn it is and, below one, how typical: no two alike."""
        few, labels, sizes = ((self._sizes < self.config.least).tolist(), self._labels.tolist(), self._sizes.tolist())
        turns = sorted(range(len(sizes)), key=lambda each: (few[each], labels[each], -sizes[each]))
        waiting = torch.empty(len(turns), dtype=torch.float64)
        waiting[turns] = torch.arange(len(turns), dtype=torch.float64)
        return -waiting[self._cluster] - self._place

    def take(self, number: int) -> None:
        self._labels[self._cluster[number]] += 1

    def _typicality(self, points: Tensor, cluster: Tensor, count: int) -> Tensor:
        """Return (N,) one over the mean distance to the nearest of a frame's cluster; 0 where it stands alone."""
        typicality = torch.zeros(len(points))
        for each in range(count):
            members = (cluster == each).nonzero()[:, 0]
            nearest = max(0, min(self.config.neighbours, len(members) - 1))
            for part in members.split(_AT_ONCE) if nearest else ():
                distance = torch.cdist(points[part], points[members]).topk(nearest + 1, largest=False).values
                typicality[part] = 1 / (distance.sum(1) / nearest).clamp(min=1e-12)  # its own is zero
        return typicality
