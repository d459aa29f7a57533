"""The state of what an object holds, by the names of its attributes, for checkpoints."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def collect(owner: object, names: Sequence[str]) -> dict[str, Any]:
    """Return the state of each attribute: modules, optimisers, generators, tensors, numbers, and dicts of these."""
    return {name: _state(getattr(owner, name)) for name in names}


def restore(owner: object, names: Sequence[str], state: Mapping[str, Any]) -> None:
    """Put the state that `collect` gave back into each attribute."""
    for name in names:
        setattr(owner, name, _restored(getattr(owner, name), state[name]))


def _state(part: Any) -> Any:
    if isinstance(part, torch.Generator):
        return part.get_state()
    if isinstance(part, Tensor):
        return part.detach().clone()
    if isinstance(part, dict):
        return {name: _state(inner) for name, inner in part.items()}
    return part.state_dict() if hasattr(part, "state_dict") else part


@torch.no_grad()
def _restored(part: Any, state: Any) -> Any:
    """Return what has the state now: the part itself, or of a number the state."""
    if isinstance(part, torch.Generator):
        part.set_state(state.cpu())
    elif isinstance(part, Tensor):
        part.copy_(state)
    elif isinstance(part, dict):
        return {name: _restored(inner, state[name]) for name, inner in part.items()}
    elif hasattr(part, "load_state_dict"):
        part.load_state_dict(state)
    else:
        return state
    return part
