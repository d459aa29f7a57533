"""CSV files that grow as jobs end, and the Markdown tables made of them."""

import csv
import fcntl
import io
import math
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from statistics import fmean

import numpy as np

from curl_rl.run.files import write_whole
from curl_rl.run.provenance import make_origin, surroundings

MADE_BY = ("command", "commit", "versions", "hardware")

Row = Mapping[str, object]
Cells = dict[str, list[float]]


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file, none where there is no file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def merge_rows(path: Path, rows: Sequence[Row], key: Sequence[str]) -> None:
    """Write rows into a CSV file, in the place of those that share their values of the columns `key`.

    Rows that stay keep all that they say, also in columns that the new ones lack. Several processes may do so at once.
    """

    def named(row: Row) -> tuple[str, ...]:
        return tuple(str(row[column]) for column in key)

    new = {named(row) for row in rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        merged = [*(row for row in read_rows(path) if named(row) not in new), *rows]
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(dict.fromkeys(chain(*merged))), lineterminator="\n")
        writer.writeheader()
        writer.writerows(merged)
        write_whole({path: buffer.getvalue()})


def made_by(command: Sequence[str]) -> dict[str, str]:
    """Return what every row says of how it was made: the command, the commit, the versions and the machine."""
    origin = make_origin(surroundings(), "", 0)._asdict()
    return {"command": shlex.join(command), **{name: origin[name] for name in MADE_BY[1:]}}


def makers(rows: Iterable[Mapping[str, str]]) -> str:
    """Return a Markdown list of what made the rows, and how many each."""
    counts = Counter(tuple(row.get(name) or "" for name in MADE_BY) for row in rows)
    return "".join(
        f"* {count} row{'s' * (count > 1)}: {_maker(*maker) if any(maker) else 'not recorded by what'}\n"
        for maker, count in counts.items()
    )


def _maker(command: str, *rest: str) -> str:
    return ", ".join([f"`{command}`", *(each or "unknown" for each in rest)])


def mean_spread(values: Sequence[float], digits: int = 3) -> str:
    """Return "mean ± standard deviation", the mean alone of one value."""
    mean = f"{fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def finite_mean(values: Iterable[float]) -> float:
    """Return the mean of what is finite, NaN of nothing."""
    finite = [value for value in values if math.isfinite(value)]
    return fmean(finite) if finite else math.nan


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, the first column's cells to the left and the others' to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def ranking(cells: Mapping[str, Cells], columns: Sequence[str], first: Sequence[str] = (), digits: int = 3) -> str:
    """Return the table of {row: {column: one value a seed}}, best mean over the columns first, `first` above all."""

    def merit(name: str) -> tuple[int, float]:
        place = first.index(name) if name in first else len(first)
        mean = finite_mean(fmean(values) for values in cells[name].values())
        return place, math.inf if math.isnan(mean) else -mean

    names = sorted(cells, key=merit)
    rows = [[name, *(_cell(cells[name].get(column), digits) for column in columns)] for name in names]
    return markdown(["objective", *columns], rows)


def _cell(values: Sequence[float] | None, digits: int) -> str:
    return mean_spread(values, digits) if values else ""


def gather(entries: Iterable[tuple[str, str, str, float]]) -> dict[str, Cells]:
    """Return {row: {column: values}} of entries (row, column, seed, value), the mean of each seed's finite values."""
    values: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for row, column, seed, value in entries:
        values[row, column, seed].append(value)
    cells: dict[str, Cells] = defaultdict(lambda: defaultdict(list))
    for (row, column, _), of_seed in values.items():
        cells[row][column].append(finite_mean(of_seed))
    return cells
