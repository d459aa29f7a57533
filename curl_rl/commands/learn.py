"""curl-rl learn."""

import argparse
from typing import Any

from curl_rl.commands.arguments import add_overriding, overrides_of
from curl_rl.commands.settings import describe_or_train

_INTRODUCTION = """\
usage: curl-rl learn CLASSIFIER --labels FILE --out DIR [--data SOURCE] [--exemplars N] [KEY=VALUE ...]

Add classes to a classifier without forgetting those that it has, or go on where it stopped.

  curl-rl learn clf --labels new.csv --data runs/new --out clf2   frames by their names
  curl-rl learn clf --labels new.csv --out clf2                   images by their paths beside the file
"""
FLAGS = {"--labels": "FILE", "--out": "DIR", "--data": "SOURCE", "--exemplars": "N"}


def add(commands: Any) -> None:
    """Add the verb to the command line."""
    add_overriding(commands, "learn", run, "add classes to a classifier without forgetting", FLAGS)


def run(arguments: argparse.Namespace) -> int:
    """Learn, or show every setting."""
    from curl_rl.config.unknowns import compose_addition

    overrides = overrides_of(arguments, "classifier", FLAGS)
    return describe_or_train(arguments.show_settings, overrides, _INTRODUCTION, compose_addition, _learn)


def _learn(config: Any) -> int:
    from curl_rl.representation.unknowns.incremental import learn

    return learn(config)
