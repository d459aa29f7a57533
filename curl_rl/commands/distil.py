"""curl-rl distil."""

import argparse
from typing import Any

from curl_rl.commands.arguments import add_overriding, overrides_of
from curl_rl.commands.settings import describe_or_train

_INTRODUCTION = """\
usage: curl-rl distil CLASSIFIER --data SOURCE --out DIR [--labels FILE] [KEY=VALUE ...]

Train a student on a classifier's answers to unlabelled frames, or go on where it stopped.

  curl-rl distil clf --data runs/x --out clf_s encoder=small      a smaller student
  curl-rl distil clf --data runs/x --out clf_2                    one like its teacher
"""
FLAGS = {"--data": "SOURCE", "--out": "DIR", "--labels": "FILE"}


def add(commands: Any) -> None:
    """Add the verb to the command line."""
    add_overriding(commands, "distil", run, "train a student on a classifier's answers to unlabelled frames", FLAGS)


def run(arguments: argparse.Namespace) -> int:
    """Distil, or show every setting."""
    from curl_rl.config.finetuning import compose_distillation

    overrides = overrides_of(arguments, "teacher", FLAGS)
    return describe_or_train(arguments.show_settings, overrides, _INTRODUCTION, compose_distillation, _train)


def _train(config: Any) -> int:
    from curl_rl.representation.distil import distil

    return distil(config)
