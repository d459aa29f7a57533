"""curl-rl benchmark."""

import argparse
import contextlib
import os
import sys
from typing import Any

from curl_rl.commands.arguments import add_command, place, whole


def add(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = add_command(commands, "benchmark", run, "train every method on every task, many seeds")
    parser.add_argument(
        "name", metavar="NAME", help="dmc100k, dmc500k, atari100k, objectives, candidates, evidence or a file"
    )
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="only these of its tasks")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="only these of its methods")
    parser.add_argument("--seeds", type=whole(1, 1000), metavar="N", help="seeds 1 to N (default: the benchmark's)")
    parser.add_argument("--overrides", nargs="+", default=[], metavar="KEY=VALUE", help="settings of every job")
    parser.add_argument("--out", type=place, metavar="DIR", help="where results go (default: runs/NAME)")
    parser.add_argument("--engine", choices=["local", "ray"], default="local", help="default: %(default)s")
    parser.add_argument(
        "--workers", type=whole(1, 10_000), metavar="N", help="jobs at once (default: one a core or GPU)"
    )
    parser.add_argument("--per-gpu", type=whole(1, 100), metavar="K", help="jobs that share a GPU")
    parser.add_argument("--cpus", type=whole(1, 1024), metavar="N", help="CPU cores of a job on Ray (default: 1)")
    parser.add_argument("--address", default="auto", help="of the Ray cluster (default: %(default)s)")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the commands of what is not done, and run nothing"
    )


def run(arguments: argparse.Namespace) -> int:
    """Train what is asked for, or print the commands."""
    from curl_rl.benchmark.engines import make_engine
    from curl_rl.benchmark.plans import load_benchmark, make_plans, open_plans, run_benchmark, select
    from curl_rl.types import ConfigError

    benchmark = select(load_benchmark(arguments.name), arguments.tasks, arguments.methods, arguments.seeds)
    out = os.path.expanduser(arguments.out or f"runs/{benchmark.name}").rstrip("/")
    if "://" in out and arguments.engine == "local":
        raise ConfigError(
            f"--out {out} is a URL, and --engine local writes into a folder: give a path, or --engine ray"
        )
    plans = make_plans(benchmark, arguments.overrides, out)
    if arguments.dry_run:
        left = plans if "://" in out else open_plans(plans)
        print("".join(f"{plan.job.line()}\n" for plan in left), end="")
        if done := len(plans) - len(left):
            print(f"{done} of {len(plans)} jobs are done and left out", file=sys.stderr)
        return 0
    share = {name: getattr(arguments, name) for name in ("workers", "per_gpu", "cpus", "address")}
    with contextlib.closing(make_engine(arguments.engine, **share)) as engine:
        return run_benchmark(plans, engine, out, sys.stderr)
