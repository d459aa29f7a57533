"""Whole runs of every objective at a small budget, by the public command, and the returns that they reach."""

import shlex
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from comparison.tables import Cells, gather, ranking, read_rows
from curl_rl.run.interpreter import environment, program


class Run(NamedTuple):
    """One run of `curl-rl train`."""

    task: str
    objective: str
    seed: int
    budget: int  # simulator frames
    folder: Path

    @property
    def run_dir(self) -> Path:
        return self.folder / self.task.replace("/", "_") / f"{self.objective}-seed{self.seed}-{self.budget}"

    @property
    def arguments(self) -> list[str]:
        """What `curl-rl` is given to start the run, or to go on with it."""
        settings = {"task": self.task, "objective": self.objective, "seed": self.seed, "budget_frames": self.budget}
        settings |= {"run_dir": self.run_dir, "threads": 1, "evaluation.workers": 1, "evaluation.video": "false"}
        return ["train", *(f"{key}={value}" for key, value in settings.items())]

    def rows(self) -> list[dict[str, str]]:
        """Return the evaluation's episodes so far, each with the command that made it."""
        name = {"task": self.task, "objective": self.objective, "seed": str(self.seed), "budget": str(self.budget)}
        command = shlex.join(["curl-rl", *self.arguments])
        return [{**name, **row, **name, "command": command} for row in read_rows(self.run_dir / "eval.csv")]

    @property
    def finished(self) -> bool:
        return any(int(row["frame"]) >= self.budget for row in self.rows())


def play(runs: Iterable[Run], workers: int) -> int:
    """Train what is not finished, some side by side; return how many runs failed."""

    def train(run: Run) -> bool:
        run.run_dir.mkdir(parents=True, exist_ok=True)
        with (run.run_dir / "output.log").open("a") as log:
            status = subprocess.run(
                [*program(), *run.arguments], check=False, stdout=log, stderr=subprocess.STDOUT, env=environment()
            ).returncode
        print(f"{run.run_dir}: {'finished' if status == 0 else f'status {status}, see output.log'}", flush=True)
        return status != 0

    with ThreadPoolExecutor(workers) as pool:
        return sum(pool.map(train, [run for run in runs if not run.finished]))


def table(rows: Sequence[dict[str, str]]) -> str:
    """Return the Markdown table of mean returns at each run's last evaluation, spread over seeds."""
    return ranking(_last_returns(rows), sorted({_column(row) for row in rows}), first=("none",), digits=1)


def _last_returns(rows: Sequence[dict[str, str]]) -> dict[str, Cells]:
    last = [row for row in rows if int(row["frame"]) >= int(row["budget"])]
    return gather((row["objective"], _column(row), row["seed"], float(row["return"])) for row in last)


def _column(row: dict[str, str]) -> str:
    return f"{row['task']} at {int(row['budget']):,} frames"
