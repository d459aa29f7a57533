"""The encoder of CURL on DeepMind Control, and smaller ones of its kind."""

from dataclasses import dataclass

from torch import nn

from curl_rl.nn.encoders.base import Encoder, TiledEncoder
from curl_rl.nn.encoders.stack import ConvStack
from curl_rl.options import option


@dataclass(frozen=True)
class _FiltersConfig:
    name: str = ""
    feature_dim: int = option(50, "width of the features", at_least=1)
    filters: int = option(32, "filters of each convolution", at_least=1)


@dataclass(frozen=True)
class PaperConfig(_FiltersConfig):
    name: str = "paper"
    depth: int = option(4, "number of 3x3 convolutions; the first has stride 2", at_least=1, at_most=100)


class PaperEncoder(Encoder):
    """CURL's encoder on DeepMind Control (Laskin et al. 2020, table 3): 3x3 convolutions, Linear and LayerNorm."""

    Config = PaperConfig
    init = "delta"

    def layers(self, config: PaperConfig) -> nn.Module:
        strides = [2] + [1] * (config.depth - 1)
        return ConvStack(self.obs_shape[0], [(config.filters, 3, stride) for stride in strides])


@dataclass(frozen=True)
class StridedConfig(_FiltersConfig):
    name: str = "strided"


class StridedEncoder(TiledEncoder):
    """A tenth of the paper's arithmetic: a 4x4 convolution of stride 4, then 3x3 of stride 2 and 1; made for CPUs."""

    Config = StridedConfig

    def layers(self, config: StridedConfig) -> nn.Module:
        f = config.filters
        return ConvStack(self.obs_shape[0], [(f, 4, 4), (f, 3, 2), (f, 3, 1)])


@dataclass(frozen=True)
class SmallConfig(_FiltersConfig):
    name: str = "small"
    filters: int = option(16, "filters of each convolution", at_least=1)


class SmallEncoder(Encoder):
    """Two 3x3 convolutions, the first of stride 2, for images of some thirty pixels."""

    Config = SmallConfig

    def layers(self, config: SmallConfig) -> nn.Module:
        return ConvStack(self.obs_shape[0], [(config.filters, 3, 2), (config.filters, 3, 1)])
