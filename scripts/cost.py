"""What objectives cost beside the control: seconds of an update, their own memory, and the replay's."""

import argparse
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speed import fill
from stopwatch import Stopwatch

from curl_rl.cli import explain
from curl_rl.commands.arguments import whole
from curl_rl.config.overrides import compose
from curl_rl.config.schema import Config
from curl_rl.nn import beside
from curl_rl.nn.parts import Schedule
from curl_rl.objectives import OBJECTIVES
from curl_rl.report.page.tables import Table, counted
from curl_rl.run.assembly import make_agent, make_environment, make_replay
from curl_rl.run.device import choose_device, prepare_torch
from curl_rl.run.files import write_whole
from curl_rl.run.measurements import made_by, merge_rows, read_rows
from curl_rl.types import ConfigError

_TASKS = ("dmc/cartpole_swingup", "atari/breakout")
_MADE_BY = ("command", "commit", "versions", "hardware")
_TOLD = (
    "Seconds of an update, sampling included and periodic work spread over its period, beside objective=none in "
    "turn in one process; bytes of the objective's own tensors, and what it adds to the preset's replay."
)
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
    """Return the Markdown table of all measurements, the dearest last, and what made them."""
    header = ("task", "objective", "seconds", "times none", "after_step", "periodic", "own bytes", "replay bytes")
    cells = []
    for row in sorted(rows, key=lambda row: (row["task"], float(row["ratio"]))):
        shares = [f"{float(row[share]):.1%}" for share in ("after_step_share", "refresh_share")]
        sizes = [int(row[size]) for size in ("own_bytes", "replay_bytes")]
        cells.append((row["task"], row["objective"], row["seconds"], row["ratio"], *shares, *sizes))
    makers = Counter(tuple(row.get(name) or "unknown" for name in _MADE_BY) for row in rows)
    told = "".join(f"* {counted(n, 'row')}: `{command}`, {', '.join(rest)}\n" for (command, *rest), n in makers.items())
    return f"{Table('cost', _TOLD, header, tuple(cells)).to_markdown()}\n{told}"


def main(argv: Sequence[str] | None = None) -> int:
    """Time what is asked for and return the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        _run(arguments)
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if (status := explain(error, "cost.py")) is None:
            raise
        return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cost.py", description="Measure what objectives cost beside objective=none.")
    parser.add_argument("--tasks", nargs="+", default=_TASKS, metavar="TASK", help=f"default: {' '.join(_TASKS)}")
    parser.add_argument("--objectives", nargs="+", metavar="NAME", help="which (default: all)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/objectives"), help="of the tables (default: %(default)s)"
    )
    parser.add_argument("--updates", type=whole(1, 10**6), default=30, help="timed of each (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--threads", type=whole(1, 1024), default=1, help="on the CPU (default: %(default)s)")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    device = choose_device(arguments.device)
    prepare_torch(arguments.threads)
    out, maker = arguments.out / "cost.csv", made_by()
    overrides = (f"device={arguments.device}", "env.overlap=false")
    for config in list(_configs(arguments.tasks, arguments.objectives or sorted(OBJECTIVES), overrides)):
        control = compose([f"task={config.task}", "objective=none", *overrides])
        row = measure(config, control, device, arguments.updates)
        merge_rows(out, [row | maker], ("task", "objective", "device", "threads"))
        told = f"{row['ratio']:.2f} times the control's {row['control_seconds']:.4f} s"
        print(f"{config.task} {config.objective.name}: {told}", flush=True)
    text = table(read_rows(out))
    write_whole({arguments.out / "cost.md": text})
    print(f"\n{text}")


def _configs(tasks: Sequence[str], names: Sequence[str], overrides: Sequence[str]) -> Iterator[Config]:
    """Yield each task and objective's configuration, and say which cannot be; unknown names raise ConfigError."""
    for name in names:
        OBJECTIVES[name]
    for task in tasks:
        compose([f"task={task}", "objective=none"])
        for name in names:
            try:
                yield compose([f"task={task}", f"objective={name}", *overrides])
            except ConfigError as error:
                print(f"left out: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
