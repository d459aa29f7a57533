"""Groups runs into sections whose scores may stand in one table, and lists the runs without a score."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from curl_rl.benchmark.jobs import read_jobs
from curl_rl.config.suites import SUITES, Suite, suite_of
from curl_rl.report.read.pooling import check
from curl_rl.run.cells import one_line, printable
from curl_rl.run.records import Run, find_runs, folders_with, read_run
from curl_rl.types import ConfigError, Origin

_OF_JOBS = ("exit_code", "attempts", "tail")


@dataclass(frozen=True)
class Section:
    """Finished runs of one suite and one budget, measured alike."""

    suite: str
    budget_frames: int
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        return f"{self.suite}_{self.budget_frames}"

    @property
    def kind(self) -> Suite:
        return SUITES[self.suite]

    @property
    def title(self) -> str:
        budget = f"{self.budget_frames:,} frames"
        repeat = self.runs[0].config["env"].get("action_repeat")
        if self.kind.budget_in_steps and isinstance(repeat, int):
            budget = f"{self.budget_frames // max(repeat, 1):,} agent steps ({budget})"
        return f"{self.kind.title}, {budget}"

    @property
    def score_label(self) -> str:
        """What an axis of normalised scores is called."""
        return self.kind.scale.name if self.kind.scale else "score"

    @cached_property
    def methods(self) -> list[str]:
        return sorted({run.method for run in self.runs}, key=_natural)

    @cached_property
    def tasks(self) -> list[str]:
        return sorted({run.task for run in self.runs})

    @property
    def control(self) -> str:
        """The method that others are held against where there are too many for all pairs."""
        return "none" if "none" in self.methods else self.methods[0]

    @cached_property
    def scaled_tasks(self) -> list[str]:
        """The tasks whose scores can be normalised."""
        return [task for task in self.tasks if normalised(task, 0.0) is not None]

    @cached_property
    def common_tasks(self) -> list[str]:
        """The tasks whose scores can be normalised and that every method has finished."""
        done = {(run.method, run.task) for run in self.runs}
        return [task for task in self.scaled_tasks if all((method, task) in done for method in self.methods)]

    def seeds(self, method: str, task: str) -> list[Run]:
        """Return one method's runs on one task, by seed."""
        return sorted((run for run in self.runs if (run.method, run.task) == (method, task)), key=lambda run: run.seed)

    def scores(self, method: str, task: str) -> np.ndarray:
        """Return (runs,) mean returns of the final checkpoints."""
        return np.array([run.score for run in self.seeds(method, task)])


class Absent(NamedTuple):
    """A run without a score, and why."""

    task: str
    method: str
    seed: int
    status: str  # unfinished, not a number, failed, stopped, waiting, running or missing
    frame: int  # of its last evaluation, 0 before the first
    budget_frames: int | None
    exit_code: str
    attempts: str
    path: str
    command: str
    tail: str
    went_on: str = ""  # as a Run's


def read_sections(folders: Sequence[Path]) -> tuple[list[Section], list[Absent]]:
    """Return the sections of all finished runs below some folders, and every run that gives no score.

    Raises ConfigError for runs that cannot be pooled, and where there are no results at all.
    """
    runs = _all_runs(folders)
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in sorted(filter(_is_scored, runs), key=lambda run: (run.task, _natural(run.method), run.seed)):
        groups.setdefault((suite_of(run.task), run.budget_frames), []).append(run)
    for group in groups.values():
        check(group)
    sections = [Section(suite, budget, tuple(group)) for (suite, budget), group in sorted(groups.items())]
    return sections, _absent(runs, [job for folder in folders for job in _jobs(folder)])


def read(path: Path) -> Run:
    """Read one run. Raises ConfigError for what is no run, or holds values that no report can read."""
    return _usable(read_run(path))


def normalised(task: str, score: Any) -> Any:
    """Return a score, or an array of them, by the scale of its suite; None for a task that has no such scale."""
    scale = SUITES[suite_of(task)].scale
    if scale is None or (ends := scale.ends(task)) is None:
        return None
    low, high = ends
    return (score - low) / (high - low)


def _all_runs(folders: Sequence[Path]) -> list[Run]:
    """Return the runs below some folders, each once, also those that have not evaluated yet."""
    runs = {run.path.resolve(): _usable(run) for run in find_runs(folders)}
    for folder in folders:
        for place in folders_with("metadata.json", folder):
            if place.resolve() not in runs and (place / "config.json").is_file():
                runs[place.resolve()] = read(place)
    return list(runs.values())


def _natural(name: str) -> tuple[list[str | int], str]:
    """Return the key that puts m2 before m10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)], name


def _usable(run: Run) -> Run:
    """Return a run whose names are printable."""
    return replace(
        run,
        task=one_line(run.task),
        method=one_line(run.method),
        origins=tuple(Origin(*map(one_line, origin)) for origin in run.origins),
        command=printable(run.command),
        segments=tuple(map(one_line, run.segments)),
    )


def is_number(run: Run) -> bool:
    """Return whether every evaluation has a mean return."""
    return all(np.isfinite(evaluation.mean) for evaluation in run.evaluations)


def _is_scored(run: Run) -> bool:
    return run.finished and is_number(run)


def _jobs(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of every `jobs.csv` below a folder, `run_dir` as one can open it from here."""
    for path in sorted(folder.rglob("jobs.csv")):
        if not path.is_file():
            raise ConfigError(f"{path} is no file, so no table of jobs: move it away")
        for row in read_jobs(path.read_bytes(), str(path)):
            shown = {name: printable(cell) if name == "tail" else one_line(cell) for name, cell in row.items()}
            yield shown | {"run_dir": str(path.parent / row["run_dir"])}


def _absent(runs: Iterable[Run], jobs: Iterable[Mapping[str, str]]) -> list[Absent]:
    """Return what has no score: unfinished runs with what their jobs say, and jobs that left no run."""
    of_runs = {run.path.resolve(): run for run in runs}
    of_jobs = {Path(job["run_dir"]).resolve(): job for job in jobs}
    found = [_of_run(run, of_jobs.get(path)) for path, run in of_runs.items() if not _is_scored(run)]
    found += [_of_job(job) for path, job in of_jobs.items() if path not in of_runs]
    return sorted(found, key=lambda run: (run.task, _natural(run.method), run.seed, run.path))


def _of_run(run: Run, job: Mapping[str, str] | None) -> Absent:
    status = job["status"] if job and job["status"] != "done" else "unfinished"
    job = job or {"exit_code": "", "attempts": "", "command": "", "tail": ""}
    return Absent(
        task=run.task,
        method=run.method,
        seed=run.seed,
        status=status if is_number(run) else "not a number",
        frame=run.evaluations[-1].frame if run.evaluations else 0,
        budget_frames=run.budget_frames,
        path=str(run.path),
        command=job["command"] or run.command,
        went_on=run.went_on,
        **{name: job[name] for name in _OF_JOBS},
    )


def _of_job(job: Mapping[str, str]) -> Absent:
    return Absent(
        task=job["task"],
        method=job["method"],
        seed=int(job["seed"]),
        status="missing" if job["status"] == "done" else job["status"],
        frame=0,
        budget_frames=None,
        path=job["run_dir"],
        command=job["command"],
        **{name: job[name] for name in _OF_JOBS},
    )
