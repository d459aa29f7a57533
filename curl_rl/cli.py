"""The command line: train, evaluate, benchmark, report, export, doctor; each imports what it needs when it runs."""

import argparse
import contextlib
import dataclasses
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from curl_rl import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 2 for a setting that cannot be honoured, 130 when interrupted."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.run is None:
        parser.print_help()
        return 0
    from curl_rl.run.streams import unfailing_stderr

    with unfailing_stderr():
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    from curl_rl.run.streams import named_stdout

    try:
        with named_stdout():
            return arguments.run(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        sys.stderr.close()
        return 1
    except Exception as error:
        if (status := explain(error, "curl-rl")) is None:
            raise
        return status


def explain(error: Exception, program: str) -> int | None:
    """Print an error as one line and return its exit status; return None for one that needs its traceback."""
    from curl_rl.types import ConfigError

    if isinstance(error, ConfigError) or (str(error) and _says_all(error)):
        print(f"{program}: {_told(error)}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    return None


def _told(error: Exception) -> str:
    """Return an error's message; of one of the operating system's own, what is wrong with which file."""
    if isinstance(error, OSError) and error.filename is not None and str(error).startswith("[Errno"):
        return f"cannot use {error.filename}: {error.strerror}; give another path"
    if _lacks_memory(error):
        size = re.search(r"allocate (\d\S* \w+)", str(error))
        return f"out of memory{f' (asked for {size[1]})' if size else ''}: lower batch_size, or the sizes of networks"
    return str(error)


def _lacks_memory(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and "memory" in str(error) and "allocate" in str(error)


def _says_all(error: Exception) -> bool:
    if isinstance(error, OSError | FloatingPointError | MemoryError) or _lacks_memory(error):
        return True
    from curl_rl.envs import EnvError

    return isinstance(error, EnvError)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="curl-rl", description="Train agents from pixels with encoders that learn by contrast."
    )
    parser.add_argument("--version", action="version", version=f"curl-rl {__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    train = _command(commands, "train", _train, "train an agent, or go on with a run", add_help=False)
    train.add_argument("-h", "--help", action="store_true", dest="show_settings")
    train.add_argument("overrides", nargs="*", metavar="KEY=VALUE")

    evaluate = _command(commands, "evaluate", _evaluate, "play episodes with a run's newest checkpoint")
    evaluate.add_argument("run_dir", type=_path, metavar="RUN", help="run directory")
    evaluate.add_argument("--episodes", type=whole(1, 10_000), help="how many (default: as the run's last evaluation)")
    evaluate.add_argument("--video", type=_path, metavar="FILE", help="film the first episode, as .mp4 or .gif")
    evaluate.add_argument("--seed", type=whole(0, 2**63 - 1), default=0, help="of the episodes (default: %(default)s)")
    evaluate.add_argument(
        "--device", type=_device, default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)"
    )

    benchmark = _command(commands, "benchmark", _benchmark, "train every method on every task, many seeds")
    _benchmark_options(benchmark)

    report = _command(commands, "report", _report, "turn results into tables, figures and one HTML page")
    report.add_argument("folders", nargs="*", type=_path, metavar="DIR", help="folders of runs, e.g. results/dmc100k")
    report.add_argument("--out", type=_path, metavar="DIR", help="where to write it (default: report)")
    report.add_argument("--compare", nargs=2, type=_path, metavar="RUN", help="instead: two runs side by side")

    export = _command(commands, "export", _export, "write a run's encoder as a folder that load_encoder reads")
    export.add_argument("run_dir", type=_path, metavar="RUN", help="run directory")
    export.add_argument("--out", type=_path, required=True, metavar="DIR", help="where to write it")

    _command(commands, "doctor", _doctor, "check this machine: versions, devices, OpenGL")
    return parser


def _benchmark_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="NAME", help="dmc100k, dmc500k, atari100k, objectives, candidates, evidence or a file"
    )
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="only these of its tasks")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="only these of its methods")
    parser.add_argument("--seeds", type=whole(1, 1000), metavar="N", help="seeds 1 to N (default: the benchmark's)")
    parser.add_argument("--overrides", nargs="+", default=[], metavar="KEY=VALUE", help="settings of every job")
    parser.add_argument("--out", type=_place, metavar="DIR", help="where results go (default: runs/NAME)")
    parser.add_argument("--engine", choices=["local", "ray"], default="local", help="default: %(default)s")
    parser.add_argument(
        "--workers", type=whole(1, 10_000), metavar="N", help="jobs at once (default: one a core or GPU)"
    )
    parser.add_argument("--per-gpu", type=whole(1, 100), metavar="K", help="jobs that share a GPU")
    parser.add_argument("--cpus", type=whole(1, 1024), metavar="N", help="CPU cores of a job on Ray (default: 1)")
    parser.add_argument("--address", default="auto", help="of the Ray cluster (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run nothing")


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], help: str, **options: Any
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", **options)
    parser.set_defaults(run=run)
    return parser


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from `least` to `most`."""

    def read(text: str) -> int:
        if not (text.isdecimal() and len(text) < 20 and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{_brief(text)} is not a whole number from {least} to {most}")
        return int(text)

    return read


def _brief(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


def _place(text: str) -> str:
    if not text.strip():  # often a shell's variable that is not set; the current folder is "."
        raise argparse.ArgumentTypeError("the name is empty: give a path")
    return text


def _path(text: str) -> Path:
    return Path(_place(text))


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", text):
        raise argparse.ArgumentTypeError(f"{_brief(text)} is none of auto, cpu, cuda, cuda:N")
    return text


def _train(arguments: argparse.Namespace) -> int:
    from curl_rl.run.stored import configure

    if arguments.show_settings:
        print("\n".join(_settings(arguments.overrides)))
        return 0
    config = configure(arguments.overrides)
    from curl_rl.run.trainer import train

    return train(config)


def _evaluate(arguments: argparse.Namespace) -> int:
    from curl_rl.run.playing import evaluate_run

    wanted = (arguments.run_dir, arguments.episodes, arguments.video, arguments.seed, arguments.device)
    for episode in (episodes := evaluate_run(*wanted)):
        print(f"episode {episode.index}: return {episode.score:.1f}, {episode.length} agent steps")
    scores = [episode.score for episode in episodes]
    mean = sum(scores) / len(scores)
    deviation = (sum((score - mean) ** 2 for score in scores) / len(scores)) ** 0.5
    print(f"mean return {mean:.1f}, standard deviation {deviation:.1f}, over {len(scores)} episodes")
    return 0


def _benchmark(arguments: argparse.Namespace) -> int:
    from curl_rl.benchmark.engines import make_engine
    from curl_rl.benchmark.plans import load_benchmark, make_plans, run_benchmark, select
    from curl_rl.types import ConfigError

    benchmark = select(load_benchmark(arguments.name), arguments.tasks, arguments.methods, arguments.seeds)
    out = os.path.expanduser(arguments.out or f"runs/{benchmark.name}").rstrip("/")
    if "://" in out and arguments.engine == "local":
        raise ConfigError(
            f"--out {out} is a URL, and --engine local writes into a folder: give a path, or --engine ray"
        )
    plans = make_plans(benchmark, arguments.overrides, out)
    if arguments.dry_run:
        print("\n".join(plan.job.line() for plan in plans))
        return 0
    share = {name: getattr(arguments, name) for name in ("workers", "per_gpu", "cpus", "address")}
    with contextlib.closing(make_engine(arguments.engine, **share)) as engine:
        return run_benchmark(plans, engine, out, sys.stderr)


def _report(arguments: argparse.Namespace) -> int:
    from curl_rl.types import ConfigError

    if bool(arguments.folders) == bool(arguments.compare):
        raise ConfigError("report takes folders of results, or --compare with two runs: curl-rl report results/dmc100k")
    from curl_rl.report.build import build_report, compare_runs

    if arguments.compare:
        first, second = arguments.compare
        print(compare_runs(first, second, arguments.out))
        return 0
    print(f"wrote {build_report(arguments.folders, arguments.out or Path('report'))}")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from curl_rl.representation.export import export_run

    print(f"wrote {export_run(arguments.run_dir, arguments.out)}")
    return 0


def _doctor(_: argparse.Namespace) -> int:
    from curl_rl.doctor import main as doctor

    return doctor()


_INTRODUCTION = """\
usage: curl-rl train [KEY=VALUE ...]

Train an agent, or go on with a run.

  curl-rl train                                               cartpole_swingup, made for a CPU
  curl-rl train task=dmc/cheetah_run preset=paper seed=1      the published settings
  curl-rl train run_dir=runs/x                                go on with the run in runs/x
"""


def _settings(overrides: Sequence[str]) -> Iterator[str]:
    """Describe every group, option and field, with the values that these overrides compose to."""
    from curl_rl.config.overrides import compose, presets
    from curl_rl.config.schema import GROUPS
    from curl_rl.config.suites import SUITES

    config = compose(overrides)
    yield _INTRODUCTION
    yield "Groups, chosen by name:"
    yield _row("preset", "; ".join(f"{suite}: {', '.join(presets(suite))}" for suite in SUITES))
    for group, registry in GROUPS.items():
        yield _row(group, ", ".join(sorted(registry)))
    yield f"\nSettings, with their values for task={config.task} preset={config.preset}:"
    yield from _fields(config, "")
    for group, registry in GROUPS.items():
        chosen = getattr(config, group)
        for name in dict.fromkeys((chosen.name, *registry)):  # which may be of the user's own
            title = (registry[name].__doc__ or "").strip().split("\n")[0]
            yield f"\n{group}={name}{' (chosen)' if name == chosen.name else ''}  {title}".rstrip()
            yield from _fields(chosen if name == chosen.name else registry[name].Config(), f"{group}.")


def _fields(config: Any, prefix: str) -> Iterator[str]:
    nested = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if "help" in field.metadata:
            yield _row(f"{prefix}{field.name}={_shown(value)}", field.metadata["help"])
        elif dataclasses.is_dataclass(value) and field.default_factory is not dataclasses.MISSING:
            nested.append((field.name, value))
    for name, value in nested:
        yield ""
        yield from _fields(value, f"{prefix}{name}.")


def _row(left: str, right: str) -> str:
    return f"  {left:<38} {right}"


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
