"""Environments by name: `make_env("dmc/cartpole_swingup")`; each is also registered with Gymnasium."""

import gymnasium as gym

from curl_rl.envs.distraction import INTENSITIES, check_distraction
from curl_rl.envs.errors import EnvError
from curl_rl.envs.labels import label_side
from curl_rl.envs.outside import offer
from curl_rl.envs.registry import (
    canonical_task,
    is_discrete,
    list_tasks,
    make_env,
    make_lanes,
    protocol,
    split_task,
    tells_state,
)
from curl_rl.envs.remote import LocalEnv, RemoteEnv
from curl_rl.envs.spaces import AgentSpaces

__all__ = [
    "INTENSITIES",
    "AgentSpaces",
    "EnvError",
    "LocalEnv",
    "RemoteEnv",
    "canonical_task",
    "check_distraction",
    "is_discrete",
    "label_side",
    "list_tasks",
    "make_env",
    "make_lanes",
    "offer",
    "protocol",
    "split_task",
    "tells_state",
]

for _task in list_tasks():
    gym.register(f"curl_rl/{_task.replace('/', '_')}-v0", entry_point="curl_rl.envs:make_env", kwargs={"task": _task})
