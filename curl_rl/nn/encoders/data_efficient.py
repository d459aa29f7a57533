"""The encoder of data-efficient Rainbow, quick on a CPU."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curl_rl.nn.encoders.base import FlatConfig, FlatEncoder, TiledEncoder
from curl_rl.nn.encoders.stack import ConvStack
from curl_rl.options import option


@dataclass(frozen=True)
class DataEfficientConfig(FlatConfig):
    name: str = "data_efficient"
    # Of 84x84 pixels the published one sees 75x75, in 3x3 cells; with 8 around them all are seen, in 4x4.
    padding: int = option(0, "zeros around the image, in pixels; on Atari 8 show all of it", at_least=0, at_most=100)


class DataEfficientEncoder(TiledEncoder, FlatEncoder):
    """The encoder of data-efficient Rainbow (van Hasselt et al. 2019, appendix E): two 5x5 convolutions of stride 5."""

    Config = DataEfficientConfig

    def layers(self, config: DataEfficientConfig) -> nn.Module:
        return ConvStack(self.obs_shape[0], [(32, 5, 5, config.padding), (64, 5, 5)])

    def arrange(self, tiles: np.ndarray) -> np.ndarray:
        """Return tiles in the order in which the second layer's tiles hold them, so that none moves in between."""
        (rows, columns), size = self.conv_shape[1:], self.convs[2].kernel_size[0]
        return tiles.reshape(rows, size, columns, size, -1).swapaxes(1, 2).reshape(rows * columns * size * size, -1)

    def map(self, images: Tensor) -> Tensor:
        if images.device.type != "cpu":
            return super().map(images)
        first, second = self.convs[0], self.convs[2]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16, cache_enabled=False):
            x = F.linear(images.flatten(0, 1), first.weight.flatten(1) / 255, first.bias).relu_()
            kernel = second.weight.permute(0, 2, 3, 1).flatten(1)
            x = F.linear(x.view(-1, kernel.shape[1]), kernel, second.bias).relu_()
        return x.float().view(len(images), *self.conv_shape[1:], -1).permute(0, 3, 1, 2)
