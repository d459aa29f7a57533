"""curl-rl doctor."""

import argparse
from typing import Any

from curl_rl.commands.arguments import add_command


def add(commands: Any) -> None:
    """Add the verb to the command line."""
    add_command(commands, "doctor", run, "check this machine: versions, devices, OpenGL")


def run(_: argparse.Namespace) -> int:
    """Print the checks; return 1 where something stands in the way."""
    from curl_rl.doctor import main

    return main()
