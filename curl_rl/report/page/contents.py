"""What a report says of a section: its tables, and the sentences that stand with them."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from curl_rl.report.numbers.results import MANY, Results
from curl_rl.report.numbers.statistics import METRICS, SAMPLES, SEED
from curl_rl.report.page.figures import METRIC_TITLES
from curl_rl.report.page.tables import Cell, Table, Value, counted
from curl_rl.report.read import published
from curl_rl.report.read.sections import Absent, Section

_BOOTSTRAP = (
    f"95 % intervals by {SAMPLES:,} stratified bootstrap resamples of the runs (seed {SEED}), which of few seeds are "
    "too narrow"
)

_KINDS = {
    "best of training": "the best of each run's evaluations, which is not comparable with the final checkpoints of "
    "this report",
    "not stated": "the source does not say whether they are of final checkpoints, as this report's are",
}


class Block(NamedTuple):
    """One part of a section."""

    kind: str  # also of its figure
    title: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    folded: tuple[Table, ...] = ()  # shown when asked for


def blocks(results: Results) -> list[Block]:
    """Return the parts of a section, in the order of the page."""
    placed = (_percentiles,) if results.standings else ()
    parts = (_scores, _aggregates, _improvement, *placed, _profiles, _learning, _efficiency, _published)
    return [part(results) for part in parts]


def absent_table(absent: Iterable[Absent]) -> Table:
    """Return the list of runs without a score."""
    absent = list(absent)
    columns = ("Task", "Method", "Seed", "State", "Frames evaluated", "Budget", "Exit code", "Attempts", "Directory")
    rows = tuple((*run[:6], _integer(run.exit_code), _integer(run.attempts), run.path) for run in absent)
    if any(run.went_on for run in absent):
        columns += ("Segments",)
        rows = tuple((*row, run.went_on) for row, run in zip(rows, absent, strict=True))
    return Table(
        "without_score",
        "Runs without a score",
        columns,
        rows,
        "None of them counts in any score, aggregate or curve of this report: where a run's returns are not a number, "
        "the scores of its method's other runs flatter the method.",
    )


def _integer(text: str) -> Cell:
    return int(text) if text.removeprefix("-").isdecimal() else text or None


def _scores(results: Results) -> Block:
    section = results.section
    rows = tuple(
        (
            task,
            *(Value.of(section.scores(method, task)) for method in section.methods),
            *(_score(results.scores.get((method, task))) for method in results.main),
        )
        for task in section.tasks
    )
    table = Table(
        f"{section.name}_scores",
        "Return of the final checkpoint: mean ± standard deviation (seeds)",
        ("Task", *section.methods, *map(results.label, results.main)),
        rows,
        "A run's score is its mean return over the episodes of its last evaluation, never the best of training.",
        own=len(section.methods),
    )
    notes = [f"Bold columns are the runs of this report. {table.note}"]
    notes.append(
        "Deviations are between seeds (n - 1), three or more. Published values are as printed, or of the published "
        "single runs."
    )
    if not results.methods:
        notes.append(f"No published results are known for these tasks at {section.budget_frames:,} frames.")
    warnings = _kind_warnings(results, results.main, unstated=True)
    return Block("scores", "Scores", tuple(notes), tuple(warnings), (table,))


def _score(score: published.Score | None) -> Cell:
    return Value(score.mean, score.std, score.seeds) if score else None


def _kind_warnings(results: Results, methods: Iterable[str], *, unstated: bool = False) -> Iterable[str]:
    """Say which of the methods' figures are not of final checkpoints, and if asked, of which nobody knows."""
    methods = [method for method in dict.fromkeys(methods) if method in results.methods]
    for kind, meaning in _KINDS.items():
        names = [name for name in methods if results.methods[name].kind == kind]
        if names and (unstated or kind != "not stated"):
            yield f"{', '.join(names)}: {kind}, that is {meaning}."


def _aggregates(results: Results) -> Block:
    section = results.section
    if not results.aggregates:
        return Block("aggregates", "Aggregates", (_why_none(results),))
    rows = tuple(
        (results.label(row.method), _integer(row.runs), *(Value.between(row.metrics[metric]) for metric in METRICS))
        for row in results.aggregates
    )
    table = Table(
        f"{section.name}_aggregates",
        f"Aggregates of {_scale(section)} over {counted(len(section.common_tasks), 'task')} [95 % interval]",
        ("Method", "Runs a task", *(METRIC_TITLES[metric] for metric in METRICS)),
        rows,
        own_rows=len(section.methods),
    )
    notes = [f"Over all {counted(len(section.tasks), 'task')}."]
    if left := [task for task in section.tasks if task not in section.common_tasks]:
        notes = [f"Over the tasks that all methods of this report have finished: {', '.join(section.common_tasks)}."]
        if unfinished := [task for task in left if task in section.scaled_tasks]:
            notes.append(f"Left out, because a method has no finished run: {', '.join(unfinished)}.")
        notes.append(_unscaled(section))
    notes.append(f"{_BOOTSTRAP}. {_seeds_note(results)}".strip())
    if sampled := any(row.runs and not row.own for row in results.aggregates):
        notes.append("Published methods with a number of runs are aggregated from these single runs on the same tasks.")
    if any(not row.runs for row in results.aggregates):
        notes.append(
            f"Of {'the other ' if sampled else ''}published methods only each task's mean is known: their "
            "interquartile mean and optimality gap, which need single runs, are blank. Those without a mean for every "
            "one of these tasks are left out."
        )
    warnings = _kind_warnings(results, (row.method for row in results.aggregates))
    return Block("aggregates", "Aggregates", tuple(notes), tuple(warnings), (table,))


def _why_none(results: Results, reason: str = "") -> str:
    """Say why a part is empty; `reason` is its own, where there are aggregates."""
    section = results.section
    if results.aggregates:
        return f"None. {reason}"
    if section.kind.scale is None:
        return f"None. {section.kind.title} have no scale by which several of them could be averaged."
    unfinished = "No task has finished runs of every method: finish those that are missing."
    return f"None. {unfinished if section.scaled_tasks else ''} {_unscaled(section)}".replace("  ", " ").strip()


def _unscaled(section: Section) -> str:
    """Say which tasks have no scale, nothing where all have one."""
    tasks = [task for task in section.tasks if task not in section.scaled_tasks]
    if not tasks or section.kind.scale is None:
        return ""
    verb = "have" if len(tasks) > 1 else "has"
    return f"{', '.join(tasks)} {verb} {section.kind.scale.missing}."


def _scale(section: Section) -> str:
    return section.kind.scale.plural if section.kind.scale else "scores"


def _seeds_note(results: Results) -> str:
    """Say where intervals are missing or too narrow because tasks have one run."""
    counts = _seeds(results.section)
    mixed = [method for method, runs in counts.items() if min(runs) == 1 < max(runs)]
    notes = []
    if single := _single(results):
        notes.append(f"One seed a task: no interval for {', '.join(single)}.")
    if mixed:
        notes.append(f"Some tasks of {', '.join(mixed)} have one seed, which narrows the interval more than it should.")
    return " ".join(notes)


def _single(results: Results) -> list[str]:
    """Return the methods with one run of each common task."""
    return [method for method, runs in _seeds(results.section).items() if max(runs) == 1]


def _seeds(section: Section) -> dict[str, list[int]]:
    """Return each method's number of runs of each common task."""
    return {method: [len(section.seeds(method, task)) for task in section.common_tasks] for method in section.methods}


def _improvement(results: Results) -> Block:
    if not results.pairs:
        return Block("improvement", "Probability of improvement", (_why_none(results, "There is one method."),))
    rows = tuple(
        (results.label(pair.first), results.label(pair.second), Value.between(pair.value)) for pair in results.pairs
    )
    table = Table(
        f"{results.section.name}_improvement",
        "Probability that a run of X scores higher than a run of Y [95 % interval]",
        ("X", "Y", "P(X > Y)"),
        rows,
    )
    note = "Mean over the common tasks of the share of pairs of runs in which X scores higher; a tie counts a half."
    if len(results.section.methods) > MANY:
        note += f" Of more than {MANY} methods each is compared with {results.section.control} alone"
        note += ", and with the published ones." if results.standings else "."
    notes = [note, _seeds_note(results)]
    if results.standings and _single(results):
        notes.append("Beside a published method the interval of one seed is of the published runs alone.")
    warnings = _kind_warnings(results, (name for pair in results.pairs for name in pair[:2]))
    return Block("improvement", "Probability of improvement", tuple(notes), tuple(warnings), (table,))


def _percentiles(results: Results) -> Block:
    section = results.section
    peers = list(results.standings[0].percentiles)
    shares = {pair[:2]: 100 * pair.value.estimate for pair in results.pairs}
    mean = f"mean of {counted(len(section.common_tasks), 'task')}"
    means = [
        (mean, method, None, None, *(Value(shares[method, peer], decimals=1) for peer in peers))
        for method in (section.methods if section.common_tasks else ())
    ]
    rows = [
        (run.task, run.method, run.seed, Value(run.score), *(Value(found[peer], decimals=1) for peer in peers))
        for run, found in results.standings
    ]
    table = Table(
        f"{section.name}_percentiles",
        "Percentile of each run among the published runs of its task",
        ("Task", "Method", "Seed", "Return", *map(results.label, peers)),
        (*means, *rows),
        "0 is below all published runs of that task, 50 in their middle, 100 above all of them; a tie counts a half.",
        own_rows=len(means),
    )
    notes = [table.note]
    if means:
        notes.append("Bold rows, means over runs and common tasks, are the probability of improvement in percent.")
    warnings = _kind_warnings(results, peers, unstated=True)
    return Block("percentiles", "Percentiles among published runs", tuple(notes), tuple(warnings), (table,))


def _profiles(results: Results) -> Block:
    note = "The share of runs that score above τ, as a mean over the common tasks; a curve further right is better."
    if not results.profiles:
        return Block("profiles", "Performance profiles", (_why_none(results, "There is one run a task."),))
    warnings = _kind_warnings(results, (curve.method for curve in results.profiles))
    return Block("profiles", "Performance profiles", (note, _seeds_note(results)), tuple(warnings))


def _learning(results: Results) -> Block:
    notes = [
        "Mean over the seeds of each evaluation's mean return, at the frames at which all seeds of a method were "
        "evaluated; bands are 95 % bootstrap intervals of that mean over seeds.",
    ]
    if single := sorted(
        {curve.method for curves in results.learning.values() for curve in curves if np.isnan(curve.y[1]).any()}
    ):
        notes.append(f"No band where a method has one seed: {', '.join(single)}.")
    if results.methods:
        notes.append("Hollow markers at the budget are the published results of the table above.")
    if missing := [
        f"{method} on {task}"
        for task, curves in results.learning.items()
        for method in results.section.methods
        if results.section.seeds(method, task) and method not in {curve.method for curve in curves}
    ]:
        notes.append(f"Not drawn, for their seeds were evaluated at different frames: {', '.join(missing)}.")
    return Block("curves", "Learning curves", tuple(notes))


def _efficiency(results: Results) -> Block:
    if not any(results.efficiency.values()):
        return Block("efficiency", "Sample efficiency", (_why_none(results),))
    hardware = sorted({origin.hardware for run in results.section.runs for origin in run.origins})
    notes = [
        f"Interquartile mean of {_scale(results.section)} over the common tasks and their runs, over frames and "
        "over the hours of training and evaluation that each run took: by an hour counts a run's newest evaluation.",
        f"Hours are those of the machine{'s' if len(hardware) > 1 else ''} that the runs had: {' | '.join(hardware)}.",
        _seeds_note(results),
    ]
    if len(hardware) > 1:
        notes.append("Hours on different machines do not compare methods.")
    return Block("efficiency", "Sample efficiency", tuple(notes))


def _published(results: Results) -> Block:
    section = results.section
    if not results.methods:
        return Block("published", "Published results", ("None for these tasks and this budget.",))
    main = _protocols(results, results.main, "protocols", "Kind of figure, caveats and sources of the main ones")
    folded = [_every_score(results)]
    folded.append(_protocols(results, results.methods, "all_protocols", "Kind of figure, caveats and sources of all"))
    if aggregates := published.aggregates(section.suite, section.budget_frames):
        folded.append(_aggregates_of_all(section.name, aggregates))
    note = (
        f"{len(results.methods)} methods have a published result for a task of this report at "
        f"{section.budget_frames:,} frames; the tables and figures above show {len(results.main)} of them"
        f"{', aggregates and probabilities also others with single runs' if results.standings else ''}."
    )
    return Block("published", "Published results", (note,), tables=(main,), folded=tuple(folded))


def _every_score(results: Results) -> Table:
    section = results.section
    return Table(
        f"{section.name}_published",
        "Published returns: mean ± standard deviation (seeds)",
        ("Method", "Kind", *section.tasks),
        tuple(
            (name, method.kind, *(_score(results.scores.get((name, task))) for task in section.tasks))
            for name, method in results.methods.items()
        ),
    )


def _protocols(results: Results, methods: Iterable[str], name: str, title: str) -> Table:
    def sources(method: str) -> str:
        return " | ".join(dict.fromkeys(score.source for (of, _), score in results.scores.items() if of == method))

    return Table(
        f"{results.section.name}_{name}",
        title,
        ("Method", "Kind", "Caveats", "Sources"),
        tuple(
            (method, results.methods[method].kind, results.methods[method].caveat, sources(method))
            for method in methods
        ),
    )


def _aggregates_of_all(name: str, aggregates: Iterable[published.Aggregate]) -> Table:
    known = {(row.method, row.metric): row for row in aggregates}
    metrics = {
        **METRIC_TITLES,
        "iqm_of_game_means": "Interquartile mean of game means",
        "optimality_gap_of_game_means": "Optimality gap of game means",
    }
    rows = []
    for method in dict.fromkeys(method for method, _ in known):
        found = {metric: known[method, metric] for metric in metrics if (method, metric) in known}
        runs = max((row.n_runs for row in found.values() if row.n_runs), default=None)
        values = (Value(found[metric].value) if metric in found else None for metric in metrics)
        sources = dict.fromkeys(row.source for row in found.values())
        kinds = dict.fromkeys(row.kind for row in found.values())
        rows.append((method, " | ".join(kinds), runs, *values, " | ".join(sources)))
    return Table(
        f"{name}_published_aggregates",
        "Published aggregates over all 26 games, human-normalised",
        ("Method", "Kind", "Runs a game", *metrics.values(), "Sources"),
        tuple(rows),
        "Not comparable with aggregates of fewer games.",
    )


def runs_table(results: Results) -> Table:
    """Return every finished run with its score and where it comes from."""
    rows = tuple(
        (
            run.task,
            run.method,
            run.seed,
            Value(run.score),
            len(run.evaluations[-1].returns),
            run.evaluations[-1].frame,
            Value(run.evaluations[-1].seconds / 3600),
            run.protocol,
            " | ".join(dict.fromkeys(origin.commit or "installed" for origin in run.origins)),
            str(run.path),
        )
        for run in results.section.runs
    )
    columns = ("Task", "Method", "Seed", "Return", "Episodes", "Frames", "Hours", "Protocol", "Commit", "Directory")
    if any(run.segments for run in results.section.runs):
        columns += ("Segments",)
        rows = tuple((*row, run.went_on) for row, run in zip(rows, results.section.runs, strict=True))
    return Table(f"{results.section.name}_runs", "Every finished run", columns, rows)
