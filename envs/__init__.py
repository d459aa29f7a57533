"""Environments by name: `make_env("dmc/cartpole_swingup")`; each is also registered with Gymnasium."""

import difflib
from typing import Any

import gymnasium as gym

from envs import dmc, toy
from envs.remote import LocalEnv, RemoteEnv

__all__ = ["LocalEnv", "RemoteEnv", "list_tasks", "make_env"]


def list_tasks() -> list[str]:
    """Return every task that `make_env` knows; imports no simulator."""
    return [f"dmc/{name}" for name in dmc.TASKS] + [f"toy/{name}" for name in toy.TASKS]


def make_env(task: str, **kwargs: Any) -> gym.Env:
    """Create the environment of `task`, e.g. "dmc/ball_in_cup_catch" or "toy/reach".

    All take `obs="pixels"|"state"` and `image_size`; `dmc` also `camera`, `action_repeat` and `time_limit`. Pixels are
    one frame (3, H, W) uint8. An unknown task raises ValueError with the nearest names.
    """
    if task not in list_tasks():
        raise ValueError(_unknown(task))
    suite, name = task.split("/")
    return dmc.DmcEnv(name, **kwargs) if suite == "dmc" else toy.TASKS[name](**kwargs)


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
        gym.register(f"curl_rl/{task.replace('/', '_')}-v0", entry_point="envs:make_env", kwargs={"task": task})


_register()
