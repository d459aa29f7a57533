"""curl-rl serve."""

import argparse
from typing import Any

from curl_rl.commands.arguments import add_command, path, whole
from curl_rl.commands.gallery import add_look, look_of


def add(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = add_command(commands, "serve", run, "show the frames of an index in a browser of this machine")
    parser.add_argument("index", type=path, help="an index")
    parser.add_argument("--port", type=whole(0, 65535), default=8000, help="0: any free one (default: %(default)s)")
    add_look(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    from curl_rl.representation.gallery import serve

    serve(arguments.index, port=arguments.port, **look_of(arguments))
    return 0
