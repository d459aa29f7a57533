"""Which frames of an index a person should label: chosen by one selector, or by several whose ranks are summed."""

import functools
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from curl_rl.options import repeated
from curl_rl.representation.index import FrameIndex
from curl_rl.representation.selectors import SELECTORS
from curl_rl.representation.selectors.base import Pool, Selector, ranks
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
        by: selectors or their names; of several the sum of a frame's ranks counts, after every choice anew.
        labelled: names, each of all frames that have it, or numbers of those with a label, which are not chosen again.
        doubt: gives how uncertain (N,) somebody is of each frame; "uncertain" asks it.

    Raises ConfigError for an unknown name, a selector given twice, and for more frames than are left.
    """
    names = [each if isinstance(each, str) else each.config.name for each in by]
    if twice := repeated(names):
        raise ConfigError(f"{twice[0]} is given twice: give every selector once")
    taken = torch.zeros(len(index), dtype=torch.bool)
    for each in labelled:
        taken[index.numbers(each) if isinstance(each, str) else index.number(each)] = True
    left = int((~taken).sum())
    if not 1 <= count <= left:
        raise ConfigError(f"count={count} must be at least 1 and at most {left:,}, the frames without a label")
    pool = Pool(index.points, taken.clone(), count, functools.cache(doubt))
    selectors = [SELECTORS[each](SELECTORS[each].Config()) if isinstance(each, str) else each for each in by]
    for selector in selectors:
        selector.begin(pool, torch.Generator().manual_seed(seed))
    chosen = list[int]()
    for _ in range(count):
        worths = [selector.worth().masked_fill(taken, -torch.inf) for selector in selectors]
        best = worths[0].argmax() if len(worths) == 1 else torch.stack([*map(ranks, worths)]).sum(0).argmin()
        chosen.append(int(best))
        taken[chosen[-1]] = True
        for selector in selectors:
            selector.take(chosen[-1])
    return torch.tensor(chosen)
