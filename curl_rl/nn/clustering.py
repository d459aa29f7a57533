"""Clustering on tensors, on whatever device they lie: k-means, DBSCAN, and how far to trust what it finds."""

import torch
import torch.nn.functional as F
from torch import Tensor

_AT_ONCE = 1 << 25  # numbers of a table of points and clusters


@torch.no_grad()
def k_means(points: Tensor, count: int, generator: torch.Generator, *, iterations: int = 10) -> tuple[Tensor, Tensor]:
    """Return the clusters' centres (count, d) and each point's nearest centre (n,) int64.

    Args: points (n, d); a CPU generator; `iterations` rounds of Lloyd's algorithm, none of which waits for the device.
    An empty cluster takes the point that lies farthest from its own centre; where there are fewer distinct points than
    clusters, the surplus ones stay empty on top of others. Raises ValueError unless 1 <= count <= n. Source: Arthur and
    Vassilvitskii 2007 (k-means++) for the start, Lloyd 1982 for the rest.
    """
    if not 1 <= count <= len(points):
        raise ValueError(f"k-means needs from 1 to as many clusters as points, got {count} for {len(points)} points")
    points = points.to(torch.promote_types(points.dtype, torch.float32))
    centres = points[_spread(points, count, generator)]
    for _ in range(iterations):
        assignment = _fill_empty(points, centres, nearest(points, centres))
        centres = _means(points, centres, assignment)
    return centres, nearest(points, centres)


def _spread(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` points, each with a chance in proportion to its squared distance from those drawn before."""
    draws = torch.rand(count, dtype=torch.float64, generator=generator).to(points.device)
    weight = torch.ones(len(points), dtype=torch.float64, device=points.device)
    chosen, nearest = [], torch.full_like(weight, torch.inf)
    for draw in draws:
        cumulative = weight.cumsum(0)
        place = torch.searchsorted(cumulative, (draw * cumulative[-1])[None], right=True).clamp_(max=len(points) - 1)
        chosen.append(place)
        nearest = torch.minimum(nearest, (points - points[place]).square().sum(1))
        weight = torch.where(nearest.amax() > 0, nearest, 1.0)  # every distinct point is drawn: any will do
    return torch.cat(chosen)


def nearest(points: Tensor, centres: Tensor) -> Tensor:
    """Return the index (n,) int64 of each point's nearest centre, given points (n, d) and centres (K, d)."""
    # |x|^2, the same for all centres, is left out.
    return torch.addmm(centres.square().sum(1) / 2, points, centres.T, alpha=-1).argmin(1)


def _fill_empty(points: Tensor, centres: Tensor, assignment: Tensor) -> Tensor:
    """Give each empty cluster one of the points that lie farthest from their centres."""
    empty = torch.ones(len(centres), dtype=torch.bool, device=points.device).scatter(0, assignment, False)
    distance = (points - centres[assignment]).square().sum(1)
    farthest = distance.argsort(descending=True, stable=True)[: len(centres)]
    takers = empty.long().argsort(descending=True, stable=True)
    takes = empty[takers] & (distance[farthest] > 0)
    return assignment.scatter(0, farthest, torch.where(takes, takers, assignment[farthest]))


def _means(points: Tensor, centres: Tensor, assignment: Tensor) -> Tensor:
    """Return the mean of each cluster's points, or its old centre where it has none."""
    total, size = torch.zeros_like(centres), centres.new_zeros(len(centres), 1)
    rows = max(1, _AT_ONCE // len(centres))
    for part, own in zip(points.split(rows), assignment.split(rows), strict=True):
        members = part.new_zeros(len(part), len(centres)).scatter_(1, own[:, None], 1)
        total += members.T @ part  # no atomic sums: repeatable
        size += members.sum(0)[:, None]
    return torch.where(size > 0, total / size.clamp(min=1), centres)


@torch.no_grad()
def density_clusters(distances: Tensor, radius: float, min_samples: int) -> Tensor:
    """Return the DBSCAN cluster of each point, (n,) int64 from 0 in the order of their first core points, -1 for noise.

    Args: symmetric distances (n, n); a core point has at least `min_samples` points, itself included, within `radius`.
    A point beside the core points of several clusters joins the first of them. Raises ValueError unless the matrix is
    square and holds a point. Source: Ester et al. 1996.
    """
    count = len(distances)
    if not count or distances.shape != (count, count):
        raise ValueError(f"DBSCAN needs a square matrix of distances, got shape {tuple(distances.shape)}")
    near = distances <= radius
    core = near.sum(1) >= min_samples
    root = _components(near & core & core[:, None])
    beside = torch.where(near & core, root, count).amin(1)  # a core point is beside itself
    starts = core & (root == torch.arange(count, device=root.device))
    number = starts.cumsum(0) - 1
    return torch.where(beside < count, number[beside.clamp(max=count - 1)], -1)


def _components(linked: Tensor) -> Tensor:
    """Return the smallest index in each point's connected component, given a symmetric boolean matrix (n, n).

    Each round hangs every root below the smallest label beside its tree and halves the paths.
    """
    count = len(linked)
    label, last = torch.arange(count, device=linked.device), None
    while last is None or not torch.equal(label, last):
        last = label
        beside = torch.minimum(label, torch.where(linked, label, count).amin(1))
        label = torch.minimum(label.scatter_reduce(0, label, beside, "amin"), beside)
        label = label[label]
    return label


@torch.no_grad()
def reciprocal_distances(points: Tensor, neighbors: int, expansion: int) -> Tensor:
    """Return the Jaccard distances (n, n), in [0, 1], between the points' sets of k-reciprocal neighbours.

    Args: points (n, d) of unit length; `neighbors` k, itself included; each point's weights over its set are averaged
    over its `expansion` nearest. Source: Zhong et al. 2017 (k-reciprocal encoding), as the code of Ge et al. 2020
    (SpCL) has it, without a share of the original distance.
    """
    similarity = points @ points.T
    rank = similarity.fill_diagonal_(torch.inf).topk(min(neighbors, len(points))).indices  # itself first
    similarity.fill_diagonal_(1)
    whole, half = _reciprocal(rank), _reciprocal(rank[:, : round(neighbors / 2) + 1])
    fits = whole * (3 * (whole @ half) > 2 * half.sum(1))  # two thirds of a neighbour's smaller set lie in this one
    inside = whole + fits @ half > 0
    weights = (2 * similarity).masked_fill(~inside, -torch.inf).softmax(1)
    weights = weights[rank[:, :expansion]].mean(1)
    # Each row sums to 1, so the smaller of two weights sum to 1 - L/2 and the larger to 1 + L/2, L their L1 distance.
    count = len(points)
    upper = torch.ones(count, count, dtype=torch.bool, device=points.device).triu(1)
    difference = torch.zeros_like(weights).masked_scatter_(upper, F.pdist(weights, 1))
    difference = difference + difference.T
    return (2 * difference / (2 + difference)).clamp(max=1)


def _reciprocal(rank: Tensor) -> Tensor:
    """Return 1 where two points are in each other's lists (n, k), 0 elsewhere, (n, n) symmetric."""
    listed = torch.zeros(len(rank), len(rank), device=rank.device).scatter_(1, rank, 1)
    return listed * listed.T


@torch.no_grad()
def reliable_clusters(labels: Tensor, tight: Tensor, loose: Tensor) -> Tensor:
    """Return the labels (n,) with unreliable points made noise, numbered anew from 0.

    Args: labels of DBSCAN, and under a smaller and a larger radius, each (n,) int64. A cluster is as independent as it
    is unchanged under the larger radius, and one below the least of the best nine tenths is dropped; in the others only
    those points stay whose cluster changes least under the smaller radius. Source: Ge et al. 2020 (SpCL), section 3.2,
    and its code. That sets the least independence once, on features trained with labels; where the first features are
    random it would pass all later clusters or none.
    """
    together = _together(labels)
    independence = torch.where(together, _overlap(together, _together(loose)), 0).amax(1)
    compactness = _overlap(together, _together(tight))
    kept = (labels >= 0) & (compactness >= torch.where(together, compactness, 0).amax(1))
    first = (together.int().argmax(1) == torch.arange(len(labels), device=labels.device)) & (together.sum(1) > 1)
    ordered = independence[first].sort(descending=True).values
    if len(ordered):
        kept &= independence >= ordered[min(len(ordered) - 1, round(0.9 * len(ordered)))]
    return torch.full_like(labels, -1).masked_scatter(kept, labels[kept].unique(return_inverse=True)[1])


def _together(labels: Tensor) -> Tensor:
    """Return which points share a cluster (n, n); noise is alone."""
    alone = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return (labels[:, None] == labels) & (labels >= 0) | alone


def _overlap(one: Tensor, other: Tensor) -> Tensor:
    """Return the intersection over union of each point's two clusters (n,), each given as who is together (n, n)."""
    return (one & other).sum(1) / (one | other).sum(1)
