"""What agents compute of an encoder's features: policies and values."""

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from curl_rl.nn.losses import squashed_gaussian
from curl_rl.nn.networks import NoisyLinear, PlainLinear, initialise, mlp

_Layer = Callable[[Tensor], Tensor]


class Actor(nn.Module):
    """A squashed Gaussian policy on a convolutional map, with a head of its own."""

    def __init__(
        self, head: nn.Module, feature_dim: int, action_dim: int, hidden_dim: int, *, log_std: tuple[float, float]
    ):
        super().__init__()
        self.head = head
        self.trunk = mlp(feature_dim, hidden_dim, 2 * action_dim)
        self.log_std_min, self.log_std_max = log_std
        initialise(self)

    def forward(self, conv: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions (B, A) and their log-probabilities (B,)."""
        mean, log_std = self.trunk(self.head(conv)).chunk(2, -1)
        log_std = self.log_std_min + 0.5 * (self.log_std_max - self.log_std_min) * (log_std.tanh() + 1)
        return squashed_gaussian(mean, log_std, noise)

    def mode(self, conv: Tensor) -> Tensor:
        return self.trunk(self.head(conv)).chunk(2, -1)[0].tanh()


class TwinQ(nn.Module):
    """Two state-action values on features, (2, B)."""

    def __init__(self, feature_dim: int, action_dim: int, hidden_dim: int, *, norm: str = "none"):
        super().__init__()
        self.q1 = mlp(feature_dim + action_dim, hidden_dim, 1, norm=norm)
        self.q2 = mlp(feature_dim + action_dim, hidden_dim, 1, norm=norm)
        initialise(self)

    def forward(self, features: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([features, action], -1)
        return torch.cat([self.q1(x), self.q2(x)], -1).T


class DuellingHeads(nn.Module):
    """Distributions over returns on features, as a value plus centred advantages (Wang et al. 2016, equation 9).

    Args: noise_std, the noise's size at the start, 0 for layers without; shared, whether value and advantages have one
    hidden layer, as in Dopamine, or one each.
    """

    def __init__(
        self, feature_dim: int, actions: int, atoms: int, hidden_dim: int, *, noise_std: float, shared: bool = False
    ):
        super().__init__()
        self.shape = (actions, atoms)
        linear = partial(NoisyLinear, std=noise_std) if noise_std else PlainLinear
        self.value_hidden = linear(feature_dim, hidden_dim)
        self.value = linear(hidden_dim, atoms)
        if not shared:
            self.advantage_hidden = linear(feature_dim, hidden_dim)
        self.advantage = linear(hidden_dim, actions * atoms)

    @property
    def layers(self) -> tuple[NoisyLinear, ...]:
        return cast(tuple[NoisyLinear, ...], tuple(self.children()))

    def forward(self, features: Tensor, *, noisy: bool = True) -> Tensor:
        """Return the logits of each action's distribution, (B, actions, atoms)."""
        return self._logits(features, *(partial(layer, noisy=noisy) for layer in self.layers))

    def formed(self) -> Callable[[Tensor], Tensor]:
        """Return `forward` under the noise as a function, its weights formed once for several batches."""
        layers = [layer.formed() for layer in self.layers]
        return lambda features: self._logits(features, *layers)

    def _logits(self, features: Tensor, value_hidden: _Layer, value: _Layer, *others: _Layer) -> Tensor:
        *own, last = others
        hidden = value_hidden(features).relu_()
        values = value(hidden)
        for layer in own:
            hidden = layer(features).relu_()
        advantages = last(hidden).unflatten(1, self.shape)
        return values[:, None] + advantages - advantages.mean(1, keepdim=True)

    def draw(self, generator: torch.Generator) -> None:
        """Draw new noise for every layer."""
        for layer in self.layers:
            layer.draw(generator)
