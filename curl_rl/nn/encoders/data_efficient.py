"""The encoder of data-efficient Rainbow, quick on a CPU."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curl_rl.nn.encoders.base import FlatEncoder, conv_stack


@dataclass(frozen=True)
class DataEfficientConfig:
    name: str = "data_efficient"


class DataEfficientEncoder(FlatEncoder):
    """The encoder of data-efficient Rainbow (van Hasselt et al. 2019, appendix E): two 5x5 convolutions of stride 5.

    Their windows do not overlap, so on a CPU they are matrix products of tiles: a sixth off an update.
    """

    Config = DataEfficientConfig

    def layers(self, config: DataEfficientConfig) -> nn.Module:
        return conv_stack(self.obs_shape[0], [(32, 5, 5), (64, 5, 5)])

    def scale(self, obs: Tensor) -> Tensor:
        """Return on a CPU the tiles (B * h * w * 25, C * 25) uint8 that the map will need; else as elsewhere."""
        if obs.device.type != "cpu":
            return super().scale(obs)
        return _tiles(obs, 5, *(5 * side for side in self.conv_shape[1:]))

    def map(self, images: Tensor) -> Tensor:
        """Return the convolutional map (B, 64, h, w) of what `scale` gave, in float32."""
        if images.device.type != "cpu":
            return super().map(images)
        first, second = self.convs[0], self.convs[2]
        height, width = self.conv_shape[1:]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16, cache_enabled=False):
            pixels = images.to(torch.bfloat16 if self.bf16 else torch.float32)
            x = F.linear(pixels, first.weight.flatten(1) / 255, first.bias).relu_()
            x = x.view(-1, height, 5, width, 5, 32).transpose(2, 3).reshape(-1, 800)
            x = F.linear(x, second.weight.permute(0, 2, 3, 1).flatten(1), second.bias).relu_()
        return x.float().view(-1, height, width, 64).permute(0, 3, 1, 2)


def _tiles(images: Tensor, size: int, rows: int, columns: int) -> Tensor:
    """Cut images (B, C, H, W) uint8 into their first tiles, (B * rows * columns, C * size * size)."""
    batch, channels = images.shape[:2]
    used = np.ascontiguousarray(images.numpy()[:, :, : rows * size, : columns * size])
    # A tile's row moves as one item of `size` bytes: half of the time of moving pixels.
    runs = used.view(f"V{size}").reshape(batch, channels, rows, size, columns).transpose(0, 2, 4, 1, 3)
    pixels = np.ascontiguousarray(runs).view(np.uint8)
    return torch.from_numpy(pixels.reshape(batch * rows * columns, channels * size * size))
