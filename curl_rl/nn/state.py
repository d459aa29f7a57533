"""The state of what an object holds, for checkpoints."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from curl_rl.types import ConfigError


class Kept:
    """An object whose state is that of its attributes that `kept` names.

    They are modules, optimisers, generators, tensors, numbers, whatever has a state_dict itself, and dicts of these.
    """

    kept: ClassVar[tuple[str, ...]]

    def state_dict(self) -> dict[str, Any]:
        return {name: _state(getattr(self, name)) for name in self.kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave. Raises ConfigError where it is of other parts."""
        for name in self.kept:
            try:
                setattr(self, name, _restored(getattr(self, name), state[name]))
            except (RuntimeError, KeyError, ValueError) as error:
                fault = " ".join(str(error).split())
                raise ConfigError(
                    f"{name} cannot take its state back ({fault}): use the classes that saved it"
                ) from error


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
    elif isinstance(part, torch.optim.Optimizer):
        settings = [{name: value for name, value in group.items() if name != "params"} for group in part.param_groups]
        part.load_state_dict(state)
        for group, own in zip(part.param_groups, settings, strict=True):
            group.update(own)  # with which a run may go on otherwise than before
    elif hasattr(part, "load_state_dict"):
        part.load_state_dict(state)
    else:
        return state
    return part
