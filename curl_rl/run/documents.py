"""Reads what a run left on disk as plain data: a damaged file is one sentence that names it, the fault and the mend."""

import json
import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curl_rl.types import ConfigError

CONFIG, METADATA = "config.json", "metadata.json"
TABLES = ("eval.csv", "train.csv")
_GROUPS = ("env", "agent", "encoder", "objective", "replay", "evaluation")
_SETTINGS = {"task": str, "seed": int, "budget_frames": int, **dict.fromkeys(_GROUPS, dict)}
_EPISODES = ("episodes", "final_episodes")
_KINDS = {str: "no name", int: "no whole number", dict: "no group of settings"}
_OTHER_VERSION = f"use the version of curl-rl that wrote it, whose commit {METADATA} names, restore it"


def read_settings(run_dir: Path) -> dict[str, Any]:
    """Return what a run's config.json holds as plain data, checked for what every reader of it needs.

    Raises FileNotFoundError where there is no run, ConfigError for a file that is damaged or of another kind.
    """
    try:
        settings = read_document(run_dir / CONFIG)
    except FileNotFoundError:
        raise FileNotFoundError(f"{run_dir} is no run directory: it has no {CONFIG}") from None
    check_kinds(run_dir, settings, _SETTINGS)
    check_kinds(run_dir, settings["evaluation"], dict.fromkeys(_EPISODES, int), "evaluation.")
    return settings


def check_kinds(run_dir: Path, values: dict[str, Any], kinds: Mapping[str, type], prefix: str = "") -> None:
    """Raise ConfigError where config.json lacks one of some settings, or holds it as another kind of value."""
    if missing := sorted(kinds.keys() - values.keys()):
        fault = (
            f"it has no {', '.join(prefix + name for name in missing)}, so another version wrote it or it is damaged"
        )
        raise unreadable_settings(run_dir, fault)
    for name, kind in kinds.items():
        if type(values[name]) is not kind:
            fault = f"{prefix}{name} is {json.dumps(values[name])}, {_KINDS[kind]}"
            raise unreadable_settings(run_dir, fault)


def unreadable_settings(run_dir: Path, fault: str) -> ConfigError:
    return _unreadable(run_dir / CONFIG, fault, _OTHER_VERSION)


def read_starts(run_dir: Path) -> list[dict[str, Any]]:
    """Return what metadata.json tells of a run's starts, none where it is absent.

    Raises ConfigError for a file that is damaged or of another kind.
    """
    path = run_dir / METADATA
    try:
        starts = read_document(path).get("starts")
    except FileNotFoundError:
        return []
    if not isinstance(starts, list) or not all(isinstance(start, dict) for start in starts):
        raise _unreadable(path, "it lists no starts of a run", "move it away and run again")
    if not all(map(_is_start, starts)):
        raise _unreadable(path, "it does not tell what a start changed, and at which frame", "restore it")
    return starts


def _is_start(start: Mapping[str, Any]) -> bool:
    changed, frame = start.get("changed", {}), start.get("frame", 0)
    pairs = isinstance(changed, dict) and all(isinstance(pair, list) and len(pair) == 2 for pair in changed.values())
    return pairs and type(frame) is int


def read_document(path: Path) -> dict[str, Any]:
    """Return the mapping that a JSON file holds.

    Raises FileNotFoundError where there is none, ConfigError for one that holds anything but text and finite numbers.
    """
    try:
        data = json.loads(read_bytes(path).decode(), parse_int=_whole, parse_float=_finite, parse_constant=_finite)
        json.dumps(data, ensure_ascii=False).encode()  # half a surrogate pair could be read, but never be printed
    except UnicodeError:
        fault = "it is not UTF-8 text"
    except RecursionError:
        fault = "it is nested too deeply"
    except json.JSONDecodeError as error:
        fault = f"it is not JSON: {error}"
    except ConfigError:
        raise
    except ValueError as error:
        fault = str(error)
    else:
        if isinstance(data, dict):
            return data
        fault = "it holds no mapping"
    raise _unreadable(path, fault, "restore it")


def read_bytes(path: Path) -> bytes:
    """Return what a regular file holds. Raises FileNotFoundError, or ConfigError for what cannot be read."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise _unreadable(path, "it is a folder or a device", "restore it")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"there is no {path}") from None
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error), "make it readable") from None


def is_begun(run_dir: Path) -> bool:
    """Return whether a directory holds anything that a run has measured or learned."""
    return has_checkpoints(run_dir) or any(has_rows(run_dir / name) for name in TABLES)


def has_rows(table: Path) -> bool:
    """Return whether a table holds more than its header."""
    try:
        return read_bytes(table).count(b"\n") > 1
    except FileNotFoundError:
        return False


def has_checkpoints(run_dir: Path) -> bool:
    """Return whether a directory holds a checkpoint that says of itself that it is whole."""
    return any((run_dir / "checkpoints").glob("manifest-*"))


def is_set_aside(path: Path) -> bool:
    """Return whether a folder holds what a run left before it began anew in the folder around it."""
    return bool(re.fullmatch(r"before-\d+", path.name)) and (path.parent / CONFIG).exists()


def explain_missing(run_dir: Path) -> str:
    """Return why a run has no checkpoint, and what can be done; nothing that it advises touches what is there."""
    if not is_begun(run_dir):
        return f"{run_dir} has no checkpoint yet: train it with `curl-rl train run_dir={shlex.quote(str(run_dir))}`"
    old, new = shlex.quote(str(run_dir)), shlex.quote(f"{run_dir}-again")
    anew = f"mkdir {new} && cp {old}/{CONFIG} {new}/ && curl-rl train run_dir={new}"
    return (
        f"the checkpoints of {run_dir} were deleted, only its results are left: restore checkpoints/ from a copy, or "
        f"train its configuration anew in another place: {anew}"
    )


def _unreadable(path: Path, fault: str, mend: str) -> ConfigError:
    return ConfigError(f"{path} cannot be read ({fault}): {mend}, or move {path.parent} away")


def _whole(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError(f"it holds a number of {len(digits)} digits")
    return int(digits)


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"it holds {text}, no finite number")
    return value
