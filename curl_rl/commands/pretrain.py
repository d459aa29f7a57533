"""curl-rl pretrain."""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from curl_rl.commands.arguments import add_command
from curl_rl.commands.settings import fields, row

_INTRODUCTION = """\
usage: curl-rl pretrain data=SOURCE out=DIR [KEY=VALUE ...]

Train an encoder on frames without an agent, or go on where it stopped.

  curl-rl pretrain objective=byol data=runs/x out=enc               what a run has seen
  curl-rl pretrain objective=atc data=shots/ order=name epochs=50 out=enc
  curl-rl pretrain objective=simclr data=play.mp4 size=64 out=enc
"""


def add(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = add_command(commands, "pretrain", run, "train an encoder on frames without an agent", add_help=False)
    parser.add_argument("-h", "--help", action="store_true", dest="show_settings")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")


def run(arguments: argparse.Namespace) -> int:
    """Pre-train, or show every setting."""
    if arguments.show_settings or not arguments.overrides:
        print("\n".join(describe(arguments.overrides)))
        return 0
    from curl_rl.config.pretraining import compose_pretraining
    from curl_rl.representation.pretrain import pretrain

    return pretrain(compose_pretraining(arguments.overrides))


def describe(overrides: Sequence[str]) -> Iterator[str]:
    """Describe every group and option, with the values that these overrides compose to."""
    from curl_rl.config.pretraining import Pretraining, compose_pretraining
    from curl_rl.config.schema import GROUPS, groups_of

    config = compose_pretraining(overrides, complete=False)
    yield _INTRODUCTION
    yield "Groups, chosen by name:"
    for group in groups_of(Pretraining):
        yield row(group, ", ".join(sorted(GROUPS[group])))
    yield "\nSettings:"
    yield from fields(config, "")
    for group in groups_of(Pretraining):
        yield f"\n{group}={getattr(config, group).name}"
        yield from fields(getattr(config, group), f"{group}.")
