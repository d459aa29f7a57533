"""CSV files that grow as measurements end, each row with what made it."""

import csv
import fcntl
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from curl_rl.run.files import csv_text, write_whole
from curl_rl.run.provenance import make_origin, surroundings

Row = Mapping[str, object]


def made_by() -> dict[str, str]:
    """Return what every row says of how it was made: the command, the commit, the versions and the machine."""
    start = surroundings()
    origin = make_origin(start, "", 0)
    told = {"commit": origin.commit, "versions": origin.versions, "hardware": origin.hardware}
    return {"command": start["command"], **told}


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
    _change(path, lambda old: [*(row for row in old if named(row) not in new), *rows])


def drop_rows(path: Path, which: Callable[[Row], bool]) -> None:
    """Take rows out of a CSV file. Several processes may do so at once."""
    _change(path, lambda old: [row for row in old if not which(row)])


def _change(path: Path, change: Callable[[Sequence[Row]], Sequence[Row]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        old = read_rows(path)
        merged = change(old)
        columns = list(dict.fromkeys(chain(*(merged or old))))
        write_whole({path: csv_text([columns, *([row.get(name, "") for name in columns] for row in merged)])})
