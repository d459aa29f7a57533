"""Refuses to pool runs that were measured differently, or that share a method's name but not its settings."""

import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from curl_rl.config.difference import LOCAL, differing, flat
from curl_rl.config.suites import SUITES, is_open, suite_of
from curl_rl.run.records import Run
from curl_rl.types import ConfigError

# What one method may set differently by task, as the papers do.
BY_TASK = ("task", "env.action_repeat", "replay.capacity", "agent.learning_rate", "objective.coefficient")
# No part of what is measured: the frames of an observation and the rewards learned from are the method's, and overlap
# gives the same results.
_OF_THE_AGENT = ("env.frame_stack", "env.reward_scale", "env.reward_clip", "env.overlap")
# Tasks of a suite that lists none have no more in common than this; what one task measures, its protocol's hash holds.
_OF_ONES_OWN = ("env.max_steps", "env.obs", "env.key")


def check(runs: Sequence[Run]) -> None:
    """Raise ConfigError where runs of one suite and budget, sorted by task and method, cannot be pooled."""
    for first, second in pairwise(runs):
        if first.task == second.task:
            _check_neighbours(first, second)
    _check_measures(runs)
    by_method: dict[str, list[Run]] = {}
    for run in runs:
        by_method.setdefault(run.method, []).append(run)
    for method, own in by_method.items():  # which differ in no more than their tasks ask for
        for first, second, settings in _conflicts(own, (*LOCAL, *BY_TASK, *_by_task(runs), "seed")):
            both = f"{first.path} ({first.task}) and {second.path} ({second.task})"
            raise _other_settings(both, method, settings)


def in_words(settings: Mapping[str, Any]) -> str:
    """Write differing settings as one line."""
    return ", ".join(f"{key} {json.dumps(a)} and {json.dumps(b)}" for key, (a, b) in settings.items())


def _check_neighbours(first: Run, second: Run) -> None:
    """Refuse two runs of one task of which one says another thing than the other."""
    both = f"{first.path} and {second.path}"
    if first.protocol != second.protocol:
        raise _other_protocol(first, second)
    if first.method != second.method:
        return
    if first.seed == second.seed:
        raise ConfigError(f"{both} are both {first.method} on {first.task} with seed {first.seed}: keep one of them")
    if settings := differing(first.config, second.config, ignored=(*LOCAL, "seed")):
        raise _other_settings(both, first.method, settings)


def _check_measures(runs: Sequence[Run]) -> None:
    """Refuse runs of different tasks that were measured in different ways."""
    if "protocol" in SUITES[suite_of(runs[0].task)].settings:  # one for all tasks
        for first, second in pairwise(runs):
            if first.protocol != second.protocol:
                raise _other_protocol(first, second)
        return
    ignored = (*LOCAL, *_OF_THE_AGENT, *_by_task(runs), "env.action_repeat")
    for first, second, settings in _conflicts(runs, ignored, group="env"):
        raise ConfigError(
            f"{first.path} ({first.task}) and {second.path} ({second.task}) differ in {in_words(settings)}: "
            "their scores measure different things and cannot be pooled, so report them apart"
        )


def _by_task(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return what each task of the runs' suite may set for itself, beside what all suites' may."""
    return _OF_ONES_OWN if is_open(runs[0].task) else ()


def _conflicts(runs: Iterable[Run], ignored: Container[str], group: str = "") -> Iterator[tuple[Run, Run, Any]]:
    """Yield two runs that give a setting two values, with all these; a version may lack what a later one has."""
    seen: dict[str, tuple[Any, Run]] = {}
    for run in runs:
        settings = flat({group: run.config[group]} if group else run.config)
        for key in settings.keys() - seen.keys():
            seen[key] = (settings[key], run)
        found = {key: seen[key] for key, value in settings.items() if key not in ignored and seen[key][0] != value}
        for _, first in found.values():
            yield first, run, {key: (a, settings[key]) for key, (a, owner) in found.items() if owner is first}


def _other_protocol(first: Run, second: Run) -> ConfigError:
    settings = in_words(differing({"env": first.config["env"]}, {"env": second.config["env"]}, ignored=LOCAL))
    tasks = first.task if first.task == second.task else f"{first.task} and {second.task}"
    return ConfigError(
        f"{first.path} and {second.path} measure {tasks} by different protocols, {first.protocol} and "
        f"{second.protocol}{f' ({settings})' if settings else ''}: they cannot be pooled, so report them apart"
    )


def _other_settings(both: str, method: str, settings: Mapping[str, Any]) -> ConfigError:
    return ConfigError(
        f"{both} are both called {method} but differ in {in_words(settings)}: they cannot be pooled, so give one of "
        "them another name"
    )
