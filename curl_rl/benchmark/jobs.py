"""The table jobs.csv of a benchmark: one row a job, how it ended, and the end of its log after a failure."""

import csv
import io
import re
from collections.abc import Iterable, Mapping
from typing import Any

from curl_rl.run.cells import inert
from curl_rl.run.files import csv_text
from curl_rl.types import ConfigError

JOB_COLUMNS = ("task", "method", "seed", "status", "attempts", "exit_code", "run_dir", "command", "tail")


def jobs_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the table of some jobs."""
    return csv_text([JOB_COLUMNS, *([inert(str(row[name])) for name in JOB_COLUMNS] for row in rows)])


def read_jobs(content: bytes, name: str) -> list[dict[str, str]]:
    """Return the rows of a table, none of an empty file, which a full disk leaves.

    Raises ConfigError, which names the table `name`, for anything that `jobs_text` did not write.
    """
    try:
        reader = csv.DictReader(io.StringIO(content.decode(), newline=""))
        rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{name} is no table of jobs ({error}): move it away") from None
    if content and tuple(reader.fieldnames or ()) != JOB_COLUMNS:
        raise ConfigError(f"{name} has other columns than {', '.join(JOB_COLUMNS)}: move it away")
    for line, row in rows:
        if None in row or None in row.values() or not re.fullmatch("[0-9]{1,19}", row["seed"]):
            raise ConfigError(f"{name}, line {line}, is broken: run its benchmark again, or move it away")
    return [row for _, row in rows]
