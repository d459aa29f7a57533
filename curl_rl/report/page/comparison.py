"""Compares two runs of one task: their evaluations, the difference of the last ones, and their configurations."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os.path import commonpath

import numpy as np

from curl_rl.config.difference import LOCAL, differing
from curl_rl.config.moved import MOVED
from curl_rl.report.numbers.results import Curve, difference_of_means, spread
from curl_rl.report.page.tables import Table, Value, counted, shown
from curl_rl.report.read.measured import origin_parts
from curl_rl.report.read.sections import is_number
from curl_rl.run.cells import one_line, printable
from curl_rl.run.records import Run
from curl_rl.types import ConfigError


@dataclass(frozen=True)
class Comparison:
    """Two runs beside each other."""

    title: str
    runs: tuple[Run, Run]
    names: Sequence[str]
    warnings: tuple[str, ...]
    verdict: str
    curves: Sequence[Curve]
    tables: tuple[Table, Table, Table]  # evaluations, configuration, origins

    bands = "Bands are 95 % bootstrap intervals over the episodes of an evaluation; they say nothing of other seeds."

    def text(self) -> str:
        """Return everything as lines for a terminal."""
        names = [f"{letter}  {name}" for letter, name in zip("AB", self.names, strict=True)]
        commands = [f"{letter}  {run.command or '(unknown)'}" for letter, run in zip("AB", self.runs, strict=True)]
        blocks = [
            [self.title, *names],
            [f"warning: {text}" for text in self.warnings],
            _aligned(self.tables[0]),
            [self.verdict],
            _aligned(self.tables[1]) if self.tables[1].rows else ["The configurations do not differ."],
            _listed(self.tables[2]),
            ["Commands", *commands],
        ]
        return printable("\n\n".join("\n".join(block) for block in blocks if block))


def compare(first: Run, second: Run) -> Comparison:
    """Compare two runs. Raises ConfigError for different tasks, or where one has no evaluation, or one of no number."""
    runs = (first, second)
    for run in runs:
        if not run.evaluations:
            raise ConfigError(f"{run.path} has no evaluation yet: let it train on")
        if not is_number(run):
            raise ConfigError(f"{run.path / 'eval.csv'} holds a return that is no number: run its command again")
    if first.task != second.task:
        raise ConfigError(
            f"{first.path} is of {first.task} and {second.path} of {second.task}: only runs of one task can be compared"
        )
    names = _names(runs)
    return Comparison(
        title=f"Two runs of {first.task}",
        runs=runs,
        names=names,
        warnings=tuple(_warnings(first, second)),
        verdict=_verdict(runs, names),
        curves=[_curve(run, name) for run, name in zip(runs, names, strict=True)],
        tables=(_evaluations(runs, names), _configurations(first, second, names), _origins(runs, names)),
    )


def _names(runs: Sequence[Run]) -> list[str]:
    """Return the runs' paths without what they share."""
    places = [run.path.resolve() for run in runs]
    if places[0] == places[1]:
        raise ConfigError(f"{runs[0].path} and {runs[1].path} are one run: give two")
    shared = commonpath(places)
    names = [one_line(place.relative_to(shared).as_posix()) for place in places]
    return [run.path.name if name == "." else name for name, run in zip(names, runs, strict=True)]


def _warnings(first: Run, second: Run) -> Iterator[str]:
    if first.protocol != second.protocol:
        yield f"the protocols differ, {first.protocol} and {second.protocol}: their returns measure different things."
    if first.budget_frames != second.budget_frames:
        yield f"the budgets differ, {first.budget_frames:,} and {second.budget_frames:,} frames."
    for run in (first, second):
        if run.segments:
            yield f"{run.path} {run.went_on}."
        if not run.finished:
            yield f"{run.path} is unfinished: {run.evaluations[-1].frame:,} of {run.budget_frames:,} frames evaluated."


def _verdict(runs: Sequence[Run], names: Sequence[str]) -> str:
    ends = [run.evaluations[-1] for run in runs]
    signed = shown(Value.between(difference_of_means(*(np.array(end.returns) for end in ends))))
    scores = ", ".join(
        f"{name} {shown(Value(end.mean))} ({counted(len(end.returns), 'episode')} at {end.frame:,} frames)"
        for name, end in zip(names, ends, strict=True)
    )
    return (
        f"Last evaluation: {scores}. Difference, {names[1]} minus {names[0]}: {signed}. The 95 % bootstrap interval is "
        "over the episodes of these two runs; it says nothing of other seeds."
    )


def _curve(run: Run, name: str) -> Curve:
    points = [spread(np.array(evaluation.returns)) for evaluation in run.evaluations]
    return Curve(name, np.array([evaluation.frame for evaluation in run.evaluations]), np.array(points).T)


def _evaluations(runs: Sequence[Run], names: Sequence[str]) -> Table:
    by_frame = [{each.frame: Value.of(np.array(each.returns)) for each in run.evaluations} for run in runs]
    rows = tuple((frame, *(of.get(frame) for of in by_frame)) for frame in sorted(set().union(*by_frame)))
    title = "Evaluations: mean ± standard deviation over episodes (how many)"
    return Table("comparison_evaluations", title, ("Frames", *names), rows)


def _configurations(first: Run, second: Run, names: Sequence[str]) -> Table:
    changed = differing(first.config, second.config, ignored=("run_dir",))
    rows = tuple((key, json.dumps(a), json.dumps(b), _yes(key not in LOCAL)) for key, (a, b) in changed.items())
    columns = ("Setting", *names, "Can change results")
    title = "Configuration difference"
    if changed.keys() & MOVED.keys():
        title += " (one run is of a version that named some settings otherwise)"
    return Table("comparison_configuration", title, columns, rows)


def _origins(runs: Sequence[Run], names: Sequence[str]) -> Table:
    """Return what both ran on; a run that was resumed elsewhere has several values."""
    rows = []
    for kind in ("commit", "versions", "hardware"):
        values = [" | ".join(dict.fromkeys(origin_parts(origin)[kind] for origin in run.origins)) for run in runs]
        unknown = kind == "commit" and values[0] == values[1] and "+" in values[0]
        rows.append((kind, *values, "unknown (uncommitted changes)" if unknown else _yes(values[0] != values[1])))
    return Table("comparison_origins", "Code and machines", ("", *names, "Differs"), tuple(rows))


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def _listed(table: Table) -> list[str]:
    """Return the rows of a table of origins, whose values are too long for columns."""
    lines = [table.title]
    for kind, first, second, differs in (tuple(map(shown, row)) for row in table.rows):
        lines += [f"{kind}  differs: {differs}", f"  A  {first}", f"  B  {second}"]
    return lines


def _aligned(table: Table) -> list[str]:
    """Return a table's title and its rows in columns, the runs' long names replaced."""
    head = (table.columns[0], "A", "B", *table.columns[3:])
    lines = [head, *(tuple(map(shown, row)) for row in table.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    rows = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
    return [table.title, *rows]
