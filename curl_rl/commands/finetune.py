"""curl-rl finetune."""

import argparse
from typing import Any

from curl_rl.commands.arguments import add_overriding, overrides_of
from curl_rl.commands.settings import describe

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
    if arguments.show_settings or not overrides:
        print("\n".join(describe(_INTRODUCTION, compose_finetuning(overrides, complete=False))))
        return 0
    from curl_rl.representation.finetune import finetune

    return finetune(compose_finetuning(overrides))
