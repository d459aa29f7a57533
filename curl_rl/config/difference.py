"""Nested settings as flat ones with dotted keys, and what differs between two of them."""

from collections.abc import Container, Mapping
from typing import Any

from curl_rl.types import ConfigError

# What may change from one start of a run to the next: where it lives and what the machine gives it. Device, threads,
# CUDA graphs and evaluation workers round floating-point sums in another order: they change a result's last bits, not
# what is computed. What is told of evaluations beside their returns changes nothing.
LOCAL = (
    "run_dir",
    "device",
    "threads",
    "replay.device",
    "agent.capture",
    "env.timeout",
    "evaluation.workers",
    "novelty",
    "pretrained.path",
)


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result


def differing(first: Mapping[str, Any], second: Mapping[str, Any], *, ignored: Container[str] = ()) -> dict[str, Any]:
    """Return {key: (value in first, value in second)} of two nested configurations; None stands for an absent one."""
    before, after = flat(first), flat(second)
    keys = [key for key in before | after if key not in ignored]
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a configuration as plain data every setting that can change results, flat."""
    return {key: value for key, value in flat(settings).items() if key not in LOCAL}


def check_same(stored: Mapping[str, Any], given: Mapping[str, Any], holder: str, mend: str) -> None:
    """Raise ConfigError, with the difference, where what was stored of a configuration is not what is given."""
    if changes := told(differing(stored, given)):
        lines = "".join(f"  {change}\n" for change in changes)
        raise ConfigError(f"{holder} of another configuration:\n{lines}{mend}")


def told(changes: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """Return "key: old -> new" for every setting that differs."""

    def shown(value: Any) -> str:
        return "absent" if value is None else str(value)

    return [f"{key}: {shown(old)} -> {shown(new)}" for key, (old, new) in changes.items()]
