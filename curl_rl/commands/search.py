"""curl-rl search."""

import argparse
from typing import Any

from curl_rl.commands.arguments import add_command, device, path, place, whole


def add(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = add_command(commands, "search", run, "find the frames of an index that are most like one")
    parser.add_argument("index", type=path, help="an index")
    parser.add_argument("query", type=place, help="an image file, or a frame of the index: its name or number")
    parser.add_argument("-k", "--count", type=whole(1, 10**6), default=10, help="frames (default: %(default)s)")
    parser.add_argument("--other-episodes", action="store_true", help="leave out the episode of the query, a frame")
    parser.add_argument("--picture", type=path, metavar="FILE", help="write the query and what was found as a picture")
    parser.add_argument("--device", type=device, default="auto", help="of the encoder (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Search, and print a CSV table."""
    from curl_rl.representation.index.asking import search_index

    options = {name: getattr(arguments, name) for name in ("other_episodes", "picture", "device")}
    print(search_index(arguments.index, arguments.query, arguments.count, **options), end="")
    return 0
