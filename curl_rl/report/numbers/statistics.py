"""Aggregate scores over tasks and runs, with stratified bootstrap intervals.

After Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (arXiv 2108.13264).
The scores of one method are one array (runs,) for each task, normalised so that tasks are alike; tasks may differ in
their number of runs. Intervals are percentiles over resamples, with replacement, of the runs within each task. Of few
runs they are too narrow, since a mean's resamples vary by (n - 1) / n of what they should; of one run a task they
collapse to the estimate. They need not hold the estimate: a median's or a trimmed mean's resamples can be biased.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

Scores: TypeAlias = Sequence[np.ndarray]

SAMPLES = 2000
SEED = 0
_TAILS = ((1 - 0.95) / 2, (1 + 0.95) / 2)
_TRIM = 0.25  # of the runs at either end


class Interval(NamedTuple):
    """An estimate and the ends of its bootstrap interval."""

    estimate: float
    low: float
    high: float


# Each takes one array (..., runs) for each task, and returns (...).


def mean(scores: Scores) -> np.ndarray:
    """Return the mean over tasks of the mean over runs."""
    return _task_means(scores).mean(axis=-1)


def median(scores: Scores) -> np.ndarray:
    """Return the median over tasks of the mean over runs."""
    return np.median(_task_means(scores), axis=-1)


def iqm(scores: Scores) -> np.ndarray:
    """Return the interquartile mean: that of all runs together without a quarter (rounded down) at either end.

    Where tasks differ in their number of runs, those with more of them weigh more.
    """
    ordered = np.sort(np.concatenate(scores, axis=-1), axis=-1)
    cut = int(_TRIM * ordered.shape[-1])
    return ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1)


def optimality_gap(scores: Scores) -> np.ndarray:
    """Return by how much runs fall short of a score of 1 (no credit for more), a mean over runs, then over tasks."""
    return mean([np.maximum(1 - task, 0) for task in scores])


METRICS: dict[str, Callable[[Scores], np.ndarray]] = {
    "mean": mean,
    "median": median,
    "iqm": iqm,
    "optimality_gap": optimality_gap,
}


def intervals(scores: Scores, *, samples: int = SAMPLES, seed: int = SEED) -> dict[str, Interval]:
    """Return every metric with its interval, all of them from the same resamples."""
    tasks = _checked(scores)
    resampled = [task[index] for task, index in zip(tasks, _resamples(tasks, samples, seed), strict=True)]
    return {name: Interval(*map(float, _band(metric(resampled)))) for name, metric in METRICS.items()}


def spread(values: np.ndarray, *, samples: int = SAMPLES, seed: int = SEED) -> Interval:
    """Return the mean of the runs (runs,) of one task with its interval."""
    return intervals([values], samples=samples, seed=seed)["mean"]


def improvement(x: Scores, y: Scores, *, samples: int = SAMPLES, seed: int = SEED) -> Interval:
    """Return how probably a run of x beats a run of y on the same task: the mean over tasks of U / (m n).

    U is the Mann-Whitney statistic of x's m and y's n runs, a tie counting a half. Both give the same tasks in the
    same order; x's and y's runs are resampled independently. Raises ValueError where they differ in their tasks.
    """
    tasks, others = _checked(x), _checked(y)
    if len(tasks) != len(others):
        raise ValueError(f"x has {len(tasks)} tasks and y {len(others)}: give both on the same tasks, in one order")
    total = np.zeros(samples + 1)
    draws = list(_resamples([*tasks, *others], samples, seed))
    for task, other, ours, theirs in zip(tasks, others, draws[: len(tasks)], draws[len(tasks) :], strict=True):
        wins = (task[:, None] > other) + 0.5 * (task[:, None] == other)  # (m, n)
        total += ((_counts(ours) @ wins) * _counts(theirs)).sum(axis=1) / wins.size
    return Interval(*map(float, _band(total / len(tasks))))


def percentile(value: float, among: np.ndarray) -> float:
    """Return how many percent of other runs (runs,) lie below a value, an equal one counting a half."""
    return 100 * float(np.mean((among < value) + 0.5 * (among == value)))


def profile(scores: Scores, thresholds: np.ndarray, *, samples: int = SAMPLES, seed: int = SEED) -> np.ndarray:
    """Return the performance profile (3, thresholds): the share of runs above each of them, its low and its high end.

    The share is a mean over tasks, so that every task weighs alike. The ends hold at each threshold by itself.
    """
    tasks = _checked(scores)
    total = np.zeros((samples + 1, len(thresholds)))
    for task, index in zip(tasks, _resamples(tasks, samples, seed), strict=True):
        total += _counts(index) @ (task[:, None] > np.asarray(thresholds)).astype(float) / len(task)
    return _band(total / len(tasks))


def curve(scores_by_point: Scores, *, samples: int = SAMPLES, seed: int = SEED) -> np.ndarray:
    """Return the interquartile mean over time (3, points): at each point it, its low and its high end.

    Takes one array (runs, points) for each task, all of the same points. A run is resampled as a whole, so that the
    ends at neighbouring points belong together.
    """
    tasks = _checked(scores_by_point, axes=2)
    points = {task.shape[1] for task in tasks}
    if len(points) > 1:
        raise ValueError(f"tasks have {', '.join(map(str, sorted(points)))} points: give all of them at the same ones")
    draws = list(_resamples(tasks, samples, seed))
    columns = ([task[:, p][index] for task, index in zip(tasks, draws, strict=True)] for p in range(points.pop()))
    return _band(np.stack([iqm(column) for column in columns], axis=1))


def _task_means(tasks: Scores) -> np.ndarray:
    return np.stack([task.mean(axis=-1) for task in tasks], axis=-1)


def _resamples(tasks: Scores, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield for each task which runs its resamples hold (samples + 1, runs); the first row is the runs themselves."""
    if samples < 1:
        raise ValueError(f"samples={samples}: an interval needs at least one resample")
    rng = np.random.default_rng(seed)
    for task in tasks:
        yield np.vstack([np.arange(len(task)), rng.integers(len(task), size=(samples, len(task)))])


def _counts(index: np.ndarray) -> np.ndarray:
    """Return how often each resample holds each run (samples + 1, runs), as floats for products with matrices."""
    rows, runs = index.shape
    cells = index + runs * np.arange(rows)[:, None]
    return np.bincount(cells.ravel(), minlength=rows * runs).reshape(rows, runs).astype(float)


def _band(values: np.ndarray) -> np.ndarray:
    """Return estimate, low and high (3, ...) of values (samples + 1, ...), whose first row is the estimate."""
    return np.concatenate([values[:1], np.quantile(values[1:], _TAILS, axis=0)])


def _checked(scores: Scores, *, axes: int = 1) -> list[np.ndarray]:
    """Return the tasks' arrays as float64. Raises ValueError for what has no statistics."""
    tasks = [np.asarray(task, dtype=np.float64) for task in scores]
    if not tasks:
        raise ValueError("there is no task: give at least one array of runs")
    for number, task in enumerate(tasks):
        if task.ndim != axes:
            raise ValueError(f"task {number} has an array of shape {task.shape}: its runs need {axes} axes")
        if not task.size:
            raise ValueError(f"task {number} has no runs: leave it out or run it")
        if not np.isfinite(task).all():
            raise ValueError(f"task {number} has a score that is no number: leave that run out or run it again")
    return tasks
