"""Ridge regression from frozen features to the simulator's state, its strength chosen on episodes left out."""

from collections.abc import Callable

import numpy as np
import torch

_STRENGTHS = np.logspace(-6, 2, 9)  # in units of a standardised feature's variance


def share_out(episode: np.ndarray, *, folds: int = 5, seed: int = 0) -> np.ndarray:
    """Give each frame (n,) the fold of its episode, drawn at random.

    Raises ValueError for fewer episodes than folds.
    """
    names = np.random.default_rng(seed).permutation(np.unique(episode))
    if len(names) < folds:
        raise ValueError(f"{len(names)} episodes are too few for {folds} folds: record more frames")
    parts = np.array_split(names, folds)
    return np.stack([np.isin(episode, part) for part in parts]).argmax(0)


def r2_scores(features: np.ndarray, targets: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Return R2 (q,) of linear maps from features (n, d) to targets (n, q) on frames that were not fitted.

    Each fold (n,) is the test once, the fold after it chooses the strength for each target, and the median over tests
    is taken: a few frames unlike any that was fitted can spoil one. NaN for a target that does not vary in every fold,
    and for all where features are not finite.
    """
    if not np.isfinite(features).all():
        return np.full(targets.shape[1], np.nan)
    x, y = _standardised(features), targets.astype(np.float64)
    parts = [(x[fold == i], y[fold == i]) for i in range(fold.max() + 1)]
    moments = [_moments(*part) for part in parts]
    whole = sum(moments)
    scores = []
    for i, (points, truth) in enumerate(parts):
        j = (i + 1) % len(parts)
        trial = _solve(whole - moments[i] - moments[j], x.shape[1], _STRENGTHS)
        best = _r2(trial(parts[j][0]), parts[j][1]).argmax(0)
        used, place = np.unique(best, return_inverse=True)
        predicted = _solve(whole - moments[i], x.shape[1], _STRENGTHS[used])(points)
        scores.append(_r2(predicted[place, :, np.arange(len(place))].T, truth))
    return np.median(scores, axis=0)


def _standardised(x: np.ndarray) -> np.ndarray:
    """Return float64 columns of mean 0 and variance 1, constant ones as zeros; each fit standardises its own again."""
    x = x.astype(np.float64)
    mean, scale = x.mean(0), x.std(0)
    return (x - mean) / np.where(scale > 1e-9 * np.abs(mean), scale, np.inf)


def _moments(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the sums of products of the columns 1, x and y, from which any union of folds is fitted."""
    columns = np.concatenate((np.ones((len(x), 1)), x, y), 1)
    return columns.T @ columns


def _solve(moments: np.ndarray, width: int, strengths: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from features (n, width) to predictions (strengths, n, q) of the regressions on moments."""
    mean = moments[0, 1:] / moments[0, 0]
    covariance = moments[1:, 1:] / moments[0, 0] - np.outer(mean, mean)
    variance = covariance.diagonal()[:width]
    scale = np.sqrt(np.where(variance > 1e-9, variance, np.inf))  # a constant feature predicts nothing
    alike = torch.from_numpy(covariance[:width, :width] / np.outer(scale, scale))
    cross = torch.from_numpy(covariance[:width, width:] / scale[:, None])
    # Cholesky for each strength: a decomposition for all of them takes several times as long.
    solved = [
        torch.cholesky_solve(cross, torch.linalg.cholesky(alike + s * torch.eye(width, dtype=torch.float64)))
        for s in strengths
    ]
    weights = torch.stack(solved).numpy() / scale[:, None]
    return lambda points: (points - mean[:width]) @ weights + mean[width:]


def _r2(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return R2 (..., q) of predictions (..., n, q)."""
    error = ((predicted - target) ** 2).mean(-2)
    variance = target.var(0)
    return 1 - error / np.where(variance > 1e-12, variance, np.nan)
