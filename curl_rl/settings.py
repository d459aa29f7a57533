"""Nested settings as flat ones with dotted keys, and what differs between two of them."""

from collections.abc import Container, Mapping
from typing import Any

# What may change from one start of a run to the next: where it lives and what the machine gives it. Device, threads,
# CUDA graphs and evaluation workers round floating-point sums in another order: they change a result's last bits, not
# what is computed.
LOCAL = ("run_dir", "device", "threads", "replay.device", "agent.capture", "env.timeout", "evaluation.workers")


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
