"""The losses, as pure functions of tensors."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def squashed_gaussian(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Sample a = tanh(mean + std * noise) and its log-probability.

    Args: mean, log_std and standard normal noise, each (B, A). Returns a (B, A) and log pi(a) (B,), in float32.
    Source: Haarnoja et al. 2018, appendix C; log(1 - tanh(u)^2) is written as 2 (log 2 - u - softplus(-2u)), which is
    exact where the original's log(1 - a^2 + 1e-6) saturates.
    """
    mean, log_std, noise = mean.float(), log_std.float(), noise.float()
    u = mean + log_std.exp() * noise
    gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    squash = 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))
    return u.tanh(), (gaussian - squash).sum(-1)


def soft_q_target(reward: Tensor, discount: Tensor, next_q: Tensor, next_log_prob: Tensor, alpha: Tensor) -> Tensor:
    """Return r + discount * (min_i Q_i - alpha * log pi), shape (B,).

    Args: reward, discount and next_log_prob (B,), next_q (2, B). Source: Haarnoja et al. 2018, equation 3.
    """
    return reward + discount * (next_q.amin(0) - alpha * next_log_prob)


def twin_q_loss(q: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted squared error summed over both heads and averaged over the batch.

    Args: q (2, B), target and importance weights (B,).
    """
    return ((q - target).square() * weight).mean(1).sum()


def project_distribution(probabilities: Tensor, reward: Tensor, discount: Tensor, support: Tensor) -> Tensor:
    """Move a distribution over returns by r + discount * z and project it back onto its atoms, shape (B, atoms).

    Args: probabilities (B, atoms), reward and discount (B,), evenly spaced support (atoms,). Source: Bellemare et al.
    2017, equation 7, whose triangular kernel is written out: no scatter, so the sum's order is fixed on every device.
    """
    low, high = support[0], support[-1]
    moved = (reward[:, None] + discount[:, None] * support).clamp(low, high)
    place = (moved - low) / (high - low) * (len(support) - 1)
    atoms = torch.arange(len(support), device=support.device)
    share = (place[:, None] - atoms[:, None]).abs_().neg_().add_(1).clamp_(min=0)  # (B, to, from)
    return (share @ probabilities[..., None]).squeeze(-1)


def categorical_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return each sample's cross-entropy against a distribution over atoms, shape (B,); both arguments (B, atoms)."""
    return -(target * logits.float().log_softmax(-1)).sum(-1)


def bilinear_logits(query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
    """Return the similarities q_i W k_j in float32, shape (B, B), each row's maximum subtracted.

    Args: query (B, d), key (B, d), weight (d, d). Source: Laskin et al. 2020 (CURL), algorithm 1.
    """
    logits = query.float() @ (weight.float() @ key.float().T)
    return logits - logits.amax(1, keepdim=True).detach()


def info_nce(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of each row against its diagonal, and the share of rows whose maximum lies there.

    Args: logits (B, B), positives on the diagonal. Source: van den Oord et al. 2018, equation 4.
    """
    labels = torch.arange(logits.shape[0], device=logits.device)
    accuracy = (logits.argmax(1) == labels).float().mean()
    return F.cross_entropy(logits.float(), labels), accuracy
