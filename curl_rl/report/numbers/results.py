"""Every number that a section's tables and figures show: own runs and published results, with their intervals."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import NamedTuple, TypeAlias

import numpy as np

from curl_rl.report.numbers import statistics
from curl_rl.report.numbers.statistics import SAMPLES, SEED, Interval
from curl_rl.report.read import published
from curl_rl.report.read.sections import Section, normalised
from curl_rl.run.records import Run

MANY = 8  # own methods; with more of them each is compared with the control alone, and with published ones
_Populations: TypeAlias = dict[str, list[np.ndarray]]  # by method: normalised scores (runs,) of each common task


class Aggregated(NamedTuple):
    """One method's aggregates over the common tasks."""

    method: str
    own: bool
    runs: str  # how many a task: "5" or "1-5"; empty where only means are known
    metrics: dict[str, Interval | None]  # low and high are nan where there is nothing to resample


class Pair(NamedTuple):
    """The probability that a run of `first` scores above one of `second`, on a common task taken at random."""

    first: str
    second: str
    value: Interval


class Standing(NamedTuple):
    """Where one own run stands among published single runs of its task."""

    run: Run
    percentiles: dict[str, float]  # by published method, 0 below all of its runs, 100 above


class Curve(NamedTuple):
    """A mean over runs along an axis; low and high are nan where there is one run."""

    method: str
    x: np.ndarray  # (points,)
    y: np.ndarray  # (3, points): estimate, low, high


@dataclass(frozen=True)
class Results:
    """What is known of one section."""

    section: Section
    scores: dict[tuple[str, str], published.Score]  # by published method and task of this section
    methods: dict[str, published.Method]  # all published ones with a score here
    finals: dict[tuple[str, str], Interval]  # by own method and task: mean return of the final checkpoints
    aggregates: tuple[Aggregated, ...]
    pairs: tuple[Pair, ...]
    standings: tuple[Standing, ...]
    profiles: tuple[Curve, ...]
    learning: dict[str, tuple[Curve, ...]]  # by task: returns over frames
    efficiency: dict[str, tuple[Curve, ...]]  # "frames" and "hours": normalised interquartile means

    @property
    def main(self) -> list[str]:
        """The published methods that short tables and figures show."""
        return [name for name, method in self.methods.items() if method.main]

    def label(self, method: str) -> str:
        """Return a method's name; of published figures that are no final checkpoint's or reference, with their kind."""
        kind = self.methods[method].kind if method in self.methods else ""
        return f"{method} [{kind}]" if kind in ("best of training", "not stated") else method


def gather(section: Section) -> Results:
    """Compute all that the report shows of a section; the same runs give the same numbers."""
    known = published.scores(section.suite, section.budget_frames)
    scores = {(_apart(score.method, section), score.task): score for score in known if score.task in section.tasks}
    named = {_apart(name, section): method for name, method in published.methods(section.suite).items()}
    scored = {name for name, _ in scores}
    methods = {name: method for name, method in named.items() if name in scored}
    singles = published.runs(section.suite, section.budget_frames)
    peers = {name: singles[method.name] for name, method in methods.items() if method.name in singles}
    populations = _populations(section, peers)
    short = {name: runs for name, runs in populations.items() if name not in methods or methods[name].main}
    means = [name for name, method in methods.items() if method.main and name not in populations]
    return Results(
        section=section,
        scores=scores,
        methods=methods,
        finals={key: spread(section.scores(*key)) for key in sorted({(run.method, run.task) for run in section.runs})},
        aggregates=(*_sampled(section, populations), *_of_means(section, scores, means)),
        pairs=tuple(_pairs(section, populations)),
        standings=tuple(_standings(section, {name: peers[name] for name in peers if _is_standard(methods[name])})),
        profiles=tuple(_profiles(short)),
        learning={task: tuple(_learning(section, task)) for task in section.tasks},
        efficiency={"frames": tuple(_over_frames(section)), "hours": tuple(_over_hours(section))},
    )


def spread(values: np.ndarray) -> Interval:
    """Return the mean of values (n,) with its bootstrap interval, nan where one value tells of none."""
    return _honest(statistics.spread(values), [values])


def difference_of_means(first: np.ndarray, second: np.ndarray) -> Interval:
    """Return by how much the mean of `second` (m,) exceeds that of `first` (n,), both resampled independently."""
    rng = np.random.default_rng(SEED)
    means = [rng.choice(values, size=(SAMPLES, len(values))).mean(axis=1) for values in (first, second)]
    low, high = np.quantile(means[1] - means[0], (0.025, 0.975))
    return _honest(Interval(float(second.mean() - first.mean()), float(low), float(high)), [first, second])


def _apart(published_name: str, section: Section) -> str:
    """Return a published method's name, told apart from a method of this report that is called the same."""
    return f"{published_name} (published)" if published_name in section.methods else published_name


def _is_standard(method: published.Method) -> bool:
    """Return whether own final scores are placed among a method's runs: a main one's, and no best of training."""
    return method.main and method.kind != "best of training"


def _populations(section: Section, peers: Mapping[str, Mapping[str, np.ndarray]]) -> _Populations:
    """Return the scores of all methods whose single runs are known: own ones, then published ones."""
    tasks = section.common_tasks
    if not tasks:
        return {}
    found = {method: [normalised(task, section.scores(method, task)) for task in tasks] for method in section.methods}
    for method, runs in peers.items():
        if set(tasks) <= runs.keys():
            found[method] = [normalised(task, runs[task]) for task in tasks]
    return found


def _sampled(section: Section, populations: _Populations) -> Iterator[Aggregated]:
    for method, scores in populations.items():
        metrics = statistics.intervals(scores)
        honest: dict[str, Interval | None] = {name: _honest(value, scores) for name, value in metrics.items()}
        yield Aggregated(method, method in section.methods, _counts(scores), honest)


def _of_means(
    section: Section, scores: dict[tuple[str, str], published.Score], methods: Iterable[str]
) -> Iterator[Aggregated]:
    """Yield what published means allow: a mean and a median over tasks."""
    tasks = section.common_tasks
    for method in methods:
        if tasks and all((method, task) in scores for task in tasks):
            means = [np.array([normalised(task, scores[method, task].mean)]) for task in tasks]
            known = {"mean": float(statistics.mean(means)), "median": float(statistics.median(means))}
            metrics = dict.fromkeys(statistics.METRICS)
            metrics |= {name: Interval(value, np.nan, np.nan) for name, value in known.items()}
            yield Aggregated(method, False, "", metrics)


def _pairs(section: Section, populations: _Populations) -> Iterator[Pair]:
    for first, second in _paired(section, populations):
        x, y = populations[first], populations[second]
        yield Pair(first, second, _honest(statistics.improvement(x, y), [*x, *y]))


def _paired(section: Section, populations: _Populations) -> Iterator[tuple[str, str]]:
    """Yield all pairs of own methods, of many only each with the control; then each of them with published ones."""
    own = [method for method in section.methods if method in populations]
    if len(own) <= MANY:
        yield from combinations(own, 2)
    else:
        yield from ((method, section.control) for method in own if method != section.control)
    yield from product(own, (method for method in populations if method not in own))


def _standings(section: Section, peers: Mapping[str, Mapping[str, np.ndarray]]) -> Iterator[Standing]:
    for run in section.runs:
        if peers and all(run.task in runs for runs in peers.values()):
            among = {name: statistics.percentile(run.score, runs[run.task]) for name, runs in peers.items()}
            yield Standing(run, among)


def _profiles(populations: _Populations) -> Iterator[Curve]:
    if sum(max(map(len, scores)) for scores in populations.values()) < 2:  # a single run has no profile
        return
    everything = np.concatenate([scores for method in populations.values() for scores in method])
    ends = (min(0.0, everything.min() - 0.02), max(1.0, everything.max() * 1.02))
    for method, scores in populations.items():
        thresholds = np.unique([*ends, *_thinned(np.concatenate(scores), 150)])  # a profile is a step at each score
        yield Curve(method, thresholds, _honest_band(statistics.profile(scores, thresholds), scores))


def _learning(section: Section, task: str) -> Iterator[Curve]:
    for method in section.methods:
        frames, returns = _returns(section, method, task)
        if len(frames):
            yield Curve(method, frames, np.array([spread(column) for column in returns.T]).T)


def _returns(section: Section, method: str, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the frames (points,) at which all runs were evaluated, and their mean returns (runs, points)."""
    runs = section.seeds(method, task)
    tables = [{evaluation.frame: evaluation.mean for evaluation in run.evaluations} for run in runs]
    frames = sorted(set.intersection(*map(set, tables))) if tables else []
    return np.array(frames), np.array([[table[frame] for frame in frames] for table in tables])


def _over_frames(section: Section) -> Iterator[Curve]:
    """Yield normalised scores at the frames at which all of a method's runs on all common tasks were evaluated."""
    for method in section.methods if section.common_tasks else ():
        tables = {task: _returns(section, method, task) for task in section.common_tasks}
        shared = sorted(set.intersection(*(set(frames.tolist()) for frames, _ in tables.values())))
        if shared:
            scores = [
                normalised(task, returns[:, np.isin(frames, shared)]) for task, (frames, returns) in tables.items()
            ]
            yield Curve(method, np.array(shared), _band(scores))


def _over_hours(section: Section) -> Iterator[Curve]:
    """Yield the normalised scores of the newest evaluation that every run had finished by then."""
    for method in section.methods if section.common_tasks else ():
        runs = {task: section.seeds(method, task) for task in section.common_tasks}
        clocks = [[evaluation.seconds / 3600 for evaluation in run.evaluations] for task in runs for run in runs[task]]
        start = max(clock[0] for clock in clocks)
        hours = _thinned([hour for clock in clocks for hour in clock if hour >= start], 100)
        scores = [
            normalised(task, np.array([[_newest(run.evaluations, hour) for hour in hours] for run in runs[task]]))
            for task in runs
        ]
        yield Curve(method, hours, _band(scores))


def _thinned(values: Sequence[float] | np.ndarray, most: int) -> np.ndarray:
    """Return the values in their order, each once; of more than `most` as many, evenly among them."""
    values = np.unique(values)
    return values[np.unique(np.linspace(0, len(values) - 1, most).round().astype(int))]


def _newest(evaluations: Sequence, hour: float) -> float:
    return [evaluation.mean for evaluation in evaluations if evaluation.seconds / 3600 <= hour][-1]


def _band(scores: list[np.ndarray]) -> np.ndarray:
    return _honest_band(statistics.curve(scores), scores)


def _honest(value: Interval, scores: Sequence[np.ndarray]) -> Interval:
    """Give no interval where every task has one run: resampling it says nothing of what another seed would do."""
    return value if max(map(len, scores)) > 1 else Interval(value.estimate, np.nan, np.nan)


def _honest_band(band: np.ndarray, scores: Sequence[np.ndarray]) -> np.ndarray:
    return band if max(map(len, scores)) > 1 else band * [[1], [np.nan], [np.nan]]


def _counts(scores: Sequence[np.ndarray]) -> str:
    counts = sorted({len(task) for task in scores})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"
