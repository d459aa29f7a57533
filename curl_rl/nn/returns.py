"""What a network's outputs say of an action's return: its distribution on atoms, or its mean alone."""

import torch
from torch import Tensor

from curl_rl.nn.losses import categorical_loss, huber_loss, project_distribution


class Returns:
    """Returns on evenly spaced atoms, given as logits (..., atoms), or for one atom their mean as it is (..., 1)."""

    def __init__(self, atoms: int, v_min: float, v_max: float, device: torch.device):
        self.support = torch.linspace(v_min, v_max, atoms, device=device)
        self.compare = huber_loss if atoms == 1 else categorical_loss

    def mean(self, logits: Tensor) -> Tensor:
        """Return expected returns (...)."""
        return logits[..., 0].float() if len(self.support) == 1 else logits.float().softmax(-1) @ self.support

    def target(self, logits: Tensor, reward: Tensor, discount: Tensor) -> Tensor:
        """Return what (B, atoms) of the next observation means for this one: projected onto the atoms, or moved."""
        if len(self.support) == 1:
            return reward[:, None] + discount[:, None] * logits.float()
        return project_distribution(logits.float().softmax(-1), reward, discount, self.support)
