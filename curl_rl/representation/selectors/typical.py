"""Frames that stand for many others, of each kind one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from curl_rl.nn.clustering import k_means
from curl_rl.options import option
from curl_rl.representation.selectors.base import Pool, Selector, SelectorConfig

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
    typicality is one over the mean distance to the nearest of the cluster. After as many as are asked for, the rest
    follow by typicality.
    """

    Config = TypicalConfig

    def rank(self, pool: Pool, generator: torch.Generator) -> Tensor:
        """Return the frames without a label: those of each cluster in turn, then the rest, by how typical they are."""
        count = min(int(pool.labelled.sum()) + pool.wanted, self.config.clusters, len(pool.points))
        _, cluster = k_means(pool.points, count, generator)
        typicality = self._typicality(pool.points, cluster, count)
        sizes, labels = cluster.bincount(minlength=count), cluster[pool.labelled].bincount(minlength=count)
        left, chosen = ~pool.labelled, list[int]()
        members = [((cluster == each) & left).nonzero()[:, 0] for each in range(count)]
        queues = [each[typicality[each].argsort(descending=True, stable=True)].tolist() for each in members]
        small = sizes < self.config.least
        while len(chosen) < min(pool.wanted, int(left.sum())):
            open_ = [each for each in range(count) if queues[each]]
            best = min(open_, key=lambda each: (bool(small[each]), int(labels[each]), -int(sizes[each])))
            chosen.append(queues[best].pop(0))
            labels[best] += 1
        left[chosen] = False
        rest = left.nonzero()[:, 0]
        return torch.cat([torch.tensor(chosen), rest[typicality[rest].argsort(descending=True, stable=True)]])

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
