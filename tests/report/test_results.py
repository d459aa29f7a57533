import itertools

import numpy as np
import pytest
from fake_runs import write_run, write_suite
from scipy.stats import trim_mean

from curl_rl.config.suites import ATARI_SCORES
from curl_rl.report.numbers.results import difference_of_means, gather
from curl_rl.report.page.contents import blocks
from curl_rl.report.read.sections import read_sections

TASKS = ("dmc/walker_walk", "dmc/cheetah_run")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    levels = {"curl": dict.fromkeys(TASKS, 500.0), "none": {TASKS[0]: 420.0, TASKS[1]: 900.0}}
    write_suite(root, levels, seeds=4)
    write_suite(root / "more", {"curl": {"dmc/finger_spin": 800.0}}, seeds=1)
    return gather(read_sections([root])[0][0])


def finals(results, method, task):
    """Read final scores from the runs' files, without the code under test."""
    scores = []
    for run in results.section.runs:
        if (run.method, run.task) == (method, task):
            lines = (run.path / "eval.csv").read_text().splitlines()[1:]
            scores.append(np.mean([float(line.split(",")[4]) for line in lines if line.split(",")[1] == "100000"]))
    return np.array(scores)


def test_aggregates_are_those_of_the_common_tasks(results):
    assert results.section.common_tasks == sorted(TASKS)
    for row in (row for row in results.aggregates if row.own):
        scores = np.array([finals(results, row.method, task) / 1000 for task in TASKS])  # (2, 4)
        expected = {
            "mean": scores.mean(),
            "median": np.median(scores.mean(axis=1)),
            "iqm": trim_mean(scores.ravel(), 0.25),
            "optimality_gap": np.maximum(1 - scores, 0).mean(),
        }
        assert {name: value.estimate for name, value in row.metrics.items()} == pytest.approx(expected)
        assert all(value.low < value.estimate < value.high for value in row.metrics.values())
        assert row.runs == "4"


def test_published_means_give_a_mean_and_a_median_only(results):
    row = next(row for row in results.aggregates if row.method == "CURL")
    assert row.metrics["mean"].estimate == pytest.approx((403 + 299) / 2000)  # Laskin et al. 2020, table 1
    assert np.isnan(row.metrics["mean"].low)
    assert row.metrics["iqm"] is None
    assert row.metrics["optimality_gap"] is None
    assert not row.own


def test_improvement_counts_pairs_of_runs(results):
    (pair,) = results.pairs
    wins = [
        np.mean([x > y for x, y in itertools.product(finals(results, "curl", task), finals(results, "none", task))])
        for task in TASKS
    ]
    assert (pair.first, pair.second) == ("curl", "none")
    assert pair.value.estimate == pytest.approx(np.mean(wins))


def test_profiles_are_shares_of_runs(results):
    curve = next(curve for curve in results.profiles if curve.method == "none")
    at = np.searchsorted(curve.x, 0.6)
    shares = [np.mean(finals(results, "none", task) / 1000 > curve.x[at]) for task in TASKS]
    assert curve.y[0, at] == pytest.approx(np.mean(shares))


def test_one_seed_has_no_interval(results):
    assert np.isnan(results.finals["curl", "dmc/finger_spin"][1:]).all()
    (curve,) = results.learning["dmc/finger_spin"]
    assert curve.x.tolist() == [20_000, 40_000, 60_000, 80_000, 100_000]
    assert np.isfinite(curve.y[0]).all()
    assert np.isnan(curve.y[1:]).all()


def test_curves_are_means_over_seeds_at_shared_frames(tmp_path):
    write_run(tmp_path, TASKS[0], "curl", 1, [[1, 3], [5, 7], [100, 300]], budget=60_000)
    write_run(tmp_path, TASKS[0], "curl", 2, [[2, 2], [200, 300]], budget=60_000, every=30_000)
    found = gather(read_sections([tmp_path])[0][0])
    (curve,) = found.learning[TASKS[0]]
    assert curve.x.tolist() == [60_000]
    assert curve.y[0] == pytest.approx([(200 + 250) / 2])
    (frames,) = found.efficiency["frames"]
    assert frames.y[0] == pytest.approx([0.225])


def test_hours_count_the_newest_evaluation(tmp_path):
    write_run(tmp_path, TASKS[0], "curl", 0, [[100.0], [300.0]], budget=40_000, evaluation__episodes=1)
    write_run(tmp_path, TASKS[1], "curl", 100, [[200.0], [600.0]], budget=40_000, evaluation__episodes=1)
    (curve,) = gather(read_sections([tmp_path])[0][0]).efficiency["hours"]
    assert curve.x * 3600 == pytest.approx([700, 1200, 1300])  # the second run's clock is 100 s late
    assert curve.y[0] == pytest.approx([(0.1 + 0.2) / 2, (0.3 + 0.2) / 2, (0.3 + 0.6) / 2])


def test_published_seeds_stand_beside_own_atari_runs(tmp_path):
    write_suite(tmp_path, {"curl": {"atari/freeway": 28.0, "atari/pong": -10.0}}, seeds=2, budget=400_000, every=80_000)
    found = gather(read_sections([tmp_path])[0][0])
    row = next(row for row in found.aggregates if row.method == "CURL (paper)")
    assert (row.own, row.runs) == (False, "20")
    assert all(value is not None and value.low < value.high for value in row.metrics.values())
    means = {"atari/freeway": 26.7, "atari/pong": -16.5}  # Laskin et al. 2020, table 2
    scores = [(means[task] - ATARI_SCORES[task][0]) / np.diff(ATARI_SCORES[task])[0] for task in means]
    assert row.metrics["mean"].estimate == pytest.approx(np.mean(scores), abs=0.01)
    assert [pair.second for pair in found.pairs] == ["CURL (paper)"]
    for block in blocks(found)[:4]:  # the kind travels with the name, and a warning with the table
        assert any("CURL (paper): best of training" in text for text in block.warnings), block.kind
    assert found.label("CURL (paper)") == "CURL (paper) [best of training]"
    assert "CURL (paper) [best of training]" in blocks(found)[0].tables[0].columns


def test_a_published_method_of_the_same_name_is_told_apart(tmp_path):
    write_suite(tmp_path, {"CURL": {TASKS[0]: 500.0}}, seeds=2)
    found = gather(read_sections([tmp_path])[0][0])
    table = blocks(found)[0].tables[0]
    assert table.columns[:3] == ("Task", "CURL", "CURL (published) [not stated]")
    assert table.rows[0][2] == (403, 24, 10, None, None)
    assert [row.method for row in found.aggregates][:2] == ["CURL", "CURL (published)"]
    assert found.label("CURL") == "CURL"


def test_suites_without_a_scale_have_no_aggregates(tmp_path):
    write_suite(tmp_path, {"curl": {"toy/reach": 5.0}}, seeds=2)
    found = gather(read_sections([tmp_path])[0][0])
    assert found.aggregates == found.pairs == found.profiles == ()
    assert "no scale" in notes(found)["aggregates"]
    assert "no scale" in notes(found)["improvement"]
    assert len(found.learning["toy/reach"]) == 1


def notes(found):
    return {block.kind: " ".join(block.notes) for block in blocks(found)}


def test_games_without_a_human_score_are_named(tmp_path):
    write_suite(tmp_path, {"a": {"atari/skiing": -9.0}, "b": {"atari/skiing": -9.0}}, seeds=2)
    for kind in ("aggregates", "improvement", "profiles", "efficiency"):
        text = notes(gather(read_sections([tmp_path])[0][0]))[kind]
        assert "atari/skiing has no human-normalised score" in text
        assert "inish" not in text
    write_suite(tmp_path, {"a": {"atari/pong": -9.0}}, seeds=2)
    text = notes(gather(read_sections([tmp_path])[0][0]))["aggregates"]
    assert "finish those that are missing. atari/skiing has no human" in text
    write_suite(tmp_path, {"b": {"atari/pong": -9.0}, "a": {"atari/boxing": 9.0}}, seeds=2)
    text = notes(gather(read_sections([tmp_path])[0][0]))["aggregates"]
    assert "no finished run: atari/boxing. atari/skiing has no human" in text


def test_all_pairs_are_compared_of_few_methods(tmp_path):
    write_suite(tmp_path, {f"m{i}": {TASKS[0]: 100.0 * i} for i in range(1, 9)}, seeds=2)
    found = gather(read_sections([tmp_path])[0][0])
    assert len(found.pairs) == 8 * 7 / 2
    assert "alone" not in notes(found)["improvement"]


@pytest.mark.parametrize(("last", "control"), [("none", "none"), ("m11", "m2")])
def test_many_methods_are_compared_with_the_control_alone(tmp_path, last, control):
    methods = [*(f"m{i}" for i in range(2, 11)), last]
    write_suite(tmp_path, {method: {"atari/pong": -9.0} for method in methods}, seeds=2, budget=400_000, every=80_000)
    found = gather(read_sections([tmp_path])[0][0])
    assert [(pair.first, pair.second) for pair in found.pairs] == [
        (method, control) for method in methods if method != control
    ]
    assert f"with {control} alone" in notes(found)["improvement"]
    assert "CURL (paper)" in {row.method for row in found.aggregates}  # of which runs are known, but not the report's


def test_the_score_table_holds_means_deviations_and_seeds(results):
    table = blocks(results)[0].tables[0]
    row = dict(zip(table.columns, next(row for row in table.rows if row[0] == TASKS[1]), strict=True))
    scores = finals(results, "none", TASKS[1])
    assert row["none"][:3] == pytest.approx((scores.mean(), np.std(scores, ddof=1), 4))
    assert row["CURL [not stated]"][:3] == (299, 48, 10)


def test_differences_resample_both_runs():
    first, second = np.array([1.0, 2.0, 3.0]), np.array([11.0, 12.0])
    found = difference_of_means(first, second)
    assert found.estimate == 9.5
    assert 8 <= found.low < 9.5 < found.high <= 11
    assert found == difference_of_means(first, second)
    assert np.isnan(difference_of_means(first[:1], second[:1])[1:]).all()
