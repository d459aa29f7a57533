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
    the mean.
    """

    Config = CoverageConfig

    def begin(self, pool: Pool, generator: torch.Generator) -> None:
        """Measure how far all frames are from those that have a label."""
        self._points = pool.points
        self._distance = torch.full((len(pool.points),), torch.inf)
        for number in pool.labelled.nonzero()[:, 0].tolist():
            self.take(number)

    def worth(self) -> Tensor:
        """Return (N,) the distance to the nearest that is chosen or labelled; before any, how near the mean is."""
        if self._distance.isinf().all():
            return -(self._points - self._points.mean(0)).norm(dim=1)
        return self._distance

    def take(self, number: int) -> None:
        self._distance = torch.minimum(self._distance, (self._points - self._points[number]).norm(dim=1))
