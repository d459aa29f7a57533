"""curl-rl gallery."""

import argparse
from typing import Any

from curl_rl.commands.arguments import add_command, path, whole


def add(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = add_command(commands, "gallery", run, "show the frames of an index as one page: a map, to be looked into")
    parser.add_argument("index", type=path, help="an index")
    parser.add_argument("--out", type=path, metavar="FILE", help="the page, e.g. page.html")
    parser.add_argument("--projector", type=path, metavar="DIR", help="write files for TensorBoard's projector")
    add_look(parser)


def add_look(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how an index is shown."""
    parser.add_argument("--map", choices=["pca", "umap"], help="what gives frames their places (default: pca)")
    parser.add_argument("--clusters", type=whole(0, 1000), help="of k-means, to colour by; 0: none (default: 8)")
    parser.add_argument("--most", type=whole(1, 200_000), help="frames; of more, evenly chosen ones (default: 20,000)")
    parser.add_argument("--neighbours", type=whole(1, 100), help="shown of each frame (default: 12)")


def look_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return those of these options that were given."""
    given = {name: getattr(arguments, name) for name in ("map", "clusters", "most", "neighbours")}
    return {name: value for name, value in given.items() if value is not None}


def run(arguments: argparse.Namespace) -> int:
    """Write a page, or the projector's files, or both."""
    from curl_rl.types import ConfigError

    look = look_of(arguments)
    if arguments.out is None and arguments.projector is None:
        raise ConfigError(f"give a page or a folder: curl-rl gallery {arguments.index} --out page.html")
    if arguments.out is None and look.keys() - {"most"}:
        raise ConfigError(f"--{min(look.keys() - {'most'})} has no effect on the projector: give --out as well")
    from curl_rl.representation.gallery import build_gallery, write_projector

    if arguments.out is not None:
        print(f"wrote {build_gallery(arguments.index, arguments.out, **look)}")
    if arguments.projector is not None:
        most = {"most": arguments.most} if arguments.most else {}
        folder, count = write_projector(arguments.index, arguments.projector, **most)
        print(f"wrote {count:,} frames into {folder}: tensorboard --logdir {folder}")
    return 0
