"""What every selector is: an order in which frames are worth a person's label."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class SelectorConfig:
    """What every selector's options have in common."""

    name: str = ""


class Pool(NamedTuple):
    """What is selected from."""

    points: Tensor  # (N, d) float32 embeddings of all frames; of an index by cosine their directions
    labelled: Tensor  # (N,) bool, which have a label
    wanted: int  # how many are asked for
    doubt: Callable[[], Tensor]  # gives how uncertain (N,) somebody is of each frame, or raises ConfigError

    @property
    def free(self) -> Tensor:
        """The numbers of the frames without a label."""
        return (~self.labelled).nonzero()[:, 0]


class Selector:
    """An order of frames. A subclass names its options as `Config`, and is found by its name."""

    Config: ClassVar[type[SelectorConfig]]

    def __init__(self, config: Any):
        self.config = config

    def rank(self, pool: Pool, generator: torch.Generator) -> Tensor:
        """Return the numbers of all frames without a label, the most worthwhile first."""
        raise TypeError(f"{type(self).__name__} ranks nothing")
