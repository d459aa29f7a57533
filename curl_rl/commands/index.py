"""curl-rl index."""

import argparse
from typing import Any

from curl_rl.commands.arguments import add_command, device, path


def add(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = add_command(commands, "index", run, "embed frames, to be searched, seen and selected from")
    parser.add_argument(
        "encoder", nargs="+", metavar="ENCODER | KEY=VALUE", help="an encoder's folder, and options: metric=euclidean"
    )
    parser.add_argument("--data", required=True, metavar="SOURCE", help="a run, recordings, images, a video")
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="the index")
    parser.add_argument("--append", action="store_true", help="add the frames to an index that is there")
    parser.add_argument("--csv", type=path, metavar="FILE", help="write the embeddings as Lightly's CSV too")
    parser.add_argument("--device", type=device, default="auto", help="of the encoder (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Index."""
    from curl_rl.config.indexing import compose_indexing
    from curl_rl.options import quoted
    from curl_rl.representation.index.building import index_frames
    from curl_rl.types import ConfigError

    folders = [each for each in arguments.encoder if "=" not in each]
    if len(folders) != 1:
        raise ConfigError(f"give one encoder's folder: curl-rl index enc --data {arguments.data} --out {arguments.out}")
    config = compose_indexing([f"data={quoted(arguments.data)}", *(e for e in arguments.encoder if "=" in e)])
    options = {"append": arguments.append, "table": arguments.csv, "device": arguments.device}
    return index_frames(folders[0], arguments.out, config, **options)
