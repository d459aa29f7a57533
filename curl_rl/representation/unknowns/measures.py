"""How well what is unknown is told from what is known."""

import math

import torch
from torch import Tensor


def auroc(known: Tensor, unknown: Tensor) -> float:
    """Return how often an unknown frame has the higher score of two, equal ones counted half; NaN without either.

    Args: scores (n,) and (m,). It is the area under the curve of true against false alarms.
    """
    if not len(known) or not len(unknown):
        return math.nan
    _, place, counts = torch.cat([known, unknown]).unique(return_inverse=True, return_counts=True)
    ranks = counts.double().cumsum(0) - (counts - 1) / 2  # of equal ones the mean
    of_unknown = ranks[place[len(known) :]].sum()
    m = len(unknown)
    return float((of_unknown - m * (m + 1) / 2) / (len(known) * m))


def open_set_error(unknown: Tensor, limit: float) -> int:
    """Return A-OSE, how many unknown frames are called one of the known classes (Miller et al. 2018).

    Args: unknown, their scores (m,); limit, the score beyond which a frame is called unknown.
    """
    return int((unknown <= limit).sum())


def wilderness_impact(known: Tensor, unknown: Tensor, limit: float) -> float:
    """Return what unknown frames take from precision: P of known ones alone over P among all, less 1.

    Right answers divide out: it is the unknown frames called known for each known one that is (Dhamija et al.
    2020). NaN where none is. Args: scores (n,) and (m,); limit, as of `open_set_error`.
    """
    accepted = int((known <= limit).sum())
    return open_set_error(unknown, limit) / accepted if accepted else math.nan


def open_set_measures(known: Tensor, right: Tensor, unknown: Tensor, limit: float) -> dict[str, float]:
    """Return all of these, the accuracy on known frames, and the share of them that is accepted.

    Args: known, scores (n,); right (n,) bool, whether the class is found; unknown, scores (m,); limit, as above.
    """
    return {
        "auroc": auroc(known, unknown),
        "a_ose": open_set_error(unknown, limit),
        "wilderness_impact": wilderness_impact(known, unknown, limit),
        "accuracy": float(right.double().mean()) if len(right) else math.nan,
        "accepted": float((known <= limit).double().mean()) if len(known) else math.nan,
    }
