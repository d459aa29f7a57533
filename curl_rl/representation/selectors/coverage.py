"""Frames near to which everything else is."""

from dataclasses import dataclass

import torch
from torch import Tensor

from curl_rl.representation.selectors.base import Pool, Selector, SelectorConfig


@dataclass(frozen=True)
class CoverageConfig(SelectorConfig):
    name: str = "coverage"


class Coverage(Selector):
    """Farthest first from all that is chosen or labelled, which keeps the largest distance to one of them small.

    Source: Sener and Savarese 2018, algorithm 1 (k-centre greedy). Without a label it begins with the frame nearest to
    the mean. After as many as are asked for, the rest follow by their distance to what is chosen.
    """

    Config = CoverageConfig

    def rank(self, pool: Pool, generator: torch.Generator) -> Tensor:
        """Return the frames without a label, in the order in which each was farthest from all before it."""
        points, free = pool.points, pool.free
        distance = torch.full((len(points),), torch.inf)
        labelled = pool.labelled.nonzero()[:, 0]
        for part in labelled.split(256) if len(labelled) else ():
            distance = torch.minimum(distance, torch.cdist(points, points[part]).amin(1))
        if distance.isinf().all():
            distance = -(points - points.mean(0)).norm(dim=1)
        chosen, left = list[int](), ~pool.labelled
        for _ in range(min(pool.wanted, len(free))):
            best = int(distance.masked_fill(~left, -torch.inf).argmax())
            away = (points - points[best]).norm(dim=1)
            distance = torch.minimum(distance, away) if chosen or len(labelled) else away
            chosen.append(best)
            left[best] = False
        rest = left.nonzero()[:, 0]
        return torch.cat([torch.tensor(chosen), rest[distance[rest].argsort(descending=True, stable=True)]])
