"""The configuration that a run was started with: kept in its directory, read back, and gone on with."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from curl_rl import envs
from curl_rl.config import suites
from curl_rl.config.continuing import continued
from curl_rl.config.difference import check_goes_on, check_same, identity
from curl_rl.config.overrides import CHOICES, compose, read_overrides
from curl_rl.config.schema import GROUPS, Config
from curl_rl.options import OwnClassError
from curl_rl.run.checkpoint import Checkpoints
from curl_rl.run.documents import CONFIG as FILE
from curl_rl.run.documents import check_kinds, is_begun, read_settings, read_starts, unreadable_settings
from curl_rl.run.files import write_whole
from curl_rl.run.pretrained import told_of
from curl_rl.types import ConfigError

Check = Callable[[Mapping[str, Any], Mapping[str, Any], str, str], None]


def save_config(config: Config, run_dir: str | Path) -> None:
    """Write config.json into a run directory, all of it or nothing."""
    write_whole({Path(run_dir) / FILE: json.dumps(config.to_dict(), indent=2) + "\n"})


def load_config(run_dir: str | Path) -> Config:
    """Read the configuration that a run was started with; its `run_dir` is where the run lies now.

    Raises FileNotFoundError where there is no run, ConfigError where its file cannot be understood.
    """
    run_dir = Path(run_dir)
    stored = read_settings(run_dir)
    check_kinds(run_dir, stored, dict.fromkeys(GROUPS, dict))
    try:
        return dataclasses.replace(Config.from_dict(stored), run_dir=str(run_dir))
    except OwnClassError as error:  # nothing is wrong with the file
        raise ConfigError(f"the run in {run_dir} needs a class of its own: {error}") from error
    except ConfigError as error:
        fault = str(error)
    except (TypeError, AttributeError, LookupError, ValueError, ArithmeticError):  # a value of another kind
        fault = "it holds no settings of this program"
    if own := _own_classes(stored):
        raise ConfigError(f"the run in {run_dir} does not fit {own} any more ({fault}): put it back as it was")
    raise unreadable_settings(run_dir, fault)


def _own_classes(settings: Mapping[str, Any]) -> str:
    """Name the classes of the user's own in settings as plain data, as a user types them."""
    names = {group: settings[group].get("name") for group in GROUPS}
    return " ".join(f"{group}={name}" for group, name in names.items() if isinstance(name, str) and ":" in name)


def check_resumable(config: Config) -> None:
    """Raise ConfigError, with the difference, where the run directory holds a run that cannot go on as configured."""
    run_dir = Path(config.run_dir)
    if not (run_dir / FILE).exists():
        return
    stored = load_config(config.run_dir)
    # A run that has measured nothing has nothing to lose and claims nothing.
    if is_begun(run_dir):
        mend = (
            f"resume it with run_dir={config.run_dir} alone, give another run_dir, or start it anew with restart=true"
        )
        check_goes_on(identity(stored.to_dict()), identity(config.to_dict()), f"{config.run_dir} holds a run", mend)


def env_settings(config: Config) -> dict[str, Any]:
    """Return what an environment's constructor takes of the configuration."""
    taken = suites.SUITES[suites.suite_of(config.task)].settings
    plain = not config.env.distraction
    return {name: getattr(config.env, name) for name in taken if not (plain and name.startswith("distraction"))}


def judge_settings(config: Config) -> dict[str, Any]:
    """Return what environments that evaluate take beside those: distractions that training does not show."""
    return {"distraction_split": "evaluation"} if config.env.distraction else {}


def make_protocol(config: Config) -> dict[str, Any]:
    """Return what the configured environment measures, as plain data with its `hash`."""
    return envs.protocol(config.task, **env_settings(config), **judge_settings(config))


def identify(config: Config, begun: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what a checkpoint says of the run that it is of: every setting that can change results, and the task's.

    Args: begun, what is known of the weights that it starts from; they are looked at where nothing is given.
    """
    begun = told_of(config) if begun is None else begun
    return {**identity(config.to_dict()), "protocol": make_protocol(config)["hash"], **begun}


def check_state(state: Mapping[str, Any], config: Config, *, plays: bool = False, check: Check = check_goes_on) -> None:
    """Raise ConfigError, with the difference, for the state of a checkpoint that cannot go on as configured.

    Args: plays, whether it is only played: the weights that it started from need not be there any more. check, what
    compares the two.
    """
    stored = state.get("config", {})
    begun = {key: value for key, value in stored.items() if key == "pretrained"} if plays else None
    place = Path(config.run_dir) / "checkpoints"
    mend = f"put the run's own {FILE} and checkpoints there, or give another run_dir"
    if own := _own_classes(config.to_dict()):
        mend = f"put back {own} as it was, or give another run_dir"
    given = identify(config, begun)
    if {**stored, "pretrained": None} == {**given, "pretrained": None}:
        mend = "give as pretrained.path the encoder, unchanged, from which the run began"
    check(stored, given, f"{place} holds checkpoints", mend)


def _check_begun(config: Config) -> None:
    """Raise ConfigError where a run began from other weights than a configuration names."""
    starts = read_starts(Path(config.run_dir))
    if not starts or config.pretrained.path == load_config(config.run_dir).pretrained.path:
        return  # which need not be there any more
    stored = starts[-1].get("pretrained")
    mend = f"leave pretrained.path out, or give another run_dir than {config.run_dir}"
    check_same({"pretrained": stored}, told_of(config), f"{config.run_dir} holds a run", mend)


def take_up(config: Config) -> Config:
    """Return a configuration with what its run has chosen already; raises as `check_resumable` does.

    A lost config.json is written anew where the newest checkpoint is of this run.
    """
    check_resumable(config)
    run_dir = Path(config.run_dir)
    if (run_dir / FILE).exists():
        _check_begun(config)
        return dataclasses.replace(config, threads=config.threads or load_config(run_dir).threads)
    if not (run_dir / "checkpoints").is_dir():
        return config
    if (state := Checkpoints(run_dir / "checkpoints").load()) is not None:
        check_state(state, config, check=check_same)  # what its settings were, nothing else tells any more
        save_config(config, run_dir)
    return config


def configure(overrides: Sequence[str], *, restart: bool = False) -> Config:
    """Return the configuration to train with: of a run that exists the stored one with what is named, else composed.

    Raises ConfigError where the run cannot go on so. Args: restart, whether it begins anew, which it can as anything: a
    named task makes a command whole.
    """
    values = read_overrides(overrides)
    composed = None if values.get("run_dir") else compose(overrides)
    run_dir = Path(composed.run_dir if composed else str(values["run_dir"]))
    if restart:
        whole = composed or "task" in values
    else:  # a run that has measured nothing claims nothing
        whole = not is_begun(run_dir) and (composed or not values.keys().isdisjoint(CHOICES))
    if restart and not whole and not (run_dir / FILE).is_file():
        raise ConfigError(f"restart=true: {run_dir} holds no run; name its task too, or give the folder of a run")
    if whole or not (run_dir / FILE).is_file():
        return composed or compose(overrides)
    config = continued(load_config(run_dir), overrides)
    if not restart:
        check_resumable(config)
    return config
