"""curl-rl finetune."""

import argparse
from typing import Any

from curl_rl.commands.arguments import add_overriding, overrides_of
from curl_rl.commands.settings import describe_or_train

_INTRODUCTION = """\
usage: curl-rl finetune ENCODER --labels FILE --out DIR [--data SOURCE] [--from-layer N] [KEY=VALUE ...]

Train an encoder into a classifier on few labels, or go on where it stopped.

  curl-rl finetune enc --labels few.csv --out clf                 images by their paths beside the file
  curl-rl finetune enc --data runs/x --labels few.csv --out clf   frames by their names
  curl-rl finetune enc --data shots classes=folder --out clf --from-layer 1
"""
FLAGS = {"--labels": "FILE", "--out": "DIR", "--data": "SOURCE", "--from-layer": "N"}


def add(commands: Any) -> None:
    """Add the verb to the command line."""
    add_overriding(commands, "finetune", run, "train an encoder into a classifier on few labels", FLAGS)


def run(arguments: argparse.Namespace) -> int:
    """Fine-tune, or show every setting."""
    from curl_rl.config.finetuning import compose_finetuning

    overrides = overrides_of(arguments, "pretrained", FLAGS)
    return describe_or_train(arguments.show_settings, overrides, _INTRODUCTION, compose_finetuning, _train)


def _train(config: Any) -> int:
    from curl_rl.representation.finetune import finetune

    return finetune(config)
