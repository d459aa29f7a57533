"""curl-rl pretrain."""

import argparse
from typing import Any

from curl_rl.commands.arguments import add_command
from curl_rl.commands.settings import describe_or_train

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
    from curl_rl.config.pretraining import compose_pretraining

    shown = arguments.show_settings, arguments.overrides
    return describe_or_train(*shown, _INTRODUCTION, compose_pretraining, _train)


def _train(config: Any) -> int:
    from curl_rl.representation.pretrain import pretrain

    return pretrain(config)
