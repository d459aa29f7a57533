"""How spread out and how invariant features are: what shows a collapse before returns do."""

import torch
from torch import Tensor
from torch.nn import functional as F

from curl_rl.types import Batch, Metrics, Seeing


@torch.no_grad()
def watch_features(learner: Seeing, batch: Batch) -> Metrics:
    """Return the measures below for a learner's features of a batch, without disturbing training.

    Two views are compared where there are images. A single sample shows nothing, and gives nothing.
    """
    if len(batch.action) < 2:
        return {}
    views = [learner.encoder(images) for images in learner.snapshot(batch).values()] or [learner.encoder(batch.obs)]
    deviation = views[0].std(0)
    metrics = {
        "feature_rank": effective_rank(views[0]),
        "feature_std": deviation.mean(),
        "feature_std_min": deviation.min(),
        "uniformity": uniformity(views[0]),
    }
    if len(views) > 1:
        metrics |= {"alignment": alignment(*views), "view_accuracy": view_accuracy(*views)}
    return metrics


def effective_rank(features: Tensor) -> Tensor:
    """Return exp of the entropy of the singular values of centred features (B, d): 1 for all alike, at most d.

    NaN for features that are not finite. Source: Roy and Vetterli 2007, equation 3.
    """
    centred = (features - features.mean(0)).float()
    if not centred.isfinite().all():  # on which the decomposition would raise
        return centred.new_tensor(float("nan"))
    values = torch.linalg.svdvals(centred)
    share = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return torch.special.entr(share).sum().exp()


def alignment(query: Tensor, key: Tensor) -> Tensor:
    """Return the mean squared distance on the unit sphere between two views (B, d): 0 for invariant features.

    Source: Wang and Isola 2020, equation 1 with alpha 2.
    """
    return (F.normalize(query, dim=1) - F.normalize(key, dim=1)).square().sum(1).mean()


def uniformity(features: Tensor) -> Tensor:
    """Return the log of the mean Gaussian potential of pairs on the unit sphere: 0 for all alike, at least -4.

    Source: Wang and Isola 2020, equation 2 with t 2. features (B, d), B at least 2.
    """
    return torch.pdist(F.normalize(features, dim=1)).square().mul(-2).exp().mean().log()


def view_accuracy(query: Tensor, key: Tensor) -> Tensor:
    """Return the share of queries (B, d) whose nearest key by cosine is of the same sample."""
    nearest = (F.normalize(query, dim=1) @ F.normalize(key, dim=1).T).argmax(1)
    return (nearest == torch.arange(len(query), device=query.device)).float().mean()
