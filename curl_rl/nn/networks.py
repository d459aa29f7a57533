"""Small networks, their initialisation, and the moving average that makes a target of them."""

import copy
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Initialisation = Literal["orthogonal", "delta", "default"]
_DRAWING = threading.RLock()  # held while torch's own generator is another's


def mlp(in_dim: int, hidden_dim: int, out_dim: int, *, norm: str = "none") -> nn.Sequential:
    """Build the two-hidden-layer ReLU network that every head here uses; "layer" normalises before each ReLU."""
    layers: list[nn.Module] = []
    for width in (in_dim, hidden_dim):
        layers += [nn.Linear(width, hidden_dim), *([nn.LayerNorm(hidden_dim)] if norm == "layer" else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden_dim, out_dim))


class NoisyLinear(nn.Module):
    """A linear layer with factorised Gaussian noise of learned size (Fortunato et al. 2018, equation 9).

    Its noise stays as it is until `draw`, and is part of the state.
    """

    def __init__(self, in_dim: int, out_dim: int, std: float):
        super().__init__()
        bound = 1 / math.sqrt(in_dim)
        self.weight = nn.Parameter(torch.empty(out_dim, in_dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_dim).uniform_(-bound, bound))
        self.weight_std = nn.Parameter(torch.full((out_dim, in_dim), std / math.sqrt(in_dim)))
        self.bias_std = nn.Parameter(torch.full((out_dim,), std / math.sqrt(out_dim)))
        self.noise_in: Tensor
        self.noise_out: Tensor
        self.register_buffer("noise_in", torch.zeros(in_dim))
        self.register_buffer("noise_out", torch.zeros(out_dim))

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Draw new noise: the signed square root of a standard normal for each input and each output."""
        for noise in (self.noise_in, self.noise_out):
            noise.normal_(generator=generator)
            torch.copysign(noise.abs().sqrt_(), noise, out=noise)

    def forward(self, x: Tensor, *, noisy: bool) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        if not noisy:
            return y
        # The noise of rank one goes to inputs and outputs: no weight matrix is written, which suits a row or two.
        return torch.addcmul(y, F.linear(x * self.noise_in, self.weight_std, self.bias_std), self.noise_out)

    def formed(self) -> Callable[[Tensor], Tensor]:
        """Return the layer under its noise as one product, for many rows."""
        weight = torch.addcmul(self.weight, self.weight_std, torch.outer(self.noise_out, self.noise_in))
        bias = torch.addcmul(self.bias, self.bias_std, self.noise_out)
        return lambda x: F.linear(x, weight, bias)


class PlainLinear(nn.Linear):
    """A linear layer without noise, with the face of one that has it."""

    def draw(self, generator: torch.Generator) -> None:
        """Draw nothing."""

    def forward(self, x: Tensor, *, noisy: bool = False) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x)

    def formed(self) -> Callable[[Tensor], Tensor]:
        return self


def stretched(maps: Tensor) -> Tensor:
    """Stretch each sample's map (B, ...) to [0, 1]; one that is constant becomes 0 (Schwarzer et al. 2021, SPR)."""
    axes = tuple(range(1, maps.dim()))
    low, high = maps.amin(axes, keepdim=True), maps.amax(axes, keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-5)


class Stretch(nn.Module):
    """The same as a layer."""

    def forward(self, maps: Tensor) -> Tensor:
        return stretched(maps)


def initialise(module: nn.Module, how: Initialisation = "orthogonal") -> None:
    """Initialise in place: orthogonal weights and zero biases, or PyTorch's `default` left as it is.

    With `delta`, a convolution's kernel is zero but for an orthogonal centre (Xiao et al. 2018), as in the original
    CURL. It suits 3x3 kernels; a wide strided kernel would see one pixel in sixteen, so others start fully orthogonal.
    """
    if how == "default":
        return
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
        elif isinstance(layer, nn.Conv2d):
            gain = nn.init.calculate_gain("relu")
            if how == "delta":
                nn.init.zeros_(layer.weight)
                middle = layer.kernel_size[0] // 2
                nn.init.orthogonal_(layer.weight.data[:, :, middle, middle], gain)
            else:
                nn.init.orthogonal_(layer.weight, gain)
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None:
            nn.init.zeros_(layer.bias)


def frozen_copy(module: nn.Module) -> Any:
    """Return a copy that takes no gradient, the start of a moving average."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def move_average(target: nn.Module, online: nn.Module, tau: float) -> None:
    """Move the target's parameters towards the online ones in place; `tau` is the weight of the new parameters.

    So are the running means and variances of batch normalisation, in a network of one's own; other buffers are copied.
    Without `no_grad` the in-place foreach call would silently join the graph and keep every step's alive.
    """
    for (name, mine), theirs in zip(target.named_buffers(), online.buffers(), strict=True):
        if name.endswith(("running_mean", "running_var")):
            mine.lerp_(theirs, tau)
        else:
            mine.copy_(theirs)
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)  # pyright: ignore[reportPrivateImportUsage]


def decayed(parameters: list[nn.Parameter], decay: float) -> list[dict[str, Any]]:
    """Return an optimiser's groups, the same whatever the decay: weights, and without it vectors such as biases."""
    weights, vectors = ([p for p in parameters if (p.dim() > 1) == many] for many in (True, False))
    return [{"params": weights, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's own generator inside, which is as before after; the threads of a process, which share it, wait."""
    with _DRAWING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def random_seed(generator: torch.Generator) -> int:
    """Draw a seed for another generator."""
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))


def grad_norm(parameters: list[nn.Parameter]) -> Tensor:
    """Return the 2-norm of all gradients together, a scalar on their device; parameters without one count as zero."""
    grads = [p.grad for p in parameters if p.grad is not None]
    return torch.nn.utils.get_total_norm(grads) if grads else parameters[0].new_zeros(())
