"""curl-rl flag."""

import argparse
from typing import Any

from curl_rl.commands.arguments import add_overriding, overrides_of
from curl_rl.commands.settings import describe_or_train

_INTRODUCTION = """\
usage: curl-rl flag NETWORK --data SOURCE --out DIR [--known SOURCE] [--accept SHARE] [--by SCORE] [KEY=VALUE ...]

Find the frames that are like nothing known, and lay them out for a person to name.

  curl-rl flag clf --data runs/new --accept 0.95 --out new        by what fine-tuning held out
  curl-rl flag enc --data runs/new --known runs/old --out new     of an encoder, by frames that are known
  curl-rl flag runs/old --data runs/new --known runs/old --out new
"""
FLAGS = {"--data": "SOURCE", "--out": "DIR", "--known": "SOURCE", "--accept": "SHARE", "--by": "SCORE"}


def add(commands: Any) -> None:
    """Add the verb to the command line."""
    add_overriding(commands, "flag", run, "find frames that are like nothing known", FLAGS)


def run(arguments: argparse.Namespace) -> int:
    """Flag, or show every setting."""
    from curl_rl.config.unknowns import compose_flagging

    overrides = overrides_of(arguments, "network", FLAGS)
    return describe_or_train(arguments.show_settings, overrides, _INTRODUCTION, compose_flagging, _flag)


def _flag(config: Any) -> int:
    from curl_rl.representation.unknowns.flagging import flag

    return flag(config)
