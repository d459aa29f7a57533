"""What the verbs' arguments may be: readers that refuse anything else where it is typed."""

import argparse
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any


class Mixed(argparse.ArgumentParser):
    """A parser whose positional words may stand before, between and behind its options."""

    _inside = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self._inside:  # which parses options and words apart, each by this method
            return super().parse_known_args(args, namespace)
        self._inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._inside = False


def add_overriding(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], help: str, flags: Mapping[str, str]
) -> None:
    """Add a verb that takes one folder, flags and KEY=VALUE words, and describes its settings itself."""
    parser = add_command(commands, name, run, help, add_help=False)
    parser.add_argument("-h", "--help", action="store_true", dest="show_settings")
    for flag, metavar in flags.items():
        parser.add_argument(flag, type=place, metavar=metavar)
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE")


def overrides_of(arguments: argparse.Namespace, folder: str, flags: Iterable[str]) -> list[str]:
    """Return the words of such a verb as overrides: a first one without "=" is the folder, under its key."""
    from curl_rl.options import quoted, repeated
    from curl_rl.types import ConfigError

    words = list(arguments.words)
    given = {folder: words.pop(0)} if words and "=" not in words[0] else {}
    for key in (flag.removeprefix("--").replace("-", "_") for flag in flags):
        if (value := getattr(arguments, key)) is not None:
            given[key] = value
    keys = [*(word.partition("=")[0].lstrip("+") for word in words), *given]
    if twice := repeated(keys):
        raise ConfigError(f"{twice[0]} is given twice: give it once")
    return [*words, *(f"{key}={quoted(value)}" for key, value in given.items())]


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], help: str, **options: Any
) -> argparse.ArgumentParser:
    """Add a verb to the parser's commands and return its own parser."""
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


def share(text: str) -> float:
    """Read a share of a whole."""
    if not re.fullmatch(r"0|1|0?\.\d{1,9}|1\.0*|0\.", text):
        raise argparse.ArgumentTypeError(f"{_brief(text)} is not a number from 0 to 1")
    return float(text)


def _brief(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


def place(text: str) -> str:
    """Read a path or a URL."""
    if not text.strip():  # often a shell's variable that is not set; the current folder is "."
        raise argparse.ArgumentTypeError("the name is empty: give a path")
    return text


def path(text: str) -> Path:
    """Read a path."""
    return Path(place(text))


def device(text: str) -> str:
    """Read a device's name."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", text):
        raise argparse.ArgumentTypeError(f"{_brief(text)} is none of auto, cpu, cuda, cuda:N")
    return text
