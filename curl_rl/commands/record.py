"""curl-rl record."""

import argparse
from pathlib import Path
from typing import Any

from curl_rl.commands.arguments import add_command, device, path, share, whole


def add(commands: Any) -> None:
    """Add the verb to the command line."""
    parser = add_command(commands, "record", run, "record play, with the simulator's state, as frames to learn from")
    parser.add_argument(
        "source", nargs="+", metavar="RUN | KEY=VALUE", help="a run, whose agent plays, or settings of random play"
    )
    parser.add_argument("--out", type=path, required=True, metavar="DIR|FILE.npz", help="where episodes are written")
    parser.add_argument("--episodes", type=whole(1, 10**6), default=40, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=whole(0, 2**63 - 1), default=0, help="of the episodes (default: %(default)s)")
    parser.add_argument(
        "--epsilon", type=share, default=0.1, help="share of random actions given to an agent (default: %(default)s)"
    )
    parser.add_argument("--workers", type=whole(1, 1024), help="environments at once (default: one a core)")
    parser.add_argument("--device", type=device, default="auto", help="of the agent (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Record."""
    from curl_rl.config.overrides import compose
    from curl_rl.run.recording import record
    from curl_rl.types import ConfigError

    settings = [each for each in arguments.source if "=" in each]
    if len(settings) < len(arguments.source) > 1:
        raise ConfigError("give one run, or settings such as task=dmc/cartpole_swingup, not both")
    source = compose([*settings, "objective=none"]) if settings else Path(arguments.source[0])
    options = {name: getattr(arguments, name) for name in ("episodes", "seed", "epsilon", "device")}
    return record(source, arguments.out, workers=arguments.workers or 0, **options)
