"""What starts from a trained encoder takes its architecture from the encoder's folder."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from curl_rl.types import ConfigError

_PATH = "pretrained.path"
OWN = "tap"  # name of an encoder that is a user's own network


def encoder_settings(parsed: Iterable[Override]) -> dict[str, Any]:
    """Return the encoder's settings by their keys where overrides name a folder, nothing where they do not.

    Raises ConfigError where there is none, or an override asks for another encoder than the folder's.
    """
    given = {override.key_or_group: override for override in parsed}
    if _PATH not in given or given[_PATH].is_sweep_override() or not (path := text_of(given[_PATH])):
        return {}
    described = described_encoder(Path(str(path)), _PATH)
    if described["name"] == OWN:
        raise ConfigError(f"{_PATH}={path} holds a network of your own; an agent takes an encoder of curl_rl")
    known = {"encoder": described["name"], **{f"encoder.{key}": v for key, v in described.items() if key != "name"}}
    for key, override in given.items():
        value = text_of(override)
        if key.partition(".")[0] == "encoder" and value != known.get(key, value):
            raise ConfigError(
                f"{override.input_line} contradicts {_PATH}={path}, which holds {key}={known[key]}: leave it out"
            )
    return known


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
    raise ConfigError(f"{key}={path} is no encoder's folder ({fault}): give one of curl-rl pretrain or curl-rl export")
