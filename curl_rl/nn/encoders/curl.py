"""The encoder of CURL on DeepMind Control, and smaller ones of its kind."""

from dataclasses import dataclass

from torch import nn

from curl_rl.nn.encoders.base import Encoder, TiledEncoder
from curl_rl.nn.encoders.stack import ConvStack
from curl_rl.options import option
from curl_rl.types import ConfigError


@dataclass(frozen=True)
class _FiltersConfig:
    name: str = ""
    feature_dim: int = option(50, "width of the features", at_least=1)
    filters: int = option(32, "filters of each convolution", at_least=1)
    differences: bool = option(False, "let the first convolution see those of adjacent RGB frames beside the frames")


def _stack(config: _FiltersConfig, channels: int, *sizes: tuple[int, int]) -> ConvStack:
    """Return convolutions of these kernels and strides on stacked frames."""
    if config.differences and (channels % 3 or channels < 6):
        raise ConfigError(
            f"encoder.differences=true needs two or more stacked RGB frames, not {channels} channels: set "
            "env.frame_stack=3, or leave it off for grey ones"
        )
    specs = [(config.filters, *size) for size in sizes]
    return ConvStack(channels, specs, differences=config.differences)


@dataclass(frozen=True)
class PaperConfig(_FiltersConfig):
    name: str = "paper"
    depth: int = option(4, "number of 3x3 convolutions; the first has stride 2", at_least=1, at_most=100)


class PaperEncoder(Encoder):
    """CURL's encoder on DeepMind Control (Laskin et al. 2020, table 3): 3x3 convolutions, Linear and LayerNorm."""

    Config = PaperConfig
    init = "delta"

    def layers(self, config: PaperConfig) -> nn.Module:
        return _stack(config, self.obs_shape[0], (3, 2), *[(3, 1)] * (config.depth - 1))


@dataclass(frozen=True)
class StridedConfig(_FiltersConfig):
    name: str = "strided"


class StridedEncoder(TiledEncoder):
    """A tenth of the paper's arithmetic: a 4x4 convolution of stride 4, then 3x3 of stride 2 and 1; made for CPUs."""

    Config = StridedConfig

    def layers(self, config: StridedConfig) -> nn.Module:
        return _stack(config, self.obs_shape[0], (4, 4), (3, 2), (3, 1))


@dataclass(frozen=True)
class SmallConfig(_FiltersConfig):
    name: str = "small"
    filters: int = option(16, "filters of each convolution", at_least=1)


class SmallEncoder(Encoder):
    """Two 3x3 convolutions, the first of stride 2, for images of some thirty pixels."""

    Config = SmallConfig

    def layers(self, config: SmallConfig) -> nn.Module:
        return _stack(config, self.obs_shape[0], (3, 2), (3, 1))
