"""Groups runs into sections whose scores may stand in one table, and refuses to pool what was measured differently."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from curl_rl.records import Run, find_runs, read_run
from curl_rl.suites import ATARI_SCORES, suite_of
from curl_rl.types import ConfigError

# What differs between runs that are seeds of one method; but for the seed it is config.LOCAL, which needs torch.
LOCAL = ("run_dir", "device", "threads", "replay.device", "env.timeout", "evaluation.workers")
TITLES = {"dmc": "DeepMind Control", "atari": "Atari", "toy": "Toy tasks"}

_JOB = ("task", "method", "seed", "status", "attempts", "exit_code", "run_dir", "command", "tail")


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
    def title(self) -> str:
        budget = f"{self.budget_frames:,} frames"
        if self.suite == "atari":
            budget = f"{self.budget_frames // 4:,} agent steps ({budget})"
        return f"{TITLES[self.suite]}, {budget}"

    @cached_property
    def methods(self) -> list[str]:
        return sorted({run.method for run in self.runs})

    @cached_property
    def tasks(self) -> list[str]:
        return sorted({run.task for run in self.runs})

    @cached_property
    def common_tasks(self) -> list[str]:
        """The tasks whose scores can be normalised and that every method has finished."""
        done = {(run.method, run.task) for run in self.runs}
        return [
            task
            for task in self.tasks
            if normalised(task, 0.0) is not None and all((method, task) in done for method in self.methods)
        ]

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
    status: str  # unfinished, failed, stopped, waiting, running or missing
    frame: int  # of its last evaluation, 0 before the first
    budget_frames: int | None
    exit_code: str
    attempts: str
    path: str
    command: str
    tail: str


def read_sections(folders: Sequence[Path]) -> tuple[list[Section], list[Absent]]:
    """Return the sections of all finished runs below some folders, and every run that gives no score.

    Raises ConfigError for runs that cannot be pooled, and where there are no results at all.
    """
    runs = _all_runs(folders)
    finished = [run for run in runs if run.finished]
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in sorted(finished, key=lambda run: (run.task, run.method, run.seed)):
        groups.setdefault((suite_of(run.task), run.budget_frames), []).append(run)
    for group in groups.values():
        _check(group)
    sections = [Section(suite, budget, tuple(group)) for (suite, budget), group in sorted(groups.items())]
    return sections, _absent(runs, [job for folder in folders for job in _jobs(folder)])


def normalised(task: str, score: Any) -> Any:
    """Return a score, or an array of them, by the scale of its suite: random play 0 and a human 1, or DMC's 1000.

    None for a task that has no such scale. Atari as Agarwal et al. 2021; DMC's best return is 1000 by construction.
    """
    if task in ATARI_SCORES:
        random, human = ATARI_SCORES[task]
        return (score - random) / (human - random)
    return score / 1000 if suite_of(task) == "dmc" else None


def difference(first: Mapping[str, Any], second: Mapping[str, Any], *, ignored: Iterable[str] = ()) -> dict[str, Any]:
    """Return {key: (value in first, value in second)} of two nested configurations, by dotted keys."""
    before, after = dict(_flat(first)), dict(_flat(second))
    keys = [key for key in before | after if key not in set(ignored)]
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def in_words(difference: Mapping[str, Any]) -> str:
    """Write a `difference` as one line."""
    return ", ".join(f"{key} {json.dumps(a)} and {json.dumps(b)}" for key, (a, b) in difference.items())


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _all_runs(folders: Sequence[Path]) -> list[Run]:
    """Return the runs below some folders, each once, also those that have not evaluated yet."""
    runs = {run.path.resolve(): run for run in find_runs(folders)}
    for folder in folders:
        for path in sorted(folder.rglob("metadata.json")):
            place = path.parent
            if place.resolve() not in runs and (place / "config.json").is_file():
                runs[place.resolve()] = read_run(place)
    return list(runs.values())


def _check(runs: list[Run]) -> None:
    """Refuse runs, sorted by task and method, of which one says another thing than its neighbour."""
    for run in runs:
        if not all(np.isfinite(evaluation.mean) for evaluation in run.evaluations):
            raise ConfigError(f"{run.path / 'eval.csv'} holds a return that is no number: run its command again")
    for first, second in pairwise(runs):
        if first.task != second.task:
            continue
        both = f"{first.path} and {second.path}"
        if first.protocol != second.protocol:
            settings = in_words(difference({"env": first.config["env"]}, {"env": second.config["env"]}, ignored=LOCAL))
            raise ConfigError(
                f"{both} measure {first.task} by different protocols, {first.protocol} and {second.protocol}"
                f"{f' ({settings})' if settings else ''}: they cannot be pooled, so report them apart"
            )
        if first.method != second.method:
            continue
        if first.seed == second.seed:
            raise ConfigError(
                f"{both} are both {first.method} on {first.task} with seed {first.seed}: keep one of them"
            )
        if settings := difference(first.config, second.config, ignored=(*LOCAL, "seed")):
            raise ConfigError(
                f"{both} are both called {first.method} but differ in {in_words(settings)}: they cannot be pooled, "
                "so give one of them another name"
            )


def _jobs(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of every `jobs.csv` below a folder, `run_dir` as one can open it from here."""
    for path in sorted(folder.rglob("jobs.csv")):
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in _JOB if name not in (reader.fieldnames or ())]:
                raise ConfigError(
                    f"{path} has no column {', '.join(missing)}: run its benchmark again, or move it away"
                )
            for row in reader:
                values = {name: row[name] or "" for name in _JOB}
                if not values["seed"].isdecimal():
                    raise ConfigError(f"{path}, line {reader.line_num}, is broken: run its benchmark again")
                yield values | {"run_dir": str(path.parent / values["run_dir"])}


def _absent(runs: Iterable[Run], jobs: Iterable[Mapping[str, str]]) -> list[Absent]:
    """Return what has no score: unfinished runs with what their jobs say, and jobs that left no run."""
    of_runs = {run.path.resolve(): run for run in runs}
    of_jobs = {Path(job["run_dir"]).resolve(): job for job in jobs}
    found = [_of_run(run, of_jobs.get(path)) for path, run in of_runs.items() if not run.finished]
    found += [_of_job(job) for path, job in of_jobs.items() if path not in of_runs]
    return sorted(found, key=lambda run: (run.task, run.method, run.seed, run.path))


def _of_run(run: Run, job: Mapping[str, str] | None) -> Absent:
    status = job["status"] if job and job["status"] != "done" else "unfinished"
    return Absent(
        task=run.task,
        method=run.method,
        seed=run.seed,
        status=status,
        frame=run.evaluations[-1].frame if run.evaluations else 0,
        budget_frames=run.budget_frames,
        exit_code=job["exit_code"] if job else "",
        attempts=job["attempts"] if job else "",
        path=str(run.path),
        command=(job["command"] if job else "") or run.command,
        tail=job["tail"] if job else "",
    )


def _of_job(job: Mapping[str, str]) -> Absent:
    return Absent(
        task=job["task"],
        method=job["method"],
        seed=int(job["seed"]),
        status="missing" if job["status"] == "done" else job["status"],
        frame=0,
        budget_frames=None,
        exit_code=job["exit_code"],
        attempts=job["attempts"],
        path=job["run_dir"],
        command=job["command"],
        tail=job["tail"],
    )
