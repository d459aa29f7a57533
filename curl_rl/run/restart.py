"""A run that begins anew: what the one before it left is kept in a folder inside its own."""

import itertools
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from curl_rl.config.overrides import parse_single
from curl_rl.config.schema import Config
from curl_rl.run.caller import COMMAND_LINE, Caller
from curl_rl.run.documents import CONFIG, METADATA, TABLES, read_bytes
from curl_rl.run.files import move_into, write_whole
from curl_rl.run.locks import training_alone
from curl_rl.run.stored import save_config
from curl_rl.run.streams import unfailing_stderr
from curl_rl.run.trainer import Trainer
from curl_rl.types import ConfigError

# Checkpoints first: where they are gone, nothing goes on from tables that are not there any more.
_MOVED = ("checkpoints", *TABLES, "tensorboard", METADATA)


def split_restart(overrides: Sequence[str]) -> tuple[bool, list[str]]:
    """Return whether overrides ask for a restart, which is no setting of a run, and the others."""
    asked = [override for override in parse_single(overrides) if override.key_or_group == "restart"]
    for override in asked:
        if not isinstance(override.value(), bool):
            raise ConfigError(f"restart must be true or false, got {override.get_value_string() or 'nothing'}")
    lines = {override.input_line for override in asked}
    return any(override.value() for override in asked), [text for text in overrides if text not in lines]


def set_aside(run_dir: Path, config: Config) -> Path | None:
    """Move what a run left into `before-<n>` inside its folder and return that; None where it has left nothing.

    Nothing is deleted, and a kill in between is made good by the same call. Args: config, of the run that begins now.
    """
    moved = [run_dir / name for name in _MOVED if (run_dir / name).exists()]
    if not moved:
        return None
    places = (run_dir / f"before-{number}" for number in itertools.count(1))
    # The configuration is written last: a folder without it is of a restart that was killed.
    names = [CONFIG, *(path.name for path in moved)]
    place = next(place for place in places if not any((place / name).exists() for name in names))
    move_into(place, moved)
    if (run_dir / CONFIG).is_file():
        write_whole({place / CONFIG: read_bytes(run_dir / CONFIG)})
    save_config(config, run_dir)
    return place


def begin_anew(config: Config, caller: Caller = COMMAND_LINE) -> int:
    """Train in a run's directory from the start, and keep what is there in a folder of its own; return the exit status.

    Nothing is moved before all is built. Raises as `train`.
    """
    with unfailing_stderr(), ExitStack() as cleanup:
        run_dir = Path(config.run_dir)
        cleanup.enter_context(training_alone(run_dir))
        trainer = Trainer(config, cleanup, caller, anew=True)
        if place := set_aside(run_dir, config):
            print(f"{run_dir} begins anew; what it held is in {place}", file=sys.stderr)
        return trainer.run()
