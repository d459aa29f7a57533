"""What starts from a trained encoder takes its architecture from the encoder's folder, or from the run's."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from curl_rl.types import ConfigError

_PATHS = {
    "pretrained.path": "no encoder's folder ({}): give one of curl-rl pretrain or curl-rl export",
    "from_run": "no run ({}): give the directory of one",
}
OWN = "tap"  # name of an encoder that is a user's own network


def encoder_settings(parsed: Iterable[Override]) -> dict[str, Any]:
    """Return the encoder's settings by their keys where overrides name its folder or a run, else nothing.

    Raises ConfigError where there is none, or an override asks for another encoder than that.
    """
    given = {override.key_or_group: override for override in parsed}
    single = (key for key in _PATHS if key in given and not given[key].is_sweep_override())
    sources = [key for key in single if text_of(given[key])]
    if len(sources) != 1:  # two are refused once all is composed
        return {}
    source, path = sources[0], text_of(given[sources[0]])
    described = described_encoder(Path(str(path)), source)
    if described["name"] == OWN:
        raise ConfigError(f"{source}={path} holds a network of your own; an agent takes an encoder of curl_rl")
    known = {"encoder": described["name"], **{f"encoder.{key}": v for key, v in described.items() if key != "name"}}
    for key, override in given.items():
        value = text_of(override)
        if key.partition(".")[0] == "encoder" and value != known.get(key, value):
            raise ConfigError(
                f"{override.input_line} contradicts {source}={path}, which holds {key}={known[key]}: leave it out"
            )
    return known


def check_start(config: Any) -> None:
    """Refuse a run's configuration with two starts, or with a part of none."""
    run, folder = config.from_run, config.pretrained.path
    if run and folder:
        raise ConfigError(f"from_run={run} and pretrained.path={folder} both give an encoder: leave one out")
    if config.from_part != "agent" and not run:
        raise ConfigError(f"from={config.from_part} has no effect without from_run: name a run, or leave it out")


def text_of(override: Override) -> Any:
    """Return an override's value, without the quotes that it may stand in."""
    return getattr(override.value(), "text", override.value())


def described_encoder(path: Path, key: str, group: str = "encoder") -> dict[str, Any]:
    """Return the name and options of a folder's encoder; what is wrong with its weights is seen when they are read.

    Args: group, "augmentation" for that of which it was trained.

    Raises ConfigError, which names the key that the path was given as, where there is none.
    """
    try:
        described = json.loads((path / "config.json").read_text(encoding="utf-8"))[group]
        return {**described, "name": str(described["name"])}
    except OSError as error:
        fault = f"its config.json cannot be read, {error.strerror}"
    except (ValueError, LookupError, TypeError):
        fault = "its config.json describes none"
    raise ConfigError(f"{key}={path} is {_PATHS.get(key, _PATHS['pretrained.path']).format(fault)}")
