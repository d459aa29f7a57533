"""curl-rl select."""

import argparse
from typing import Any

from curl_rl.commands.arguments import add_command, device, path, whole


def add(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = add_command(commands, "select", run, "choose the frames of an index that are most worth a label")
    parser.add_argument("index", nargs="+", metavar="INDEX | KEY=VALUE", help="an index, and options: typical.least=3")
    parser.add_argument(
        "--by",
        nargs="+",
        action="extend",
        required=True,
        metavar="NAME",
        help="coverage, typical, uncertain, random; of several the ranks",
    )
    parser.add_argument("--count", type=whole(1, 10**6), required=True, help="how many")
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="of pictures and a table to be filled")
    parser.add_argument("--labels", type=path, metavar="FILE", help="CSV, name,class, of frames that have a label")
    parser.add_argument("--classifier", type=path, metavar="DIR", help="whose margin is what is uncertain")
    parser.add_argument("--run", type=path, metavar="DIR", dest="agent", help="whose twin critics' disagreement is")
    parser.add_argument("--link", action="store_true", help="link image files instead of copying them")
    parser.add_argument("--no-pictures", action="store_false", dest="copy", help="write the table alone")
    parser.add_argument("--seed", type=whole(0, 2**63 - 1), help="of what is random (default: 0)")
    parser.add_argument("--device", type=device, default="auto", help="of what is uncertain (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Select."""
    from pathlib import Path

    from curl_rl.representation.selection import compose_selecting, select_from
    from curl_rl.types import ConfigError

    words = [*arguments.index, *(each for each in arguments.by if "=" in each)]
    folders = [Path(each) for each in words if "=" not in each]
    if len(folders) != 1:
        raise ConfigError("give one index: curl-rl select idx --by coverage --count 200 --out sel")
    config = compose_selecting(each for each in words if "=" in each)
    by = [each for each in arguments.by if "=" not in each]
    names = ("count", "labels", "classifier", "link", "copy", "seed", "device")
    options = {name: getattr(arguments, name) for name in names}
    table = select_from(folders[0], arguments.out, config, by=by, run=arguments.agent, **options)
    print(f"wrote {table}: fill in its classes, then curl-rl finetune ENCODER --data SOURCE --labels {table}")
    return 0
