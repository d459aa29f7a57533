"""The published tables as data: known figures, every source and method resolved, and sums that must come out."""

import csv
import statistics
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from curl_rl.config.suites import ATARI_SCORES, PLANET_SIX
from curl_rl.envs.dmc import TASKS
from curl_rl.report.numbers.statistics import METRICS, iqm, mean, median
from curl_rl.report.read import published

DATA = Path(published.__file__).parent / "data"
KINDS = {"final checkpoint", "best of training", "not stated", "reference"}
DMC_MAIN = ["CURL", "DrQ", "SPR", "SAC+AE", "Dreamer", "State SAC", "MLR", "PlayVirtual", "COVR", "Simoun"]
ATARI_MAIN = [
    "Random",
    "Human",
    "DER",
    "CURL (paper)",
    "CURL (rliable final)",
    "DrQ(eps)",
    "SPR",
    "SPR (rliable)",
    "SR-SPR",
    "IRIS",
    "EfficientZero",
    "BBF (replay ratio 8)",
]
SINGLE_RUNS = ["CURL (paper)", "CURL (rliable final)", "DER", "DrQ (rliable)", "DrQ(eps)", "SPR (rliable)"]
SINGLE_RUNS += ["BBF (replay ratio 8)", "BBF (replay ratio 2)"]
BUDGETS = [("dmc", frames) for frames in (100_000, 500_000, 1_000_000, 1_500_000)] + [("atari", 400_000)]


def rows(table: str) -> list[dict[str, str]]:
    with (DATA / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def of(suite: str, frames: int, method: str) -> dict[str, published.Score]:
    return {score.task: score for score in published.scores(suite, frames) if score.method == method}


def normalised(method: str) -> list[np.ndarray]:
    """Return a method's human-normalised game means, one array for each game."""
    games = of("atari", 400_000, method)
    return [np.array([(games[task].mean - low) / (high - low)]) for task, (low, high) in ATARI_SCORES.items()]


@pytest.mark.parametrize(("suite", "names"), [("dmc", DMC_MAIN), ("atari", ATARI_MAIN)])
def test_the_main_methods_come_first_and_are_complete(suite, names):
    methods = published.methods(suite)
    assert list(methods)[: len(names)] == names
    assert [name for name, method in methods.items() if method.main] == names
    tasks = set(PLANET_SIX if suite == "dmc" else ATARI_SCORES)
    for name in names:
        assert set(of(suite, 100_000 if suite == "dmc" else 400_000, name)) == tasks


def test_curl_and_its_successors_on_control_are_as_printed():
    means = {task: score.mean for task, score in of("dmc", 100_000, "CURL").items()}
    assert [means[task] for task in PLANET_SIX] == [767, 582, 538, 299, 403, 769]
    finger = of("dmc", 500_000, "CURL")["dmc/finger_spin"]
    assert finger[2:6] == (500_000, 926, 45, 10)
    assert finger.source.startswith("CURL paper arXiv:2004.04136v4 Table 1")
    assert of("dmc", 100_000, "DrQ")["dmc/walker_walk"].mean == 612
    assert of("dmc", 100_000, "Simoun")["dmc/walker_walk"][3:6] == (869, 45, 5)


def test_a_bare_name_stands_for_the_authors_own_figures():
    cartpole = {score.method: score for score in published.scores("dmc", 100_000) if "cartpole" in score.task}
    assert (cartpole["Dreamer"].mean, cartpole["Dreamer (CURL's table)"].mean) == (786.6, 326)
    assert (cartpole["SAC+AE"].mean, cartpole["SAC+AE (CURL's table)"].mean) == (276, 311)
    assert (cartpole["CURL"].mean, cartpole["CURL (DrQ's table)"].mean) == (582, 592)
    assert "obtained from authors" in cartpole["Dreamer"].source
    alien = {score.method: score.mean for score in published.scores("atari", 400_000) if score.task == "atari/alien"}
    assert (alien["SPR"], alien["SPR (rliable)"]) == (801.5, 841.891)
    assert (alien["CURL (paper)"], alien["CURL (rliable final)"]) == (558.2, 711.033)


def test_random_play_and_people_are_the_suites():
    for method, place in (("Random", 0), ("Human", 1)):
        found = {task: score.mean for task, score in of("atari", 400_000, method).items()}
        assert found == {task: pair[place] for task, pair in ATARI_SCORES.items()}


@pytest.mark.parametrize(("suite", "frames"), BUDGETS)
def test_every_score_is_one_of_a_known_method_and_task_from_a_known_source(suite, frames):
    scores = published.scores(suite, frames)
    assert scores
    known = {f"dmc/{task}" for task in TASKS} if suite == "dmc" else set(ATARI_SCORES)
    assert {score.task for score in scores} <= known
    assert {score.method for score in scores} <= set(published.methods(suite))
    assert {score.budget_frames for score in scores} == {frames}
    assert len({score[:3] for score in scores}) == len(scores)
    assert all(len(score.source) > 20 for score in scores)
    assert all(np.isfinite(score.mean) and (score.std is None or score.std >= 0) for score in scores)


def test_no_row_of_the_data_is_lost():
    assert sum(len(published.scores(*budget)) for budget in BUDGETS) == len(rows("dmc")) + len(rows("atari"))


def test_what_was_never_published_is_empty():
    assert published.scores("dmc", 123) == published.scores("toy", 100_000) == []
    assert published.scores("atari", 100_000) == []
    assert published.methods("toy") == {}
    assert published.aggregates("dmc", 400_000) == published.aggregates("atari", 100_000) == []
    assert published.runs("dmc", 400_000) == published.runs("atari", 100_000) == {}


def test_every_source_is_known_once_and_used():
    keys = [row["source"] for row in rows("sources")]
    assert len(set(keys)) == len(keys)
    used = {key for table in ("dmc", "atari", "atari_aggregates", "atari_runs", "methods") for row in rows(table)
            for key in row["source"].split()}  # fmt: skip
    assert used == set(keys)


@pytest.mark.parametrize("suite", ["dmc", "atari"])
def test_every_method_says_how_it_was_measured_and_where_that_was_read(suite):
    mentioned = [row for row in rows("methods") if row["suite"] == suite]
    assert len({row["method"] for row in mentioned}) == len(mentioned)
    for row in mentioned:
        assert row["kind"] in KINDS
        assert row["source"]
    has = {row["method"] for row in rows(suite)}
    without = set(published.methods(suite)) - has
    assert without == ({"DER (rliable max-of-10)", "EfficientZero V2"} if suite == "atari" else set())


def test_best_of_training_is_told_from_final_checkpoints():
    atari = published.methods("atari")
    assert {name for name, method in atari.items() if method.kind == "final checkpoint"} == {
        "CURL (rliable final)",
        "DER",
        "DrQ(eps)",
        "DrQ (rliable)",
        "SPR (rliable)",
    }
    assert {name for name, method in atari.items() if method.kind == "best of training"} == {
        "CURL (paper)",
        "CURL (rliable max-of-10)",
        "DER (rliable max-of-10)",
        "EfficientZero V2",
    }
    assert {name for name, method in atari.items() if method.kind == "reference"} == {"Random", "Human"}
    assert "sticky" in atari["MR.Q"].caveat
    control = published.methods("dmc")
    assert {method.kind for method in control.values()} == {"not stated"}
    assert control["Pixel SAC"].caveat.startswith("Doubtful")
    assert "inferred" in control["COVR"].caveat
    assert "PlayVirtual" in control["SPR"].caveat
    assert all("agent steps" in control[name].caveat for name in control if name.startswith("RAD"))


def test_standard_errors_are_not_passed_off_as_deviations():
    flare = [score for frames in (500_000, 1_000_000) for score in of("dmc", frames, "Flare").values()]
    assert len(flare) == 10
    assert all(score.std is None and "standard error" in score.source for score in flare)


def test_a_score_tells_where_its_evaluation_was_not_at_the_budget():
    score = of("dmc", 1_000_000, "DrQ-v2")["dmc/cartpole_balance"]
    assert score.source.endswith("; evaluated at 980000 frames")


def test_aggregates_are_as_published():
    found = {(row.method, row.metric): row for row in published.aggregates("atari", 400_000)}
    assert len(found) == len(published.aggregates("atari", 400_000))
    final = {metric: found["CURL (rliable final)", metric] for metric in METRICS}
    expected = {"mean": 0.261, "median": 0.092, "iqm": 0.113, "optimality_gap": 0.768}
    assert {metric: row.value for metric, row in final.items()} == pytest.approx(expected, abs=6e-4)
    assert {row.kind for row in final.values()} == {"final checkpoint"}
    assert {row.n_runs for row in final.values()} == {100}
    assert found["CURL (paper)", "iqm"][2:4] == (0.1867, 20)
    assert found["CURL (paper)", "iqm"].kind == "best of training"
    assert ("EfficientZero", "iqm") not in found  # of game means, which is another number
    assert found["EfficientZero", "iqm_of_game_means"].n_runs is None
    assert {metric.removesuffix("_of_game_means") for _, metric in found} == set(METRICS)


def test_game_means_add_up_to_the_aggregates():
    complete = {name for name in published.methods("atari") if len(of("atari", 400_000, name)) == len(ATARI_SCORES)}
    complete.remove("DreamerV3")  # its table prints a mean of 1.097 over games whose mean is 1.130
    rows = [row for row in published.aggregates("atari", 400_000) if row.method in complete]
    of_means = [row for row in rows if row.metric in ("mean", "median") or row.metric.endswith("_of_game_means")]
    assert len(of_means) > 50
    for row in of_means:
        metric = METRICS[row.metric.removesuffix("_of_game_means")]
        assert metric(normalised(row.method)) == pytest.approx(row.value, abs=7e-4), row


def scaled_runs(method: str, games: Iterable[str] = ATARI_SCORES) -> list[np.ndarray]:
    """Return a method's human-normalised single runs, one array for each game."""
    runs = published.runs("atari", 400_000)[method]
    return [(runs[game] - ATARI_SCORES[game][0]) / (ATARI_SCORES[game][1] - ATARI_SCORES[game][0]) for game in games]


def test_single_runs_are_of_every_game_and_none_is_lost():
    runs = published.runs("atari", 400_000)
    counts = {method: {len(values) for values in games.values()} for method, games in runs.items()}
    assert counts == {
        "CURL (paper)": {20},
        **{method: {100} for method in PRINTED},
        "BBF (replay ratio 8)": {52, 56, 60},
        "BBF (replay ratio 2)": {14},
    }
    assert all(set(games) == set(ATARI_SCORES) for games in runs.values())
    assert sum(len(values) for games in runs.values() for values in games.values()) == 14_872 + 26 * 20
    assert all(np.isfinite(values).all() for games in runs.values() for values in games.values())


@pytest.mark.parametrize("method", SINGLE_RUNS)
def test_single_runs_are_those_behind_the_published_means(method):
    own = of("atari", 400_000, method)
    # Runs have five digits or two decimals; the two tables of CURL's paper differ by up to a hundredth.
    tolerance = {"rel": 0.01, "abs": 0.06} if method == "CURL (paper)" else {"rel": 5e-6, "abs": 0.0051}
    for game, values in published.runs("atari", 400_000)[method].items():
        assert own[game].mean == pytest.approx(float(np.mean(values)), **tolerance), game
        assert own[game].seeds == len(values)
        assert own[game].std == pytest.approx(statistics.stdev(values.tolist()), rel=1e-12)


def test_best_of_ten_and_final_runs_of_curl_are_two_things():
    best, final = (published.runs("atari", 400_000)[f"CURL ({kind})"] for kind in ("paper", "rliable final"))
    assert (len(best["atari/freeway"]), len(final["atari/freeway"])) == (20, 100)
    assert best["atari/alien"][:3].tolist() == [616, 923, 467]
    assert final["atari/alien"][:3].tolist() == [599.2, 596.4, 710.4]
    sources = {score.method: score.source for score in published.scores("atari", 400_000) if "alien" in score.task}
    assert "final checkpoints" in sources["CURL (rliable final)"]
    assert "final checkpoints" not in sources["CURL (paper)"]


# By rliable's notebook, mean, median; by MLR's repository, to three digits, interquartile mean and optimality gap.
PRINTED = {
    "CURL (rliable final)": (0.2615, 0.0923, 0.113, 0.768),
    "DER": (0.3503, 0.1894, 0.183, 0.698),
    "DrQ (rliable)": (0.3691, 0.2120, 0.224, 0.692),
    "DrQ(eps)": (0.4647, 0.3129, None, None),
    "SPR (rliable)": (0.6158, 0.3956, 0.337, 0.577),
}


@pytest.mark.parametrize("method", PRINTED)
def test_all_games_aggregated_from_single_runs_are_as_printed(method):
    scores = scaled_runs(method)
    for metric, printed, half in zip(METRICS.values(), PRINTED[method], (5e-5, 5e-5, 5e-4, 5e-4), strict=True):
        if printed is not None:
            assert metric(scores) == pytest.approx(printed, abs=half + 1e-6)


def test_all_games_aggregated_from_single_runs_are_the_table_of_aggregates():
    found = {(row.method, row.metric): row for row in published.aggregates("atari", 400_000)}
    for method in SINGLE_RUNS:
        scores = scaled_runs(method)
        for name, metric in METRICS.items():
            assert metric(scores) == pytest.approx(found[method, name].value, abs=5.1e-5), (method, name)
            assert found[method, name].n_runs == max(map(len, scores))
    assert found["BBF (replay ratio 8)", "iqm"].value == pytest.approx(1.023, abs=5e-4)  # its paper prints 1.045
    assert found["BBF (replay ratio 2)", "iqm"].value == pytest.approx(0.940, abs=5e-4)


SIX = {
    "CURL (rliable final)": (0.264, 0.117),
    "DER": (0.276, 0.212),
    "DrQ(eps)": (0.504, 0.452),
    "SPR (rliable)": (0.912, 0.574),
}
FIVE = {
    "CURL (rliable final)": (0.311, 0.172),
    "DER": (0.279, 0.198),
    "DrQ(eps)": (0.479, 0.426),
    "SPR (rliable)": (0.970, 0.589),
}


@pytest.mark.parametrize(("expected", "left_out"), [(SIX, ""), (FIVE, "atari/breakout")])
def test_some_games_aggregated_from_single_runs(expected, left_out):
    six = ("boxing", "breakout", "freeway", "kung_fu_master", "ms_pacman", "pong")
    games = [f"atari/{game}" for game in six if f"atari/{game}" != left_out]
    for method, printed in expected.items():
        scores = scaled_runs(method, games)
        assert (float(mean(scores)), float(iqm(scores))) == pytest.approx(printed, abs=5.1e-4), method


def test_curls_own_twenty_seeds_give_its_published_aggregates():
    scores = scaled_runs("CURL (paper)")
    assert mean(scores) == pytest.approx(0.381, abs=5e-4)
    assert median(scores) == pytest.approx(0.175, abs=5e-4)
    assert iqm(scores) == pytest.approx(0.187, abs=5e-4)
