"""Metrics by hand, against scipy and rliable, and as they must not change; intervals against loops and simulations."""

import warnings

import numpy as np
import pytest
import scipy.stats

from curl_rl.report.numbers.statistics import (
    METRICS,
    Interval,
    curve,
    improvement,
    intervals,
    iqm,
    mean,
    median,
    optimality_gap,
    percentile,
    profile,
    spread,
)


def drawn(seed: int, *runs: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(0.4 + 0.3 * k, 0.3, n) for k, n in enumerate(runs)]


def resamples(seed: int, samples: int, *scores: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Return the documented draws as lists: for each resample the runs that each task chose, one task after another."""
    rng = np.random.default_rng(seed)
    tasks = [task for method in scores for task in method]
    indices = [rng.integers(len(task), size=(samples, len(task))) for task in tasks]
    return [[task[index[s]] for task, index in zip(tasks, indices, strict=True)] for s in range(samples)]


def naive(name: str, tasks: list[np.ndarray]) -> float:
    runs = [float(run) for task in tasks for run in task]
    means = [sum(task) / len(task) for task in tasks]
    gaps = [sum(max(1 - run, 0) for run in task) / len(task) for task in tasks]
    return {
        "mean": lambda: sum(means) / len(means),
        "median": lambda: float(np.median(means)),
        "iqm": lambda: float(scipy.stats.trim_mean(runs, 0.25)),
        "optimality_gap": lambda: sum(gaps) / len(gaps),
    }[name]()


def beats(tasks: list[np.ndarray], others: list[np.ndarray]) -> float:
    """Return P(X > Y) by its definition, one pair of runs after another."""
    shares = []
    for task, other in zip(tasks, others, strict=True):
        wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in task for b in other]
        shares.append(sum(wins) / len(wins))
    return sum(shares) / len(shares)


def test_metrics_by_hand():
    scores = [np.array([0.0, 0.5, 1.0, 1.5]), np.array([2.0, 4.0]), np.array([0.25, 0.75])]
    # Task means .75, 3, .5. Of the eight runs 0 .25 .5 .75 1 1.5 2 4 the middle four are .5 .75 1 1.5.
    assert mean(scores) == pytest.approx(4.25 / 3)
    assert median(scores) == 0.75
    assert iqm(scores) == pytest.approx(3.75 / 4)
    # Gaps of the tasks' runs: 1 .5 0 0; 0 0; .75 .25.
    assert optimality_gap(scores) == pytest.approx((0.375 + 0 + 0.5) / 3)


def test_the_median_of_an_even_number_of_tasks_lies_midway():
    assert median([np.array([x]) for x in (4.0, 1.0, 3.0, 100.0)]) == 3.5


@pytest.mark.parametrize("runs", [(1,), (2,), (3,), (1, 2), (5,), (7,), (4, 4), (5, 5, 5), (3, 9, 1), (20,) * 26])
def test_metrics_are_their_naive_twins_for_any_number_of_runs(runs):
    scores = drawn(1, *runs)
    for name, metric in METRICS.items():
        assert metric(scores) == pytest.approx(naive(name, scores), rel=1e-12)


def test_metrics_ignore_the_order_of_runs_and_tasks_and_follow_their_scale():
    scores = drawn(2, 4, 6, 5)
    shuffled = [task[::-1] for task in scores[::-1]]
    for name, metric in METRICS.items():
        assert metric(shuffled) == pytest.approx(metric(scores), rel=1e-12)
        if name != "optimality_gap":
            assert metric([2 * task + 3 for task in scores]) == pytest.approx(2 * metric(scores) + 3, rel=1e-12)
    raised = [task + 5 for task in scores]
    assert optimality_gap(raised) == 0
    assert optimality_gap([task - 5 for task in scores]) == pytest.approx(1 - mean(scores) + 5, rel=1e-12)


def test_a_single_outlier_moves_the_mean_and_hardly_the_interquartile_mean():
    scores = drawn(3, 5, 5, 5)
    wild = [scores[0], scores[1], np.append(scores[2][:-1], 1000.0)]
    assert mean(wild) - mean(scores) > 60
    assert abs(iqm(wild) - iqm(scores)) < 0.2


def test_intervals_are_a_loop_over_the_same_draws():
    scores = drawn(4, 3, 5, 2, 8)
    found = intervals(scores, samples=150, seed=11)
    drawings = resamples(11, 150, scores)
    assert list(found) == ["mean", "median", "iqm", "optimality_gap"]
    for name, interval in found.items():
        low, high = np.percentile([naive(name, tasks) for tasks in drawings], [2.5, 97.5])
        assert interval == pytest.approx((naive(name, scores), low, high), rel=1e-10)
        assert interval.low < interval.high


def test_intervals_depend_on_nothing_but_the_seed():
    scores = drawn(5, 5, 4)
    assert intervals(scores, seed=3) == intervals(scores, seed=3)
    assert intervals(scores, seed=3) != intervals(scores, seed=4)
    before = [task.copy() for task in scores]
    intervals(scores)
    assert all(np.array_equal(task, kept) for task, kept in zip(scores, before, strict=True))


def test_with_one_run_a_task_every_interval_collapses_exactly():
    scores = drawn(7, *(1,) * 26)
    others = drawn(8, *(1,) * 26)
    for interval in (*intervals(scores).values(), improvement(scores, others), spread(scores[0])):
        assert interval.low == interval.estimate == interval.high
    for band in (profile(scores, np.linspace(0, 2, 7)), curve([np.outer(task, np.arange(4)) for task in scores])):
        assert (band[0] == band[1]).all()
        assert (band[0] == band[2]).all()


def test_spread_is_the_mean_of_one_task_with_its_interval():
    values = drawn(9, 6)[0]
    means = [tasks[0].mean() for tasks in resamples(2, 400, [values])]
    expected = Interval(values.mean(), *np.percentile(means, [2.5, 97.5]))
    assert spread(values, samples=400, seed=2) == pytest.approx(expected, rel=1e-12)


def test_the_interval_of_the_mean_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(10)
    truth, hits, simulations = np.array([0.2, 1.0, 0.6, 2.0]), 0, 200
    for k in range(simulations):
        scores = list(truth[:, None] + rng.exponential(0.5, (4, 10)) - 0.5)
        interval = intervals(scores, samples=300, seed=k)["mean"]
        hits += interval.low <= truth.mean() <= interval.high
    # Nominal .95; percentiles of ten runs fall short by some points, and 200 simulations count to within two.
    assert 0.85 <= hits / simulations <= 0.99


def test_resampling_keeps_to_its_stratum():
    far = [np.full(5, 0.0), np.full(5, 100.0)]  # runs pooled over tasks would vary
    assert intervals(far)["mean"] == Interval(50, 50, 50)


def test_improvement_by_hand():
    x = [np.array([1.0, 2.0, 3.0]), np.array([5.0])]
    y = [np.array([2.0, 0.0]), np.array([5.0, 9.0])]
    # First task: 1 beats one of two, 2 beats one and ties one, 3 beats both: 4.5 of 6. Second: half a win of 2.
    assert improvement(x, y).estimate == pytest.approx((4.5 / 6 + 0.5 / 2) / 2)


def test_improvement_is_a_loop_over_pairs_and_over_the_same_draws():
    rng = np.random.default_rng(12)
    x = [rng.integers(0, 5, n).astype(float) for n in (4, 7, 2)]  # with ties
    y = [rng.integers(0, 5, n).astype(float) for n in (6, 3, 5)]
    drawings = [beats(tasks[:3], tasks[3:]) for tasks in resamples(5, 120, x, y)]
    expected = (beats(x, y), *np.percentile(drawings, [2.5, 97.5]))
    assert improvement(x, y, samples=120, seed=5) == pytest.approx(expected, rel=1e-12)
    statistics = [scipy.stats.mannwhitneyu(a, b).statistic / (len(a) * len(b)) for a, b in zip(x, y, strict=True)]
    assert improvement(x, y).estimate == pytest.approx(np.mean(statistics), rel=1e-12)


def test_improvement_is_fair_and_sees_only_the_order():
    x, y = drawn(13, 5, 6), drawn(14, 4, 3)
    assert improvement(x, y).estimate + improvement(y, x).estimate == pytest.approx(1)
    assert improvement(x, x).estimate == pytest.approx(0.5)
    assert improvement([task + 100 for task in x], y) == Interval(1, 1, 1)
    stretched = [[np.exp(3 * task) for task in method] for method in (x, y)]
    assert improvement(*stretched) == improvement(x, y)


def test_percentile_by_hand_and_by_ranks():
    among = np.array([3.0, 1.0, 2.0, 2.0])
    # Below 2 lies one of four and two are equal: 1/4 + 1/4.
    assert [percentile(x, among) for x in (0.0, 1.0, 2.0, 2.5, 3.0, 4.0)] == [0, 12.5, 50, 75, 87.5, 100]
    rng = np.random.default_rng(19)
    values, among = rng.integers(0, 9, 30).astype(float), rng.integers(0, 9, 40).astype(float)
    for value in values:
        assert percentile(value, among) == pytest.approx(scipy.stats.percentileofscore(among, value, kind="mean"))
    mean_of_all = np.mean([percentile(value, among) for value in values])
    assert mean_of_all == pytest.approx(100 * improvement([values], [among]).estimate)


def test_profile_is_the_share_above_each_threshold_and_a_loop_over_the_same_draws():
    scores, thresholds = drawn(15, 3, 6, 2), np.array([-9.0, 0.3, 0.6, 0.9, 9.0])

    def shares(tasks):
        return [np.mean([sum(run > tau for run in task) / len(task) for task in tasks]) for tau in thresholds]

    expected = [shares(scores), *np.percentile([shares(t) for t in resamples(3, 90, scores)], [2.5, 97.5], axis=0)]
    found = profile(scores, thresholds, samples=90, seed=3)
    assert found.shape == (3, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[:, 0].tolist() == [1, 1, 1]
    assert found[:, -1].tolist() == [0, 0, 0]
    assert (np.diff(found, axis=1) <= 0).all()


def test_a_run_that_equals_the_threshold_is_not_above_it():
    assert profile([np.array([0.5, 1.0])], np.array([0.5, 1.0]))[0].tolist() == [0.5, 0]


def test_curve_is_the_interquartile_mean_at_each_point_of_whole_runs():
    rng = np.random.default_rng(16)
    scores = [rng.normal(size=(n, 4)).cumsum(axis=1) for n in (5, 2, 3)]
    found = curve(scores, samples=80, seed=6)
    drawings = resamples(6, 80, scores)
    for p in range(4):
        values = [naive("iqm", [task[:, p] for task in tasks]) for tasks in drawings]
        expected = [naive("iqm", [task[:, p] for task in scores]), *np.percentile(values, [2.5, 97.5])]
        np.testing.assert_allclose(found[:, p], expected, rtol=1e-10)
    same = curve([np.repeat(task[:, :1], 3, axis=1) for task in scores])
    assert (same == same[:, :1]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: intervals([]), "no task"),
        (lambda: intervals([np.ones(2), np.ones(0)]), "task 1 has no runs"),
        (lambda: intervals([np.array([1.0, np.nan])]), "task 0 has a score that is no number"),
        (lambda: intervals([np.array([np.inf])]), "is no number"),
        (lambda: intervals([np.ones((2, 2))]), "need 1 axes"),
        (lambda: curve([np.ones(3)]), "need 2 axes"),
        (lambda: curve([np.ones((2, 0))]), "has no runs"),
        (lambda: curve([np.ones((2, 3)), np.ones((2, 4))]), "tasks have 3, 4 points"),
        (lambda: improvement([np.ones(2)], [np.ones(2), np.ones(2)]), "x has 1 tasks and y 2"),
        (lambda: improvement([np.ones(2)], [np.ones(0)]), "task 0 has no runs"),
        (lambda: intervals([np.ones(2)], samples=0), "samples=0"),
        (lambda: profile([np.ones(2)], np.ones(1), samples=-1), "samples=-1"),
    ],
)
def test_what_has_no_statistics_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def rliable_results(x: np.ndarray, y: np.ndarray, thresholds: np.ndarray, reps: int) -> dict[str, np.ndarray]:
    """Return what rliable finds for scores (runs, tasks): a row for the estimates, then both ends."""
    from rliable import library, metrics

    def aggregate(scores):
        names = ("aggregate_mean", "aggregate_median", "aggregate_iqm", "aggregate_optimality_gap")
        return np.array([getattr(metrics, name)(scores) for name in names])

    np.random.seed(0)  # noqa: NPY002 (rliable draws from the global generator, whatever its random_state)
    points, ends = library.get_interval_estimates({"x": x}, aggregate, reps=reps)
    chance, chances = library.get_interval_estimates(
        {"x": [x, y]}, lambda a, b: np.array([metrics.probability_of_improvement(a, b)]), reps=reps
    )
    share, shares = library.create_performance_profile({"x": x}, thresholds, reps=reps)
    return {
        "metrics": np.vstack([points["x"], ends["x"]]),
        "improvement": np.vstack([chance["x"], chances["x"]]),
        "profile": np.vstack([share["x"], shares["x"]]),
    }


def test_rliable_finds_the_same():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("rliable", reason="the authors' own library is not installed", exc_type=ImportError)
        x, y = np.array(drawn(17, *(6,) * 5)).T, np.array(drawn(18, *(9,) * 5)).T - 0.1
        thresholds, reps = np.array([0.4, 0.8, 1.2]), 500
        theirs = rliable_results(x, y, thresholds, reps)
    ours = {
        "metrics": np.array(list(intervals(list(x.T), samples=4000).values())).T,
        "improvement": np.array([improvement(list(x.T), list(y.T), samples=4000)]).T,
        "profile": profile(list(x.T), thresholds, samples=4000),
    }
    # The q-quantile of B resamples has the standard error sqrt(q (1 - q) / B) / f(q). With a normal f of the interval's
    # width w = 3.92 sigma and q = .025 it is .030 w for B = 500 and .011 w for 4000, .032 w between the two: a sixth is
    # five of them. A share of 30 runs moves in steps of 1/30, so its quantile may fall one to either side.
    for name, found in ours.items():
        np.testing.assert_allclose(found[0], theirs[name][0], rtol=1e-12)
        tolerance = (theirs[name][2] - theirs[name][1]) / 6 + (1 / 30 if name == "profile" else 0)
        assert (abs(found[1:] - theirs[name][1:]) <= tolerance).all(), name
