"""curl-rl report."""

import argparse
from pathlib import Path
from typing import Any

from curl_rl.commands.arguments import add_command, path


def add(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = add_command(commands, "report", run, "turn results into tables, figures and one HTML page")
    parser.add_argument("folders", nargs="*", type=path, metavar="DIR", help="folders of runs, e.g. results/dmc100k")
    parser.add_argument("--out", type=path, metavar="DIR", help="where to write it (default: report)")
    parser.add_argument("--compare", nargs=2, type=path, metavar="RUN", help="instead: two runs side by side")


def run(arguments: argparse.Namespace) -> int:
    """Write a report, or print a comparison."""
    from curl_rl.types import ConfigError

    if bool(arguments.folders) == bool(arguments.compare):
        raise ConfigError("report takes folders of results, or --compare with two runs: curl-rl report results/dmc100k")
    from curl_rl.report.build import build_report, compare_runs

    if arguments.compare:
        first, second = arguments.compare
        print(compare_runs(first, second, arguments.out))
        return 0
    print(f"wrote {build_report(arguments.folders, arguments.out or Path('report'))}")
    return 0
