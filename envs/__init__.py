"""Environments by name: `make_env("dmc/cartpole_swingup")`; each is also registered with Gymnasium."""

import dataclasses
import difflib
import hashlib
import inspect
import json
from typing import Any

import gymnasium as gym

from curl_rl.envs import atari, dmc, toy
from curl_rl.envs.labels import label_side
from curl_rl.envs.remote import LocalEnv, RemoteEnv
from curl_rl.envs.spaces import AgentSpaces

__all__ = [
    "AgentSpaces",
    "LocalEnv",
    "RemoteEnv",
    "canonical_task",
    "label_side",
    "list_tasks",
    "make_env",
    "make_lanes",
    "protocol",
]


def list_tasks() -> list[str]:
    """Return every task that `make_env` knows; imports no simulator."""
    names = {"atari": atari.games(), "dmc": dmc.TASKS, "toy": toy.TASKS}
    return [f"{suite}/{name}" for suite in names for name in names[suite]]


def canonical_task(task: str) -> str:
    """Return the listed name of a task: "atari/ms_pacman" for "atari/MsPacman", every other name as it is.

    Raises ValueError with the nearest names for an unknown task.
    """
    suite, _, name = str(task).partition("/")
    listed = f"atari/{atari.find_game(name)}" if suite == "atari" else task
    if listed not in list_tasks():
        raise ValueError(_unknown(task))
    return listed


def make_env(task: str, **kwargs: Any) -> gym.Env:
    """Create the environment of `task`, e.g. "dmc/ball_in_cup_catch", "atari/ms_pacman" or "toy/reach".

    All take `obs="pixels"|"state"` (Atari only pixels) and `image_size`; `dmc` also `camera`, `action_repeat` and
    `time_limit`, `atari` also `protocol`; `dmc` and `toy` also `labels`, which puts a frame's label map into `info`.
    Pixels are one frame uint8: (1, 84, 84) of Atari, else (3, H, W). An unknown task raises ValueError with the
    nearest names.
    """
    suite, name = canonical_task(task).split("/")
    make = {"atari": atari.AtariEnv, "dmc": dmc.DmcEnv}
    return make[suite](name, **kwargs) if suite in make else toy.TASKS[name](**kwargs)


def make_lanes(task: str, count: int, threads: int, **kwargs: Any) -> list[atari.AtariLane]:
    """Create `count` games of an Atari task, of which `threads` step at once; each has the interface of LocalEnv."""
    suite, name = canonical_task(task).split("/")
    if suite != "atari":
        raise ValueError(f"lanes are for Atari games only: make {count} RemoteEnv of {task!r} instead")
    return atari.make_lanes(name, count, threads, **kwargs)


def protocol(task: str, **kwargs: Any) -> dict[str, Any]:
    """Return what an environment made with these settings measures, as plain JSON values; imports no simulator.

    For Atari the fields of its Protocol, else the suite's name and its settings, each that is left out at its default.
    "hash" is the first 12 hex digits of the SHA-256 of the rest as JSON with sorted keys. Raises TypeError for a
    setting that the environment does not take.
    """
    suite = canonical_task(task).split("/")[0]
    made = {"atari": atari.AtariEnv, "dmc": dmc.DmcEnv, "toy": toy.ToyEnv}[suite]
    settings = {p.name: p.default for p in inspect.signature(made).parameters.values() if p.kind == p.KEYWORD_ONLY}
    if unknown := sorted(kwargs.keys() - settings):
        raise TypeError(f"{task} takes {', '.join(settings)}, not {', '.join(unknown)}")
    settings |= kwargs
    for unmeasured in ("render_mode", "labels"):
        settings.pop(unmeasured, None)
    if suite == "atari":
        fields = dataclasses.asdict(atari.find_protocol(settings["protocol"]))
    else:
        fields = {"name": suite, **settings}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return {**fields, "hash": hashlib.sha256(text.encode()).hexdigest()[:12]}


def _unknown(task: str) -> str:
    tasks = list_tasks()
    # Compared without case and with the suite left out too: "cartpole-swingup" should find "dmc/cartpole_swingup".
    keys = {key.lower(): name for name in tasks for key in (name, name.split("/")[1])}
    near = difflib.get_close_matches(str(task).lower(), keys, n=5, cutoff=0.5)
    names = list(dict.fromkeys(keys[key] for key in near))
    hint = f"; nearest: {', '.join(names[:3])}" if names else ""
    return f"unknown task {task!r}{hint} (envs.list_tasks() lists all {len(tasks)})"


def _register() -> None:
    for task in list_tasks():
        gym.register(f"curl_rl/{task.replace('/', '_')}-v0", entry_point="curl_rl.envs:make_env", kwargs={"task": task})


_register()
