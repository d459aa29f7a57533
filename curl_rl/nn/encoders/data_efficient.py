"""The encoder of data-efficient Rainbow, quick on a CPU."""

from dataclasses import dataclass

from torch import nn

from curl_rl.nn.encoders.base import FlatEncoder, TiledEncoder, conv_stack


@dataclass(frozen=True)
class DataEfficientConfig:
    name: str = "data_efficient"


class DataEfficientEncoder(TiledEncoder, FlatEncoder):
    """The encoder of data-efficient Rainbow (van Hasselt et al. 2019, appendix E): two 5x5 convolutions of stride 5."""

    Config = DataEfficientConfig

    def layers(self, config: DataEfficientConfig) -> nn.Module:
        return conv_stack(self.obs_shape[0], [(32, 5, 5), (64, 5, 5)])
