"""Small networks, their initialisation, and the moving average that makes a target of them."""

import torch
from torch import Tensor, nn


def mlp(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    """Build the two-hidden-layer ReLU network that every head here uses."""
    return nn.Sequential(
        nn.Linear(in_dim, hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, out_dim),
    )


def initialise(module: nn.Module, *, delta: bool = False) -> None:
    """Initialise in place: orthogonal weights, zero biases.

    With `delta`, a convolution's kernel is zero but for an orthogonal centre (Xiao et al. 2018), as in the original
    CURL. It suits 3x3 kernels; a wide strided kernel would see one pixel in sixteen, so others start fully orthogonal.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
        elif isinstance(layer, nn.Conv2d):
            gain = nn.init.calculate_gain("relu")
            if delta:
                nn.init.zeros_(layer.weight)
                middle = layer.kernel_size[0] // 2
                nn.init.orthogonal_(layer.weight.data[:, :, middle, middle], gain)
            else:
                nn.init.orthogonal_(layer.weight, gain)
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None:
            nn.init.zeros_(layer.bias)


@torch.no_grad()
def move_average(target: nn.Module, online: nn.Module, tau: float) -> None:
    """Move the target's parameters towards the online ones in place; `tau` is the weight of the new parameters.

    Without `no_grad` the in-place foreach call would silently join the graph and keep every step's alive.
    """
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)  # pyright: ignore[reportPrivateImportUsage]


def grad_norm(parameters: list[nn.Parameter]) -> Tensor:
    """Return the 2-norm of all gradients together, a scalar on their device; parameters without one count as zero."""
    grads = [p.grad for p in parameters if p.grad is not None]
    return torch.nn.utils.get_total_norm(grads) if grads else parameters[0].new_zeros(())
