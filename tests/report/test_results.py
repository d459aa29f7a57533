import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from fake_runs import write_run, write_suite
from scipy.stats import percentileofscore, trim_mean

from curl_rl.config.suites import ATARI_SCORES
from curl_rl.report.numbers.results import difference_of_means, gather
from curl_rl.report.page.contents import blocks
from curl_rl.report.page.tables import shown
from curl_rl.report.read import published
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
    parts = {block.kind: block for block in blocks(found)}
    for kind in ("scores", "aggregates", "improvement", "profiles"):  # the kind travels, and a warning with the table
        assert any("CURL (paper): best of training" in text for text in parts[kind].warnings), kind
    assert not any("CURL (paper)" in column for column in parts["percentiles"].tables[0].columns)
    assert found.label("CURL (paper)") == "CURL (paper) [best of training]"
    assert "CURL (paper) [best of training]" in blocks(found)[0].tables[0].columns


PEERS = ["DER", "CURL (paper)", "CURL (rliable final)", "DrQ(eps)", "SPR (rliable)", "BBF (replay ratio 8)"]
PEERS += ["DrQ (rliable)", "BBF (replay ratio 2)"]  # no main ones
MAIN = [name for name in PEERS[:6] if name != "CURL (paper)"]  # of whose runs none is a best of training


@pytest.fixture(scope="module")
def atari(tmp_path_factory):
    """The results of three runs of two games, and of a third that one method lacks."""
    root = tmp_path_factory.mktemp("atari")
    games = {"atari/freeway": 28.0, "atari/pong": -18.0}
    levels = {"curl": {**games, "atari/boxing": 1.0}, "none": games}
    write_suite(root, levels, seeds=3, budget=400_000, every=80_000)
    return gather(read_sections([root])[0][0])


def read_peers(method):
    """Read a method's published runs of two games from the data, without the code under test."""
    path = Path(published.__file__).parent / "data" / "atari_runs.csv"
    with path.open(newline="") as file:
        rows = {(row["method"], row["game"]): row["scores"].split() for row in csv.DictReader(file)}
    return {f"atari/{game.lower()}": [float(score) for score in rows[method, game]] for game in ("Freeway", "Pong")}


def test_peers_are_aggregated_on_the_common_tasks_from_their_runs(atari):
    rows = {row.method: row for row in atari.aggregates}
    assert [name for name, row in rows.items() if row.runs] == ["curl", "none", *PEERS]
    assert (rows["DER"].runs, rows["BBF (replay ratio 8)"].runs) == ("100", "56-60")
    for method in PEERS:
        scores = [
            np.array([(score - ATARI_SCORES[task][0]) / np.diff(ATARI_SCORES[task])[0] for score in runs])
            for task, runs in read_peers(method).items()
        ]
        means = [task.mean() for task in scores]
        expected = {
            "mean": np.mean(means),
            "median": np.median(means),
            "iqm": trim_mean(np.concatenate(scores), 0.25),
            "optimality_gap": np.mean([np.maximum(1 - task, 0).mean() for task in scores]),
        }
        found = rows[method].metrics
        assert {name: value.estimate for name, value in found.items() if value} == pytest.approx(expected)
        assert all(value and value.low < value.high for value in found.values())


def test_own_methods_are_held_against_each_peer(atari):
    assert [pair[:2] for pair in atari.pairs] == [
        ("curl", "none"),
        *itertools.product(("curl", "none"), PEERS),
    ]
    for first, second, value in atari.pairs[1:]:
        wins = [
            np.mean([(x > y) + (x == y) / 2 for x, y in itertools.product(finals400(atari, first, task), runs)])
            for task, runs in read_peers(second).items()
        ]
        assert value.estimate == pytest.approx(np.mean(wins), abs=1e-12)
        assert value.low < value.high


def finals400(found, method, task):
    return [run.evaluations[-1].mean for run in found.section.runs if (run.method, run.task) == (method, task)]


def test_each_run_stands_among_the_peers_runs_of_its_game(atari):
    assert len(atari.standings) == len(atari.section.runs) == 15
    for run, found in atari.standings:
        assert list(found) == MAIN
        if run.task != "atari/boxing":
            for method, value in found.items():
                runs = read_peers(method)[run.task]
                assert value == pytest.approx(percentileofscore(runs, run.score, kind="mean"))


def test_the_table_of_percentiles_has_a_line_a_run_and_a_mean_a_method(atari):
    block = next(block for block in blocks(atari) if block.kind == "percentiles")
    (table,) = block.tables
    assert table.columns[4:] == (*MAIN[:4], "BBF (replay ratio 8) [not stated]")
    assert any("BBF (replay ratio 8): not stated" in text for text in block.warnings)
    assert table.own_rows == 2
    assert [row[:2] for row in table.rows[:2]] == [("mean of 2 tasks", "curl"), ("mean of 2 tasks", "none")]
    for place, row in enumerate(table.rows[:2]):
        for column, method in enumerate(MAIN, start=4):
            own = [
                np.mean([found[method] for run, found in atari.standings if (run.method, run.task) == (row[1], task)])
                for task in ("atari/freeway", "atari/pong")
            ]
            assert row[column].number == pytest.approx(np.mean(own)), (place, method)
    runs = [(run.task, run.method, run.seed, run.score) for run in atari.section.runs]
    assert [(*row[:3], row[3].number) for row in table.rows[2:]] == runs
    assert shown(table.rows[2][4]).count(".") == 1


def test_profiles_are_of_main_peers(atari):
    assert [curve.method for curve in atari.profiles] == ["curl", "none", *PEERS[:6]]
    curve = next(curve for curve in atari.profiles if curve.method == "DER")
    at = np.searchsorted(curve.x, 0.4)
    shares = [
        np.mean([(score - ATARI_SCORES[task][0]) / np.diff(ATARI_SCORES[task])[0] > curve.x[at] for score in runs])
        for task, runs in read_peers("DER").items()
    ]
    assert curve.y[0, at] == pytest.approx(np.mean(shares))


def test_one_seed_beside_peers_is_told(tmp_path):
    write_suite(tmp_path, {"curl": {"atari/pong": -18.0}}, seeds=1, budget=400_000, every=80_000)
    found = gather(read_sections([tmp_path])[0][0])
    assert "the interval of one seed is of the published runs alone" in notes(found)["improvement"]
    assert "is of the published runs alone" not in notes_of_control(tmp_path / "control")


def notes_of_control(root):
    write_suite(root, {"a": {TASKS[0]: 5.0}, "b": {TASKS[0]: 5.0}}, seeds=1)
    found = gather(read_sections([root])[0][0])
    assert found.standings == ()
    assert "percentiles" not in notes(found)
    return notes(found)["improvement"]


def test_a_published_method_of_the_same_name_is_told_apart(tmp_path):
    write_suite(tmp_path, {"CURL": {TASKS[0]: 500.0}}, seeds=2)
    found = gather(read_sections([tmp_path])[0][0])
    table = blocks(found)[0].tables[0]
    assert table.columns[:3] == ("Task", "CURL", "CURL (published) [not stated]")
    assert table.rows[0][2] == (403, 24, 10, None, None, None)
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
        *((method, control) for method in methods if method != control),
        *itertools.product(found.section.methods, PEERS),
    ]
    assert f"with {control} alone, and with the published ones" in notes(found)["improvement"]


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
