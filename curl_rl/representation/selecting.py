"""Which frames of an index a person should label: chosen by one selector, or by several whose ranks are summed."""

import functools
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from curl_rl.representation.index import FrameIndex
from curl_rl.representation.selectors import SELECTORS
from curl_rl.representation.selectors.base import Pool, Selector
from curl_rl.types import ConfigError

Doubt = Callable[[], Tensor]


def nobody() -> Tensor:
    """Refuse to be uncertain."""
    raise ConfigError(
        "selector uncertain needs somebody who is: give a classifier, or a run whose agent saw the frames"
    )


def select(
    index: FrameIndex,
    by: Sequence[str | Selector],
    count: int,
    *,
    labelled: Collection[str | int] = (),
    doubt: Doubt = nobody,
    seed: int = 0,
) -> Tensor:
    """Return the numbers (count,) of the frames that are most worth a label, in that order.

    Args:
        by: selectors or their names; of several the sum of a frame's ranks counts.
        labelled: names or numbers of the frames that have a label, and are not chosen again.
        doubt: gives how uncertain (N,) somebody is of each frame; "uncertain" asks it.

    Raises ConfigError for an unknown name and for more frames than are left.
    """
    taken = torch.zeros(len(index), dtype=torch.bool)
    taken[[index.number(each) for each in labelled]] = True
    left = int((~taken).sum())
    if not 1 <= count <= left:
        raise ConfigError(f"count={count} must be at least 1 and at most {left:,}, the frames without a label")
    pool = Pool(index.points, taken, count, functools.cache(doubt))
    chosen = [SELECTORS[each](SELECTORS[each].Config()) if isinstance(each, str) else each for each in by]
    ranks = torch.zeros(len(index))
    for selector in chosen:
        order = selector.rank(pool, torch.Generator().manual_seed(seed))
        ranks[order] += torch.arange(len(order)).float()
    ranks[taken] = torch.inf
    return ranks.argsort(stable=True)[:count]
