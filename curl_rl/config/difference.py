"""Nested settings as flat ones with dotted keys, and what differs between two of them."""

from collections.abc import Container, Mapping, Sequence
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
    "checkpoint.keep",
    "novelty",
    "pretrained.path",
    "log.wandb",
    "log.mlflow",
)
# What a run may go on with otherwise than before, from a checkpoint on: nothing of which the saved state has the shape,
# and nothing that makes earlier returns mean something else (hence not evaluation.epsilon).
CHANGEABLE = (
    "budget_frames",  # a larger one
    "replay.capacity",  # a larger one: kept frames find their place in the wider ring
    "batch_size",
    "updates_per_step",
    "agent.learning_rate",  # which the loaded optimisers are given anew
    "agent.alpha_learning_rate",
    "agent.resets.until",  # the budget's, where no number is given
    "objective.coefficient",  # but from 0 or to it: then other optimisers, and another replay, hold the state
    "evaluation.every_frames",
    "evaluation.episodes",
    "evaluation.final_episodes",
    "evaluation.video",
    "checkpoint.*",
    "log.*",
)
_GROWING = ("budget_frames", "replay.capacity")


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


def check_goes_on(stored: Mapping[str, Any], given: Mapping[str, Any], holder: str, mend: str) -> None:
    """Raise ConfigError, with the difference, where a run that was stored cannot go on as what is given."""
    changes = differing(stored, given)
    if any(not _may_change(key, *values) for key, values in changes.items()):
        grown, others = " or ".join(_GROWING), ", ".join(key for key in CHANGEABLE if key not in _GROWING)
        check_same(stored, given, holder, f"{mend}; what may change is a larger {grown}, and {others}")


def _may_change(key: str, old: Any, new: Any) -> bool:
    if key not in CHANGEABLE and f"{key.partition('.')[0]}.*" not in CHANGEABLE:
        return False
    if key in _GROWING:
        return old is not None and new is not None and new > old
    return key != "objective.coefficient" or bool(old and new)


def in_line(changes: Mapping[str, Sequence[Any]]) -> str:
    """Return settings that changed as a part of a line: "budget_frames 1500 -> 2500, batch_size 8 -> 16"."""
    pairs = {key: (old, new) for key, (old, new) in changes.items()}
    return ", ".join(line.replace(": ", " ", 1) for line in told(pairs))


def told(changes: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """Return "key: old -> new" for every setting that differs."""

    def shown(value: Any) -> str:
        return "absent" if value is None else str(value)

    return [f"{key}: {shown(old)} -> {shown(new)}" for key, (old, new) in changes.items()]
