"""Benchmarks: a YAML file says which tasks, methods and seeds; every job is the public command `curl-rl train`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple, TextIO

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from curl_rl.benchmark.board import Standing
from curl_rl.benchmark.engines.base import Engine, Job
from curl_rl.benchmark.schedule import Schedule
from curl_rl.config.continuing import continued
from curl_rl.config.difference import LOCAL, differing, told
from curl_rl.config.overrides import canonical, compose, config_dir
from curl_rl.config.schema import Config
from curl_rl.config.suites import suite_of
from curl_rl.run.locks import alone
from curl_rl.run.records import read_run
from curl_rl.run.stored import FILE, load_config
from curl_rl.types import ConfigError

_KEYS = {"tasks", "methods", "seeds", "settings"}
_FIXED = {"task", "seed", "run_dir"}  # what differs from job to job by itself


@dataclass(frozen=True)
class Benchmark:
    """What is measured: every method on every task with seeds 1 to `seeds`."""

    name: str
    tasks: tuple[str, ...]
    methods: Mapping[str, Mapping[str, Any]]  # name -> the overrides that make it
    seeds: int
    settings: Mapping[str, Any]  # overrides of all methods


class Plan(NamedTuple):
    """A job and the configuration that its overrides compose to."""

    job: Job
    config: Config


def load_benchmark(name: str) -> Benchmark:
    """Read a benchmark by its name in `configs/benchmark`, or from a YAML file of one's own.

    Raises ConfigError, naming what is wrong, for an unknown name or a file that does not describe a benchmark.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else config_dir() / "benchmark" / f"{name}.yaml"
    if not path.is_file():
        if path.exists():
            raise ConfigError(f"{path} is no file: give a YAML file that describes a benchmark")
        known = ", ".join(sorted(path.stem for path in (config_dir() / "benchmark").glob("*.yaml")))
        raise ConfigError(f"unknown benchmark {name!r}; there are {known}, or give a YAML file of your own")
    try:
        data = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OmegaConfBaseException, ValueError, OSError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {_short(error)}") from None
    try:
        return _read(path, data)
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path} does not describe a benchmark: {_short(error)}") from None


def _short(error: Exception) -> str:
    """Return an error as a part of one line: what a foreign file holds may be long."""
    return shorten(str(error), 400, placeholder=" ...")


def _read(path: Path, data: Any) -> Benchmark:
    if not isinstance(data, dict) or data.keys() - _KEYS or {"tasks", "methods"} - data.keys():
        raise ValueError(f"it needs tasks and methods, may have seeds and settings, and has {list(data or ())}")
    own = _mapping("methods", data["methods"])
    methods = {name: _mapping(f"methods.{name}", settings) for name, settings in own.items()}
    for name in methods:
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]*", name) or re.search(r"-seed\d+$", name):
            raise ValueError(f"method {name!r} cannot name a folder: use letters, digits, - and _, in quotes")
    tasks, seeds = data["tasks"], data.get("seeds", 5)
    if not isinstance(tasks, list) or not tasks or not methods:
        raise ValueError("tasks is a list and methods a mapping of at least one")
    if isinstance(seeds, bool) or not isinstance(seeds, int) or not 1 <= seeds <= 1000:
        raise ValueError(f"seeds is a number from 1 to 1000, not {seeds!r}")
    settings = _mapping("settings", data.get("settings"))
    return Benchmark(path.stem, tuple(canonical(str(task)) for task in tasks), methods, seeds, settings)


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict | None):
        raise TypeError(f"{name} is a mapping of settings to values, not {value!r}")
    if fixed := _FIXED & (value or {}).keys():
        raise ValueError(f"{name} sets {', '.join(sorted(fixed))}, which tasks, seeds and --out do")
    return value or {}


def select(
    benchmark: Benchmark,
    tasks: Iterable[str] | None = None,
    methods: Iterable[str] | None = None,
    seeds: int | None = None,
) -> Benchmark:
    """Keep some of a benchmark's tasks, named in any spelling, and methods; None: all, and as many seeds as it has.

    Raises ConfigError for what it does not have.
    """
    for name in methods or ():
        if name not in benchmark.methods:
            raise ConfigError(f"{benchmark.name} has no method {name!r}; it has {', '.join(benchmark.methods)}")
    chosen = dict.fromkeys(task for name in tasks or benchmark.tasks for task in _named(benchmark, name))
    kept = {name: benchmark.methods[name] for name in methods or benchmark.methods}
    return replace(benchmark, tasks=tuple(chosen), methods=kept, seeds=seeds or benchmark.seeds)


def _named(benchmark: Benchmark, name: str) -> list[str]:
    """Return the tasks that a name means, with or without its suite."""
    own = sorted({f"{suite_of(task)}/" for task in benchmark.tasks})
    meant = []
    for suite in [""] if "/" in name else own:
        with suppress(ConfigError):  # which has no such task
            meant.append(canonical(suite + name))
    if found := [task for task in meant if task in benchmark.tasks]:
        return found
    raise ConfigError(f"{benchmark.name} has no task {name!r}; it has {', '.join(benchmark.tasks)}")


def make_plans(benchmark: Benchmark, overrides: Sequence[str], out: str) -> list[Plan]:
    """Return one job for each seed, method and task: every task once before any task twice.

    Raises ConfigError where `curl-rl train` would refuse a job's overrides.
    """
    extra = dict(_split(override) for override in overrides)
    for method, own in benchmark.methods.items():
        if undone := own.keys() & extra.keys():
            raise ConfigError(f"--overrides would undo what makes the method {method}: {', '.join(sorted(undone))}")
    if "$" in out:
        raise ConfigError(f"--out {out} holds a $, which settings read as a reference: give another place")
    composed = {}
    for (method, own), task in product(benchmark.methods.items(), benchmark.tasks):
        values = {"task": task, **_texts(benchmark.settings), **_texts(own), **extra}
        arguments = tuple(f"{key}={value}" for key, value in values.items())
        composed[task, method] = arguments, compose(arguments)
    plans = []
    for seed, ((task, method), (arguments, config)) in product(range(1, benchmark.seeds + 1), composed.items()):
        run_dir = f"{out}/{task.replace('/', '_')}/{method}-seed{seed}"
        job = Job(task, method, seed, (*arguments, f"seed={seed}"), run_dir)
        plans.append(Plan(job, replace(config, seed=seed, run_dir=run_dir)))
    return plans


def _split(override: str) -> tuple[str, str]:
    key, equals, value = override.partition("=")
    if not equals or key in _FIXED:
        raise ConfigError(
            f"--overrides {override}: write key=value; task, seed and run_dir are --tasks, --seeds, --out"
        )
    return key, value


def _texts(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return values as a command line writes them."""
    words = {True: "true", False: "false", None: "null"}
    return {key: words[value] if isinstance(value, bool | None) else str(value) for key, value in settings.items()}


def open_plans(plans: Sequence[Plan]) -> list[Plan]:
    """Return those that are not done in their folders.

    Raises ConfigError where a run directory holds another configuration.
    """
    return [plan for plan in plans if not _is_done(plan, Path(plan.job.run_dir))]


def run_benchmark(plans: Sequence[Plan], engine: Engine, out: str, stream: TextIO) -> int:
    """Run what is not done yet; return 0, 1 where a job failed, 128 + a signal's number where one stopped it.

    Raises ConfigError, before anything is started, where a run directory holds another configuration.
    """
    standings = []
    for plan in plans:
        steps = plan.config.budget_frames // plan.config.env.action_repeat
        standings.append(Standing(plan.job, steps, "done" if _is_done(plan, engine.view(plan.job)) else "waiting"))
    with _alone(out):
        return Schedule(standings, engine, out, stream).run()


def _alone(out: str) -> AbstractContextManager[None]:
    """Keep a second benchmark out of a folder; of a URL nobody can say who uses it."""
    if "://" in out:
        return nullcontext()
    return alone(Path(out) / ".lock", f"another benchmark runs in {out}: wait for it or give another --out")


def _is_done(plan: Plan, view: Path) -> bool:
    """Return whether a run directory has all results of this job. Raises ConfigError where it has another's.

    Of a smaller budget it has not: the run goes on.
    """
    if not (view / FILE).is_file() or not (run := read_run(view)).evaluations:
        return False  # nothing was measured yet: the run itself refuses what it cannot go on with
    stored, budget = load_config(view), plan.config.budget_frames
    grown = continued(stored, [f"budget_frames={budget}"]) if budget > stored.budget_frames else stored
    if changes := told(differing(grown.to_dict(), plan.config.to_dict(), ignored=LOCAL)):
        lines = "".join(f"  {change}\n" for change in changes)
        raise ConfigError(
            f"{plan.job.run_dir} holds a run of another configuration:\n{lines}"
            "give another --out, or the overrides that it was started with"
        )
    return run.finished and grown is stored
