"""Train under Hydra itself, for sweeps and launchers.

python scripts/train.py --multirun task=dmc/cartpole_swingup seed=1,2,3

The overrides are those of `curl-rl train`; --cfg job shows what they compose to, hydra/launcher=... picks a launcher.
"""

import sys
from typing import Any


def job(node: Any) -> None:
    """Train one composed configuration, or go on with its run."""
    from curl_rl.config import from_node
    from curl_rl.trainer import train
    from curl_rl.types import ConfigError

    try:
        status = train(from_node(node))
    except ConfigError as error:
        print(f"{sys.argv[0]}: {error}", file=sys.stderr)
        status = 2
    if status:
        sys.exit(status)


def main() -> None:
    # Inside a function: the processes of environments import this file too, and need none of it.
    import hydra

    from curl_rl.overrides import config_dir, hydra_arguments, register
    from curl_rl.types import ConfigError

    try:
        suite, sys.argv[1:] = hydra_arguments(sys.argv[1:])
    except ConfigError as error:
        print(f"{sys.argv[0]}: {error}", file=sys.stderr)
        sys.exit(2)
    register()
    hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=suite)(job)()


if __name__ == "__main__":
    main()
