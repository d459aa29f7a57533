"""What an objective costs beside the control: seconds of an update, its own memory, and the replay's."""

import math
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch
from speed import fill
from stopwatch import Stopwatch

from comparison.tables import markdown
from curl_rl.config.schema import Config
from curl_rl.nn import beside
from curl_rl.nn.parts import Schedule
from curl_rl.run.assembly import make_agent, make_environment, make_replay

_REFRESHES = 2
_LATE = 1000  # periods after which no warm-up is left


class _Candidate:
    """An agent with a replay of random frames, whose updates are timed one at a time."""

    def __init__(self, config: Config, device: torch.device):
        self.batch_size, self.watch = config.batch_size, Stopwatch(device)
        with closing(make_environment(config)) as env:
            self.agent: Any = make_agent(config, env, device)
            self.replay = make_replay(config, env, device)
            fill(self.replay, env, self.rows)
        self.rng = np.random.default_rng(0)
        objective = self.agent.learner.objective
        objective.after_step = self.watch.wrap("after_step", objective.after_step)

    @property
    def rows(self) -> int:
        """How many samples fill every queue or memory of the objective, and a few batches at least."""
        buffers = [len(buffer) for buffer in self.agent.learner.objective.buffers() if buffer.dim()]
        return max([4 * self.batch_size, *buffers])

    def warm_up(self) -> None:
        """Go past every warm-up, and take updates until memories are full: some periodic work grows with them."""
        for schedule in self.schedules:
            schedule.count = _LATE * schedule.period
        for _ in range(math.ceil(self.rows / self.batch_size)):
            self.update()
        self.watch.seconds.clear()

    def update(self, name: str = "update") -> None:
        """Take one update, its sampling included, and keep the seconds under a name."""
        with self.watch.timing(name):
            self.agent.update(self.replay.sample(self.batch_size, self.rng, self.agent.n_step, self.agent.discount))

    def refresh(self) -> float:
        """Return the seconds that periodic work takes of an update on average, however seldom it is due."""
        total, usual = 0.0, self.watch.median("update")
        for schedule in [schedule for schedule in self.schedules if schedule.period > 1]:
            for _ in range(_REFRESHES):
                schedule.count = _LATE * schedule.period - 1
                self.update(f"due {id(schedule)}")
            total += max(0.0, self.watch.median(f"due {id(schedule)}") - usual) / schedule.period
        return total

    @property
    def schedules(self) -> list[Schedule]:
        return [module for module in self.agent.learner.objective.modules() if isinstance(module, Schedule)]

    @property
    def own_bytes(self) -> int:
        """Bytes of the objective's parameters and buffers."""
        objective = self.agent.learner.objective
        return sum(tensor.nbytes for group in (objective.parameters(), objective.buffers()) for tensor in group)


def measure(config: Config, control: Config, device: torch.device, updates: int) -> dict[str, Any]:
    """Time an objective's updates in turn with the control's, so that a noisy machine slows both."""
    ours, plain = _Candidate(config, device), _Candidate(control, device)
    for candidate in (ours, plain):
        candidate.warm_up()
    for _ in range(updates):
        plain.update()
        ours.update()
    seconds, after_step, base = (
        ours.watch.median("update"),
        ours.watch.median("after_step") if ours.watch.seconds["after_step"] else 0.0,  # of weight zero it is not called
        plain.watch.median("update"),
    )
    refresh = ours.refresh()
    return {
        "task": config.task,
        "objective": config.objective.name,
        "seconds": round(seconds + refresh, 5),
        "control_seconds": round(base, 5),
        "ratio": round((seconds + refresh) / base, 3),
        "after_step_share": round((after_step + refresh) / (seconds + refresh), 4),
        "refresh_share": round(refresh / (seconds + refresh), 4),
        "own_bytes": ours.own_bytes,
        "replay_bytes": ours.replay.nbytes - plain.replay.nbytes,
        "updates": updates,
        "device": str(device),
        "threads": beside.threads(),
    }


def table(rows: Sequence[dict[str, str]]) -> str:
    """Return the Markdown table of all measurements, the dearest last."""
    header = ["task", "objective", "seconds", "times none", "after_step", "periodic", "own bytes", "replay bytes"]
    cells = [
        [
            row["task"],
            row["objective"],
            row["seconds"],
            row["ratio"],
            *(f"{float(row[share]):.1%}" for share in ("after_step_share", "refresh_share")),
            *(f"{int(row[size]):,}" for size in ("own_bytes", "replay_bytes")),
        ]
        for row in sorted(rows, key=lambda row: (row["task"], float(row["ratio"])))
    ]
    return markdown(header, cells)
