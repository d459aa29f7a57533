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

    Config = RandomConfig

    def rank(self, pool: Pool, generator: torch.Generator) -> Tensor:
        free = pool.free
        return free[torch.randperm(len(free), generator=generator)]
