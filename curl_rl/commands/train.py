"""curl-rl train."""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from curl_rl.commands.arguments import add_command
from curl_rl.commands.settings import fields, row

_INTRODUCTION = """\
usage: curl-rl train [KEY=VALUE ...]

Train an agent, or go on with a run.

  curl-rl train                                               cartpole_swingup, made for a CPU
  curl-rl train task=dmc/cheetah_run preset=paper seed=1      the published settings
  curl-rl train run_dir=runs/x                                go on with the run in runs/x
  curl-rl train run_dir=runs/x budget_frames=500000           the same, for longer than it was asked for
  curl-rl train run_dir=runs/x restart=true                   begin it anew; what it held is kept in runs/x/before-1
"""


def add(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = add_command(commands, "train", run, "train an agent, or go on with a run", add_help=False)
    parser.add_argument("-h", "--help", action="store_true", dest="show_settings")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")


def run(arguments: argparse.Namespace) -> int:
    """Train, or show every setting."""
    from curl_rl.run.restart import begin_anew, split_restart
    from curl_rl.run.stored import configure

    restart, overrides = split_restart(arguments.overrides)
    if arguments.show_settings:
        print("\n".join(describe(overrides)))
        return 0
    config = configure(overrides, restart=restart)
    from curl_rl.run.trainer import train

    return begin_anew(config) if restart else train(config)


def describe(overrides: Sequence[str]) -> Iterator[str]:
    """Describe every group, option and field, with the values that these overrides compose to."""
    from curl_rl.config.overrides import compose, presets
    from curl_rl.config.schema import GROUPS
    from curl_rl.config.suites import SUITES

    config = compose(overrides)
    yield _INTRODUCTION
    yield "Groups, chosen by name:"
    yield row("preset", "; ".join(f"{suite}: {', '.join(presets(suite))}" for suite in SUITES))
    for group, registry in GROUPS.items():
        yield row(group, ", ".join(sorted(registry)))
    yield f"\nSettings, with their values for task={config.task} preset={config.preset}:"
    yield from fields(config, "")
    for group, registry in GROUPS.items():
        chosen = getattr(config, group)
        for name in dict.fromkeys((chosen.name, *registry)):  # which may be of the user's own
            title = (registry[name].__doc__ or "").strip().split("\n")[0]
            yield f"\n{group}={name}{' (chosen)' if name == chosen.name else ''}  {title}".rstrip()
            yield from fields(chosen if name == chosen.name else registry[name].Config(), f"{group}.")
