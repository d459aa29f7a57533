"""Train under Hydra itself, for sweeps and launchers.

python scripts/train.py --multirun task=dmc/cartpole_swingup seed=1,2,3

The overrides are those of `curl-rl train`; --cfg job shows what they compose to, hydra/launcher=... picks a launcher.
"""

import os
import sys
from typing import Any


def job(node: Any) -> None:
    """Train one composed configuration, or go on with its run."""
    from hydra.core.hydra_config import HydraConfig

    from curl_rl.cli import explain
    from curl_rl.config.overrides import hydra_job
    from curl_rl.run.trainer import train

    try:
        config, overrides = hydra_job(node, HydraConfig.get())
        sys.argv[:] = ["curl-rl", "train", *overrides]  # what the run records of its start: a sweep is not one run
        status = train(config)
    except Exception as error:
        if (status := explain(error, sys.argv[0])) is None:
            raise
    if status:
        sys.exit(status)


def main() -> None:
    """Hand Hydra the command line in its own words."""
    # Inside a function: the processes of environments import this file too, and need none of it.
    import hydra

    from curl_rl.cli import explain

    try:
        from curl_rl.config.overrides import config_dir, hydra_arguments, register

        suite, sys.argv[1:] = hydra_arguments(sys.argv[1:])
    except Exception as error:
        if (status := explain(error, sys.argv[0])) is None:
            raise
        sys.exit(status)
    register()
    os.environ["PYTHONSAFEPATH"] = "1"  # a launcher's job is `python -m`, and must not look into the current folder
    hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=suite)(job)()


if __name__ == "__main__":
    main()
