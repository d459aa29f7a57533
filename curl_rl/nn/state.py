"""The states of several named parts as one, for checkpoints."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from curl_rl.types import Stateful

Parts = Mapping[str, Stateful | Optimizer | torch.Generator]


def collect(parts: Parts) -> dict[str, Any]:
    """Return every part's state under its name."""
    return {
        name: part.get_state() if isinstance(part, torch.Generator) else part.state_dict()
        for name, part in parts.items()
    }


def restore(parts: Parts, state: Mapping[str, Any]) -> None:
    """Load every part's state back."""
    for name, part in parts.items():
        if isinstance(part, torch.Generator):
            part.set_state(state[name].cpu())
        else:
            part.load_state_dict(state[name])
