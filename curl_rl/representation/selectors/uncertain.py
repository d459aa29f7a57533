"""What somebody is least sure of."""

from dataclasses import dataclass

import torch
from torch import Tensor

from curl_rl.representation.selectors.base import Pool, Selector, SelectorConfig


@dataclass(frozen=True)
class UncertainConfig(SelectorConfig):
    name: str = "uncertain"


class Uncertain(Selector):
    """Least margin of a classifier's two best classes first, or greatest disagreement of an agent's twin critics.

    Source of the first: Scheffer et al. 2001.
    """

    Config = UncertainConfig

    def rank(self, pool: Pool, generator: torch.Generator) -> Tensor:
        free = pool.free
        return free[pool.doubt()[free].argsort(descending=True, stable=True)]
