"""How a benchmark's jobs stand: what a person sees of them on the terminal, and jobs.csv."""

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import fmean
from typing import Any, TextIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from curl_rl.benchmark.engines.base import Handle, Job
from curl_rl.benchmark.jobs import JOB_COLUMNS, jobs_text, read_jobs
from curl_rl.run.files import write_whole
from curl_rl.types import ConfigError

_TABLE_SECONDS, _LINE_SECONDS = 2.0, 60.0


@dataclass
class Standing:
    """A job and what has become of it."""

    job: Job
    budget: int  # agent steps
    status: str = "waiting"  # then running; at last done, failed or stopped
    attempts: int = 0
    losses: int = 0  # of workers that died under it
    exit_code: int | None = None
    tail: str = ""  # of the log, after a failure
    handle: Handle | None = None
    paused: bool = False  # by a signal, so that it will not go on by itself
    score: float | None = None  # of the newest evaluation
    steps: int = 0  # agent steps so far


class Board:
    """A table that is drawn anew on a terminal; elsewhere a line for each event and one a minute."""

    def __init__(self, standings: Sequence[Standing], out: str, stream: TextIO):
        self._standings, self._out, self._stream = standings, out, stream
        self._begun, self._first = time.monotonic(), sum(standing.steps for standing in standings)
        self._shown = -_LINE_SECONDS
        self._files, self._place = fsspec.url_to_fs(out)
        self._former = self._read_jobs()
        self._height = 0  # lines of the table on the terminal

    def note(self, standing: Standing, event: str) -> None:
        """Print an event in the life of a job, and write jobs.csv."""
        self._try_to_write()
        job, done = standing.job, self._count("done")
        self.say(f"{job.task} {job.method} seed {job.seed} {event} ({done} of {len(self._standings)} done)")

    def say(self, *lines: str) -> None:
        """Print lines in the place of the table."""
        if self._height:
            print(f"\x1b[{self._height}A\x1b[J", end="", file=self._stream)
            self._height = 0
        print("\n".join(lines), file=self._stream, flush=True)

    def due(self) -> bool:
        """Return whether it is time to show how things stand."""
        return time.monotonic() - self._shown >= (_TABLE_SECONDS if self._stream.isatty() else _LINE_SECONDS)

    def show(self) -> None:
        self._shown = time.monotonic()
        if not self._stream.isatty():
            self.say(self._summary())
            return
        lines = self._fitting()
        self.say(*lines)
        self._height = len(lines)

    def conclude(self) -> None:
        """Print the table a last time, and every failure with its command and the end of its log."""
        self._try_to_write()
        lines = self._table(list(self._groups().items()))
        for standing in self._standings:
            if standing.status == "failed":
                lines += ["", f"failed: {standing.job.line()}", standing.tail]
        self.say(*lines)

    def write_jobs(self) -> None:
        """Write jobs.csv into the place of the results; rows of other jobs there are kept."""
        text = jobs_text((self._former | {row["run_dir"]: row for row in self._rows()}).values())
        if isinstance(self._files, LocalFileSystem):
            write_whole({Path(self._place) / "jobs.csv": text})
            return
        self._files.makedirs(self._place, exist_ok=True)
        self._files.pipe_file(f"{self._place}/.part-jobs.csv", text.encode())
        self._files.mv(f"{self._place}/.part-jobs.csv", f"{self._place}/jobs.csv")

    def _try_to_write(self) -> None:
        """Write jobs.csv; where that is refused the jobs matter more, and the next event tries again."""
        try:
            self.write_jobs()
        except OSError as error:
            self.say(f"jobs.csv is not written now: {error.strerror or error}")

    def _rows(self) -> Iterator[dict[str, Any]]:
        for each in self._standings:
            job, code = each.job, "" if each.exit_code is None else each.exit_code
            place = job.run_dir.removeprefix(f"{self._out}/")
            cells = (job.task, job.method, job.seed, each.status, each.attempts, code, place, job.line(), each.tail)
            yield dict(zip(JOB_COLUMNS, cells, strict=True))

    def _read_jobs(self) -> dict[str, dict[str, Any]]:
        """Return the rows of an earlier benchmark in the same place, by run directory."""
        path, name = f"{self._place}/jobs.csv", f"{self._out}/jobs.csv"
        if not self._files.exists(path):
            return {}
        if not self._files.isfile(path):
            raise ConfigError(f"{name} is no file, so no table of jobs: move it away")
        return {row["run_dir"]: row for row in read_jobs(self._files.cat_file(path), name)}

    def _count(self, status: str) -> int:
        return sum(standing.status == status for standing in self._standings)

    def _summary(self) -> str:
        stopped = ("stopped",) if self._count("stopped") else ()
        counts = (f"{self._count(status)} {status}" for status in ("running", "waiting", *stopped, "done", "failed"))
        return f"{', '.join(counts)}; {self._left()} left"

    def _left(self) -> str:
        """Return how long the rest takes at the pace of all workers since the start."""
        made = sum(standing.steps for standing in self._standings) - self._first
        rate = made / max(time.monotonic() - self._begun, 1e-9)
        rest = sum(each.budget - each.steps for each in self._standings if each.status not in ("done", "failed"))
        return str(timedelta(seconds=round(rest / rate))) if rate > 0 else "0:00:00" if not rest else "?"

    def _groups(self) -> dict[tuple[str, str], list[Standing]]:
        """Return the jobs of each task and method that has begun."""
        groups: dict[tuple[str, str], list[Standing]] = {}
        for standing in self._standings:
            groups.setdefault((standing.job.task, standing.job.method), []).append(standing)
        return {key: group for key, group in groups.items() if any(each.status != "waiting" for each in group)}

    def _fitting(self) -> list[str]:
        """Return as much of the table as the terminal holds: what runs or failed before what is done."""
        size = shutil.get_terminal_size()
        groups, room = self._groups(), max(size.lines - 4, 1)
        urgent = sorted(groups, key=lambda key: not any(each.status in ("running", "failed") for each in groups[key]))
        lines = self._table([(key, groups[key]) for key in groups if key in urgent[:room]])
        if len(groups) > room:
            lines.insert(-1, f"... and {len(groups) - room} more")
        return [line[: size.columns - 1] for line in lines]

    def _table(self, groups: Sequence[tuple[tuple[str, str], Sequence[Standing]]]) -> list[str]:
        """Return a head, one line for each task and method with its seeds so far, and the summary."""
        width = max((len(task) for (task, _), _ in groups), default=4)
        lines = [f"{'task':<{width}}  {'method':<14} {'done':>6} {'failed':>6}  {'running':<16} {'return':>10}"]
        lines += [f"{task:<{width}}  {method:<14.14} {_cells(group)}" for (task, method), group in groups]
        return [*lines, self._summary()]


def _cells(group: Sequence[Standing]) -> str:
    done = f"{sum(standing.status == 'done' for standing in group)}/{len(group)}"
    failed = sum(standing.status == "failed" for standing in group) or ""
    shares = {each.job.seed: "paused" if each.paused else f"{each.steps / each.budget:.0%}" for each in group}
    running = " ".join(shares[each.job.seed] for each in group if each.status == "running")
    scores = [standing.score for standing in group if standing.score is not None]
    return f"{done:>6} {failed:>6}  {running:<16.16} {f'{fmean(scores):.1f}' if scores else '':>10}"
