"""curl-rl probe."""

import argparse
from pathlib import Path
from typing import Any

from curl_rl.commands.arguments import add_command, device, path, whole


def add(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = add_command(commands, "probe", run, "measure what frozen encoders know of frames")
    parser.add_argument(
        "encoders", nargs="+", metavar="ENCODER | KEY=VALUE", help="encoders' folders, and options: ridge.folds=3"
    )
    parser.add_argument(
        "--data", required=True, metavar="SOURCE", help="a run, recordings, a folder of images, a video"
    )
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="of the table, the pictures, the page")
    parser.add_argument("--probes", nargs="+", default=(), metavar="NAME", help="default: all that the frames answer")
    parser.add_argument("--seeds", type=whole(1, 1000), default=3, help="of each probe (default: %(default)s)")
    parser.add_argument("--device", type=device, default="auto", help="of the encoders (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Probe, and write the page."""
    from curl_rl.options import quoted
    from curl_rl.report.probes import build_probe_page
    from curl_rl.representation.probing.measure import probe_folders
    from curl_rl.representation.probing.options import compose_probing
    from curl_rl.types import ConfigError

    words = [*arguments.encoders, *(each for each in arguments.probes if "=" in each)]
    folders = [Path(each) for each in words if "=" not in each]
    if not folders:
        raise ConfigError("give an encoder's folder: curl-rl probe enc --data runs/x --out probe")
    config = compose_probing([f"data={quoted(arguments.data)}", *(e for e in words if "=" in e)])
    probes = [each for each in arguments.probes if "=" not in each]
    options = {"probes": probes, "seeds": arguments.seeds, "device": arguments.device}
    probe_folders(folders, arguments.out, config, **options)
    print(f"wrote {build_probe_page(arguments.out)}")
    return 0
