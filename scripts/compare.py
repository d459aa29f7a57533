"""Compares self-supervised objectives on the same data and budget: python scripts/compare.py probe|cost|curves --help.

collect  records random play with the simulator's state, which `probe` does by itself where it is missing.
probe    trains encoders by each objective alone on recorded play, and regresses the state on their features.
cost     times updates and counts bytes beside objective=none.
curves   trains agents at a small budget by `curl-rl train`.

Each goes on where it was stopped, and leaves a CSV file and a Markdown table in runs/objectives. Every row says what
made it; `--out` names another folder, such as one whose rows are to be made anew.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from comparison import cost, curves, probe, recordings, tables

from curl_rl.cli import explain
from curl_rl.commands.arguments import whole
from curl_rl.config.overrides import compose
from curl_rl.config.schema import Config
from curl_rl.config.suites import action_repeat
from curl_rl.objectives import OBJECTIVES
from curl_rl.run.device import choose_device, prepare_torch
from curl_rl.run.files import write_whole
from curl_rl.types import ConfigError

_PROBED = ("dmc/cartpole_swingup", "dmc/cheetah_run", "atari/breakout")
_TIMED = ("dmc/cartpole_swingup", "atari/breakout")
_TRAINED = ("dmc/cartpole_swingup", "atari/freeway")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if (status := explain(error, "compare.py")) is None:
            raise
        return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="compare.py", description="Compare self-supervised objectives.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    collect = _command(commands, "collect", _collect, _PROBED, "record random play for the probe")
    probes = _command(commands, "probe", _probe, _PROBED, "predict the state from what each objective has learned")
    costs = _command(commands, "cost", _cost, _TIMED, "measure time and memory beside no objective")
    runs = _command(commands, "curves", _curves, _TRAINED, "train agents at a small budget")
    for command in (collect, probes):
        _add(command, "--frames", 20_000, "agent steps recorded")
        _add(command, "--data", Path("runs/probe"), "where they lie")
    for command in (probes, costs, runs):
        command.add_argument("--objectives", nargs="+", metavar="NAME", help="which (default: all)")
        _add(command, "--out", Path("runs/objectives"), "folder of the tables")
    for command, count in ((probes, 2), (runs, 1)):
        _add(command, "--seeds", count, "how many, from 1 on")
    for command in (collect, probes, runs):
        _add(command, "--workers", 2, "processes side by side")
    _add(probes, "--updates", 2000, "of each encoder")
    _add(costs, "--updates", 30, "timed of each objective")
    _add(costs, "--device", "cpu", "auto, cpu, cuda or cuda:N")
    _add(costs, "--threads", 1, "of an update on the CPU")
    _add(runs, "--budget", 40_000, "simulator frames of each run")
    _add(runs, "--runs", Path("runs/compare"), "where they live")
    return parser


def _command(commands: Any, name: str, run: Any, tasks: Sequence[str], help: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    parser.set_defaults(run=run)
    parser.add_argument("--tasks", nargs="+", default=tasks, metavar="TASK", help=f"default: {' '.join(tasks)}")
    return parser


def _add(parser: argparse.ArgumentParser, name: str, default: Any, help: str) -> None:
    kind = whole(1, 10**9) if isinstance(default, int) else type(default)
    kind = Path if isinstance(default, Path) else kind
    parser.add_argument(name, type=kind, default=default, help=f"{help} (default: %(default)s)")


def _configs(arguments: argparse.Namespace, *overrides: str) -> Iterator[tuple[str, Config]]:
    """Yield each task and objective's configuration, and say which cannot be; unknown names raise ConfigError."""
    names = arguments.objectives or sorted(OBJECTIVES)
    if unknown := set(names) - set(OBJECTIVES):
        raise ConfigError(f"unknown objective {', '.join(sorted(unknown))}; there are {', '.join(sorted(OBJECTIVES))}")
    for task in arguments.tasks:
        compose([f"task={task}", "objective=none"])
        for name in names:
            try:
                yield name, compose([f"task={task}", f"objective={name}", *overrides])
            except ConfigError as error:
                print(f"left out: {error}", file=sys.stderr)


def _collect(arguments: argparse.Namespace) -> int:
    for task in arguments.tasks:
        recordings.collect(*_recorded(arguments, task), arguments.frames, workers=arguments.workers)
    return 0


def _recorded(arguments: argparse.Namespace, task: str) -> tuple[Config, Path]:
    """Return the configuration under which a task is recorded, and where."""
    config = compose([f"task={task}", "objective=none"])
    recordings.check_task(config.task)
    return config, arguments.data / config.task.replace("/", "_")


def _probe(arguments: argparse.Namespace) -> int:
    jobs = list(_jobs(arguments))
    _collect(arguments)
    failed = probe.run(jobs, arguments.out / "probe.csv", _made_by(), workers=arguments.workers)
    rows = tables.read_rows(arguments.out / "probe.csv")
    told = (
        "R2 of ridge regression from frozen features to the simulator's state on episodes left out, the median of\n"
        "five folds: mean over the quantities, ± standard deviation over seeds. `conv` is the convolutional map\n"
        f"before the encoder's head. {arguments.updates:,} updates on {arguments.frames:,} recorded frames; `pixels`: "
        "shrunk images,\n`none`: the encoder as initialised."
    )
    chosen = arguments.frames, arguments.updates
    _write(arguments.out / "probe.md", told, probe.tables(rows, *chosen), probe.chosen(rows, *chosen))
    return min(failed, 1)


def _jobs(arguments: argparse.Namespace) -> Iterator[probe.Job]:
    """Yield the jobs of `probe`, all of one seed before the next."""
    rest = arguments.frames, arguments.updates
    for seed in range(1, arguments.seeds + 1):
        for task in arguments.tasks:
            config, folder = _recorded(arguments, task)
            if seed == 1:
                yield probe.Job(probe.PIXELS, config, folder, *rest)
            frames = arguments.frames * action_repeat(config.task)
            run = argparse.Namespace(objectives=arguments.objectives, tasks=[task])
            local = ("device=cpu", "threads=1", "env.overlap=false")
            for name, objective in _configs(run, f"seed={seed}", f"budget_frames={frames}", *local):
                yield probe.Job(name, objective, folder, *rest)


def _cost(arguments: argparse.Namespace) -> int:
    device = choose_device(arguments.device)
    prepare_torch(arguments.threads)
    out, made_by = arguments.out / "cost.csv", _made_by()
    overrides = (f"device={arguments.device}", "env.overlap=false")
    for name, config in _configs(arguments, *overrides):
        control = compose([f"task={config.task}", "objective=none", *overrides])
        row = cost.measure(config, control, device, arguments.updates)
        tables.merge_rows(out, [row | made_by], ("task", "objective", "device", "threads"))
        print(
            f"{config.task} {name}: {row['ratio']:.2f} times the control's {row['control_seconds']:.4f} s", flush=True
        )
    told = (
        "Seconds of an update, sampling included and periodic work spread over its period, beside objective=none in\n"
        "turn in one process; bytes of the objective's own tensors, and what it adds to the preset's replay."
    )
    rows = tables.read_rows(out)
    _write(arguments.out / "cost.md", told, cost.table(rows), rows)
    return 0


def _curves(arguments: argparse.Namespace) -> int:
    runs = [
        curves.Run(config.task, name, seed, arguments.budget, arguments.runs)
        for seed in range(1, arguments.seeds + 1)
        for name, config in _configs(arguments)
    ]
    failed = curves.play(runs, arguments.workers)
    rows = [row for run in runs for row in run.rows()]
    out = arguments.out / "curves.csv"
    if rows:
        tables.merge_rows(out, rows, ("task", "objective", "seed", "budget"))
    told = "Mean return of the last evaluation's episodes, ± standard deviation over seeds."
    rows = tables.read_rows(out)
    _write(arguments.out / "curves.md", told, curves.table(rows), rows)
    return min(failed, 1)


def _made_by() -> dict[str, str]:
    return tables.made_by(["python", "scripts/compare.py", *sys.argv[1:]])


def _write(path: Path, told: str, table: str, rows: Sequence[dict[str, str]]) -> None:
    """Print a table and leave it, with what made its rows, in a file."""
    text = f"{told}\n\n{table}\n{tables.makers(rows)}"
    write_whole({path: text})
    print(f"\n{text}")


if __name__ == "__main__":
    sys.exit(main())
