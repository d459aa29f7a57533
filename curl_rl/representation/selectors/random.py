"""The control of every other selector."""

from dataclasses import dataclass

import torch
from torch import Tensor

from curl_rl.representation.selectors.base import Pool, Selector, SelectorConfig


@dataclass(frozen=True)
class RandomConfig(SelectorConfig):
    name: str = "random"


class Random(Selector):
    """Frames in a random order."""

    Config, draws = RandomConfig, True

    def begin(self, pool: Pool, generator: torch.Generator) -> None:
        self._order = torch.randperm(len(pool.points), generator=generator).float()

    def worth(self) -> Tensor:
        return self._order
