"""How unlike features are to those that are known, by their nearest neighbours."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from curl_rl.types import ConfigError

NEIGHBOURS = 5
_AT_ONCE = 1 << 24  # distances in memory


@torch.no_grad()
def neighbour_distances(features: Tensor, known: Tensor, count: int = NEIGHBOURS) -> Tensor:
    """Return the distance (B,) of each of features (B, d) to its `count`-th nearest of known ones (n, d).

    Both are brought to unit length. Source: Sun et al. 2022, section 3.
    """
    features, known = F.normalize(features, dim=1), F.normalize(known, dim=1)
    blocks = features.split(max(1, _AT_ONCE // max(1, len(known))))
    # Without products of matrices, which leave of small distances nothing but rounding.
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cat([torch.cdist(each, known, compute_mode=exact).kthvalue(count, dim=1).values for each in blocks])


def threshold(scores: Tensor, accept: float) -> float:
    """Return the least score that a share of held-out known frames does not exceed.

    Args: scores (n,), of known frames that nothing was learned from: what is unknown takes no part, for it is not there
    beforehand. Raises ConfigError without any, and for a share that is none.
    """
    if not 0 < accept <= 1:
        raise ConfigError(f"accept must be above 0 and at most 1, got {accept}")
    if not len(scores):
        raise ConfigError("no known frames were held out: fine-tune with held_out=0.2, or give --known frames")
    passing = max(1, math.ceil(accept * len(scores) - 1e-9))  # a hair less: 0.07 of 100 is 7
    return float(scores.sort().values[passing - 1])
