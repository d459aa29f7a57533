"""Published scores of other methods, as data: what each source printed, how it was measured, and where it was read.

Sources disagree over the same method. Every (method, task, budget) has one row here, chosen and never averaged. A
method's bare name stands for the figures of its own paper or repository; where the collected tables have none, for
data that its authors gave to others; else for the first table in the order of sources.csv. What other tables tell of
the same method keeps a name that says so, "SAC+AE (CURL's table)" or "SPR (rliable)".

Of some methods of Atari-100K every single run is known. A line of atari_runs.csv is one method's runs of one game, the
scores of five digits or two decimals in the order of the source; plain text, which a wheel packs to two fifths.
"""

import csv
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

_DATA = Path(__file__).parent / "data"
_ATARI_FRAMES = 400_000  # 100K agent steps, the only budget of the Atari tables
PROTOCOLS = {"atari": "atari100k"}  # by which the scores were measured, of suites that have several


class Score(NamedTuple):
    """One method's mean return on one task at one budget."""

    method: str
    task: str
    budget_frames: int
    mean: float
    std: float | None  # over runs, as printed or of the single runs; None where there is none, or a standard error
    seeds: int | None  # None where the source does not say
    source: str


class Method(NamedTuple):
    """How a method's scores came about; only what the sources say."""

    name: str
    kind: str  # "final checkpoint", "best of training", "not stated", or "reference": random play and people
    caveat: str  # empty where there is none
    main: bool  # whether a short table shows it


class Aggregate(NamedTuple):
    """One number over the 26 games of Atari-100K, of human-normalised scores."""

    method: str
    metric: str  # "mean", "median", "iqm", "optimality_gap", or the last two with "_of_game_means"
    value: float
    n_runs: int | None  # of each game
    source: str
    kind: str  # as a Method's


def scores(suite: str, budget_frames: int) -> list[Score]:
    """Return the published scores of a suite, "dmc" or "atari", at a budget in frames; empty where there are none."""
    return [score for score in _scores() if score.budget_frames == budget_frames and score.task.startswith(f"{suite}/")]


def methods(suite: str) -> dict[str, Method]:
    """Return the methods of a suite by name in the order in which tables show them, the main ones first.

    A few of Atari have aggregates and no scores.
    """
    return {
        row["method"]: Method(row["method"], row["kind"], row["caveat"], row["main"] == "1")
        for row in _rows("methods")
        if row["suite"] == suite
    }


def aggregates(suite: str, budget_frames: int) -> list[Aggregate]:
    """Return what is known of methods over all games of Atari-100K, one value for each method and metric.

    Recomputed from single runs where these are public, otherwise from game means, otherwise as printed. Empty for
    another suite or budget.
    """
    if (suite, budget_frames) != ("atari", _ATARI_FRAMES):
        return []
    kinds = methods("atari")
    return [
        Aggregate(
            row["method"],
            row["metric"],
            float(row["value"]),
            _count(row["runs"]),
            _sources()[row["source"]],
            kinds[row["method"]].kind,
        )
        for row in _rows("atari_aggregates")
    ]


def runs(suite: str, budget_frames: int) -> dict[str, dict[str, np.ndarray]]:
    """Return the returns (runs,) of published single runs by method, then by task.

    Those of CURL's paper are the best of ten evaluations, others final checkpoints (see the methods' kinds). Games are
    independent: the same place in two of them is not the same run. Empty for another suite or budget than Atari-100K's.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    if (suite, budget_frames) == ("atari", _ATARI_FRAMES):
        for (method, task), (values, _) in _runs().items():
            found.setdefault(method, {})[task] = values
    return found


@cache
def _scores() -> tuple[Score, ...]:
    control = (_score(row, f"dmc/{row['task']}", int(row["frames"])) for row in _rows("dmc"))
    games = (_score(row, _game(row["game"]), _ATARI_FRAMES) for row in _rows("atari"))
    return (*control, *map(_with_spread, games))


def _score(row: Mapping[str, str], task: str, frames: int) -> Score:
    std, at = row.get("std"), row.get("evaluated_at")
    source = _sources()[row["source"]] + (f"; evaluated at {at} frames" if at else "")
    count, mean = _count(row["seeds"]), float(row["mean"])
    return Score(row["method"], task, frames, mean, float(std) if std else None, count, source)


def _with_spread(score: Score) -> Score:
    """Return a score with the deviation of the single runs behind it, where these are known."""
    if (score.method, score.task) not in _runs():
        return score
    values, source = _runs()[score.method, score.task]
    sources = dict.fromkeys((score.source, source))
    return score._replace(std=float(values.std(ddof=1)), source=" | ".join(sources))


@cache
def _runs() -> dict[tuple[str, str], tuple[np.ndarray, str]]:
    """Return single runs (runs,) and their source by method and task."""
    return {
        (row["method"], _game(row["game"])): (np.array(row["scores"].split(), float), _sources()[row["source"]])
        for row in _rows("atari_runs")
    }


@cache
def _rows(table: str) -> tuple[Mapping[str, str], ...]:
    with (_DATA / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


@cache
def _sources() -> dict[str, str]:
    return {row["source"]: row["text"] for row in _rows("sources")}


def _game(name: str) -> str:
    """Return our name of a game: "BankHeist" is "atari/bank_heist"."""
    return "atari/" + re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _count(cell: str) -> int | None:
    return int(cell) if cell else None
