"""The encoders of DQN, of Rainbow, which is its map without a head, and of IMPALA."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from curl_rl.nn.encoders.base import Encoder, FlatConfig, FlatEncoder, flat_head
from curl_rl.nn.encoders.stack import ConvStack
from curl_rl.options import option


def _padded() -> bool:
    return option(False, "pad each layer: all of 84x84 is seen, in 11x11 cells, as in Dopamine; else 7x7")


def _convolutions(channels: int, padded: bool) -> ConvStack:
    """Build the convolutions of DQN; Dopamine pads the second by 1 and 2, which is its mirror image by 2 and 1."""
    paddings = (2, 2, 1) if padded else (0, 0, 0)
    windows = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
    return ConvStack(channels, [(*window, padding) for window, padding in zip(windows, paddings, strict=True)])


@dataclass(frozen=True)
class NatureConfig:
    name: str = "nature"
    feature_dim: int = option(512, "width of the features", at_least=1)
    padded: bool = _padded()


class NatureEncoder(Encoder):
    """The encoder of DQN (Mnih et al. 2015, extended data)."""

    Config = NatureConfig

    def layers(self, config: NatureConfig) -> nn.Module:
        return _convolutions(self.obs_shape[0], config.padded)

    def make_head(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(self.conv_shape).numel(), self.feature_dim), nn.ReLU())


@dataclass(frozen=True)
class CanonicalConfig(FlatConfig):
    name: str = "canonical"
    padded: bool = _padded()


class CanonicalEncoder(FlatEncoder):
    """The convolutions of DQN and Rainbow (Mnih et al. 2015), their map as it is."""

    Config = CanonicalConfig

    def layers(self, config: CanonicalConfig) -> nn.Module:
        return _convolutions(self.obs_shape[0], config.padded)


@dataclass(frozen=True)
class ImpalaConfig:
    name: str = "impala"
    feature_dim: int = option(256, "width of the features; 0: the map as it is, as in BBF", at_least=0)
    width: int = option(1, "multiplier of the 16, 32 and 32 filters", at_least=1, at_most=1000)
    stretch: bool = option(False, "stretch the map to [0, 1], as BBF does", where="feature_dim=0")


class _Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.branch = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class ImpalaEncoder(NatureEncoder):
    """The residual encoder of IMPALA (Espeholt et al. 2018, figure 3)."""

    Config = ImpalaConfig

    def layers(self, config: Any) -> nn.Module:
        layers: list[nn.Module] = []
        channels = self.obs_shape[0]
        for filters in (16 * config.width, 32 * config.width, 32 * config.width):
            layers += [nn.Conv2d(channels, filters, 3, padding=1), nn.MaxPool2d(3, 2, padding=1)]
            layers += [_Residual(filters), _Residual(filters)]
            channels = filters
        return nn.Sequential(*layers, nn.ReLU())

    def make_head(self) -> nn.Module:
        return super().make_head() if self.config.feature_dim else flat_head(self.config.stretch)
