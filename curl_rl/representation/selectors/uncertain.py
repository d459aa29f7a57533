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

    def begin(self, pool: Pool, generator: torch.Generator) -> None:
        self._doubt = pool.doubt()

    def worth(self) -> Tensor:
        return self._doubt
