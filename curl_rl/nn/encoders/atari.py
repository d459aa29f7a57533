"""The encoders of DQN, of Rainbow, which is its map without a head, and of IMPALA."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from curl_rl.nn.encoders.base import Encoder, FlatEncoder
from curl_rl.nn.encoders.stack import ConvStack
from curl_rl.options import option


@dataclass(frozen=True)
class NatureConfig:
    name: str = "nature"
    feature_dim: int = option(512, "width of the features", at_least=1)


class NatureEncoder(Encoder):
    """The encoder of DQN (Mnih et al. 2015, extended data)."""

    Config = NatureConfig

    def layers(self, config: NatureConfig) -> nn.Module:
        return ConvStack(self.obs_shape[0], [(32, 8, 4), (64, 4, 2), (64, 3, 1)])

    def make_head(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(self.conv_shape).numel(), self.feature_dim), nn.ReLU())


@dataclass(frozen=True)
class CanonicalConfig:
    name: str = "canonical"


class CanonicalEncoder(FlatEncoder):
    """The convolutions of DQN and Rainbow (Mnih et al. 2015), their map as it is."""

    Config = CanonicalConfig

    def layers(self, config: CanonicalConfig) -> nn.Module:
        return ConvStack(self.obs_shape[0], [(32, 8, 4), (64, 4, 2), (64, 3, 1)])


@dataclass(frozen=True)
class ImpalaConfig:
    name: str = "impala"
    feature_dim: int = option(256, "width of the features", at_least=1)
    width: int = option(1, "multiplier of the 16, 32 and 32 filters", at_least=1, at_most=1000)


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
