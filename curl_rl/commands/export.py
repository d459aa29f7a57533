"""curl-rl export."""

import argparse
from typing import Any

from curl_rl.commands.arguments import add_command, path


def add(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = add_command(commands, "export", run, "write a run's encoder as a folder that load_encoder reads")
    parser.add_argument("run_dir", type=path, metavar="RUN", help="run directory")
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="where to write it")


def run(arguments: argparse.Namespace) -> int:
    """Write the encoder's folder."""
    from curl_rl.representation.export import export_run

    print(f"wrote {export_run(arguments.run_dir, arguments.out)}")
    return 0
