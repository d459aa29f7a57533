"""The encoder of DQN and Rainbow, with a head and without."""

from dataclasses import dataclass

import torch
from torch import nn

from curl_rl.nn.encoders.base import Encoder, FlatEncoder, conv_stack
from curl_rl.options import option


@dataclass(frozen=True)
class NatureConfig:
    name: str = "nature"
    feature_dim: int = option(512, "width of the features", at_least=1)


class NatureEncoder(Encoder):
    """The encoder of DQN (Mnih et al. 2015, extended data)."""

    Config = NatureConfig

    def layers(self, config: NatureConfig) -> nn.Module:
        return conv_stack(self.obs_shape[0], [(32, 8, 4), (64, 4, 2), (64, 3, 1)])

    def make_head(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(self.conv_shape).numel(), self.feature_dim), nn.ReLU())


@dataclass(frozen=True)
class CanonicalConfig:
    name: str = "canonical"


class CanonicalEncoder(FlatEncoder):
    """The convolutions of DQN and Rainbow (Mnih et al. 2015), their map as it is."""

    Config = CanonicalConfig

    def layers(self, config: CanonicalConfig) -> nn.Module:
        return conv_stack(self.obs_shape[0], [(32, 8, 4), (64, 4, 2), (64, 3, 1)])
