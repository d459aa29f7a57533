"""Writes run directories as training leaves them, for the tests of reports."""

import copy
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

CONFIG: dict[str, Any] = {
    "task": "",
    "preset": "quick",
    "seed": 0,
    "run_dir": "",
    "device": "cpu",
    "threads": 1,
    "budget_frames": 100_000,
    "batch_size": 128,
    "env": {"obs": "pixels", "image_size": 64, "action_repeat": 4, "timeout": 60.0},
    "replay": {"capacity": 25_000, "device": "auto"},
    "evaluation": {"every_frames": 20_000, "episodes": 2, "final_episodes": 0, "workers": 1},
    "agent": {"name": "sac", "learning_rate": 0.001},
    "augmentation": {"name": "shift"},
    "encoder": {"name": "strided"},
    "objective": {"name": "curl", "coefficient": 1.0},
}
COLUMNS = ["agent_step", "frame", "update", "episode", "return", "length", "seconds"]
COLUMNS += ["protocol", "budget", "commit", "versions", "hardware"]
JOB = ["task", "method", "seed", "status", "attempts", "exit_code", "run_dir", "command", "tail"]


def write_run(
    root: Path,
    task: str,
    method: str,
    seed: int,
    returns: Sequence[Sequence[float]],
    *,
    budget: int = 100_000,
    every: int = 20_000,
    protocol: str = "p0p0p0",
    commit: str = "0123456789ab",
    versions: str = "python=3.11.7 torch=2.13.0",
    hardware: str = "4 x Fake CPU",
    folder: str | None = None,
    **settings: Any,
) -> Path:
    """Write a run whose evaluations, `every` so many frames, had these returns of their episodes."""
    path = root / (folder or f"{task.replace('/', '_')}/{method}-seed{seed}")
    path.mkdir(parents=True)
    config = copy.deepcopy(CONFIG) | {"task": task, "seed": seed, "run_dir": str(path), "budget_frames": budget}
    for key, value in settings.items():
        group, _, name = key.partition("__")
        config[group] = config[group] | {name: value} if name else value
    (path / "config.json").write_text(json.dumps(config))
    command = f"curl-rl train task={task} objective={method} seed={seed} run_dir={path}"
    (path / "metadata.json").write_text(json.dumps({"starts": [{"command": command}]}))
    with (path / "eval.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for index, episodes in enumerate(returns, start=1):
            frame, seconds = index * every, index * 600.0 + seed
            origin = (protocol, f"{budget} frames", commit, versions, hardware)
            writer.writerows(
                (frame // 4, frame, frame // 4, *row, 250, seconds, *origin) for row in enumerate(episodes)
            )
    return path


def write_jobs(root: Path, rows: Sequence[Sequence[Any]]) -> None:
    with (root / "jobs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([JOB, *rows])


def learning(rng: np.random.Generator, final: float, *, evaluations: int = 5, episodes: int = 2) -> list[list[float]]:
    """Return returns that rise to about a final one."""
    rise = np.linspace(0.2, 1.0, evaluations)[:, None] * final
    return (rise + abs(final) * 0.05 * rng.normal(size=(evaluations, episodes))).tolist()


def write_suite(
    root: Path,
    levels: dict[str, dict[str, float]],  # by method, then task: the final return
    *,
    seeds: int = 3,
    **options: Any,
) -> None:
    """Write runs of several methods, tasks and seeds."""
    rng = np.random.default_rng(0)
    for method, tasks in levels.items():
        for task, final in tasks.items():
            for seed in range(1, seeds + 1):
                returns = learning(rng, final * (1 + 0.1 * rng.normal()))
                write_run(root, task, method, seed, returns, objective__name=method, **options)
