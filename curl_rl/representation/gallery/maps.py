"""Places on a plane for embeddings, alike ones beside each other."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from curl_rl.types import ConfigError

_NEIGHBOURS = 15  # of UMAP, its own default


def pca(points: Tensor) -> tuple[Tensor, str]:
    """Return places (N, 2) float32 along the two directions of most variance of points (N, d), and what they show.

    Each direction's largest part is positive, so that the same points give the same map.
    """
    centred = points.double() - points.double().mean(0)
    values, left = torch.linalg.eigh(centred @ centred.T if len(points) < points.shape[1] else centred.T @ centred)
    if len(points) < points.shape[1]:  # the smaller of the two problems, whose values are the same
        left = F.normalize(centred.T @ left, dim=0)
    directions = left[:, -2:].flip(1)
    directions = directions * directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    places = F.pad(centred @ directions, (0, 2 - directions.shape[1]))
    share = values[-2:].sum() / values.sum().clamp(min=1e-30)
    return places.float(), f"PCA, {share:.0%} of the variance"


def umap(points: Tensor) -> tuple[Tensor, str]:
    """Return places (N, 2) float32 by UMAP (McInnes et al. 2018). Raises ConfigError where umap-learn is missing."""
    if len(points) <= _NEIGHBOURS:
        raise ConfigError(f"map=umap needs more than {_NEIGHBOURS} frames, and there are {len(points)}: give map=pca")
    with warnings.catch_warnings():  # of what it imports, and of the one thread that a seed leaves
        warnings.simplefilter("ignore")
        try:
            from umap import UMAP  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ConfigError("map=umap needs umap-learn: pip install 'curl-rl[umap]', or give map=pca") from None
        places = UMAP(n_neighbors=_NEIGHBOURS, random_state=0).fit_transform(points.numpy())
    return torch.as_tensor(places, dtype=torch.float32), f"UMAP, {_NEIGHBOURS} neighbours"


MAPS: dict[str, Callable[[Tensor], tuple[Tensor, str]]] = {"pca": pca, "umap": umap}


def quantised(places: Tensor) -> tuple[Tensor, tuple[float, float], float]:
    """Return places (N, 2) as whole numbers 0 to 65535, both axes at one scale; their origin and the side of a unit."""
    low = places.amin(0)
    unit = max(float((places.amax(0) - low).max()), 1e-12) / 65535
    x, y = low.tolist()
    return ((places - low) / unit).round().clamp(0, 65535).int(), (x, y), unit
