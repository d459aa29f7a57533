"""What every selector is: how much each frame is worth a person's label, given those that are chosen."""

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


def ranks(worth: Tensor) -> Tensor:
    """Return the place (N,) int64 of each frame in the order of its worth, 0 of the most worthwhile."""
    places = torch.empty(len(worth), dtype=torch.int64)
    places[worth.argsort(descending=True, stable=True)] = torch.arange(len(worth))
    return places


class Selector:
    """How worthwhile frames are, one choice after another. A subclass names its options as `Config`."""

    Config: ClassVar[type[SelectorConfig]]
    draws: ClassVar[bool] = False  # whether a seed decides

    def __init__(self, config: Any):
        self.config = config

    def begin(self, pool: Pool, generator: torch.Generator) -> None:
        """Look at what there is to choose from."""

    def worth(self) -> Tensor:
        """Return how worthwhile (N,) a label of each frame is now; of those that have one any number."""
        raise TypeError(f"{type(self).__name__} finds no frame worthwhile")

    def take(self, number: int) -> None:
        """Regard a frame as labelled from now on."""
