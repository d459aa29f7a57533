"""What every encoder is: raw uint8 frames in, features out; scaling happens here and nowhere else."""

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from curl_rl.nn.encoders.stack import ConvStack
from curl_rl.nn.networks import Initialisation, Stretch, initialise
from curl_rl.options import option
from curl_rl.types import ConfigError


class Encoder(nn.Module):
    """Frames (B, C, H, W) uint8 to features (B, feature_dim) float32.

    A subclass gives `layers`, and `make_head` where Linear and LayerNorm are not its head. `bf16` runs the convolutions
    in bfloat16; features leave in float32 whatever the precision.
    """

    Config: ClassVar[type]
    init: ClassVar[Initialisation] = "orthogonal"
    pixels: ClassVar[bool] = True  # or vectors (B, D) of a state

    def __init__(self, config: Any, obs_shape: tuple[int, ...], *, bf16: bool = False):
        super().__init__()
        self.config, self.obs_shape = config, tuple(obs_shape)
        self.bf16 = bf16
        self.convs: Any = self.layers(config)
        self.conv_shape = self._dry_run(config.name)
        self.feature_dim: int = getattr(config, "feature_dim", 0) or torch.Size(self.conv_shape).numel()
        self.head = self.make_head()
        initialise(self, self.init)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def fresh(self) -> Self:
        """Build another one of its kind, initialised by torch's own random numbers."""
        return type(self)(self.config, self.obs_shape, bf16=self.bf16)

    def layers(self, config: Any) -> nn.Module:
        raise TypeError(f"{type(self).__name__} gives no layers")

    def make_head(self) -> nn.Module:
        """Build a fresh head on the convolutional map; the actor owns one of its own."""
        width = torch.Size(self.conv_shape).numel()
        return nn.Sequential(nn.Flatten(), nn.Linear(width, self.feature_dim), nn.LayerNorm(self.feature_dim))

    def scale(self, obs: Tensor) -> Tensor:
        """Return what `map` takes of uint8 images (B, C, H, W): in [0, 1], for a stack on a CPU in [0, 255]."""
        if obs.device.type != "cpu":
            return obs.to(torch.float32, memory_format=torch.channels_last, copy=True).div_(255)
        # Bytes are a quarter of the memory that floats would move.
        pixels = obs.contiguous(memory_format=torch.channels_last).to(self.precision)
        return pixels if isinstance(self.convs, ConvStack) else pixels / 255

    def map(self, images: Tensor) -> Tensor:
        """Return the convolutional map (B, c, h, w) of what `scale` gave, in float32."""
        if images.device.type == "cpu" and isinstance(self.convs, ConvStack):
            return self.convs.of_pixels(images, tiled=False)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=False):
            return self.convs(images).float()

    def conv(self, obs: Tensor) -> Tensor:
        """Return the convolutional map (B, c, h, w) of raw frames, in float32."""
        return self.map(self.scale(obs))

    def forward(self, obs: Tensor) -> Tensor:
        return self.head(self.conv(obs))

    @property
    def precision(self) -> torch.dtype:
        """Of the convolutions."""
        return torch.bfloat16 if self.bf16 else torch.float32

    @property
    def cells(self) -> tuple[float, float] | None:
        """Where the map's cells look, in pixels: the middle of the first one's view and the way to the next."""
        first, step = 0.5, 1.0
        for layer in self.convs.modules():
            if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
                sizes = (layer.kernel_size, layer.stride, layer.padding)
                kernel, stride, padding = (size if isinstance(size, int) else int(size[0]) for size in sizes)
                first, step = first + step * ((kernel - 1) / 2 - padding), step * stride
        return first, step

    def _dry_run(self, name: str) -> tuple[int, ...]:
        frames, fault = torch.empty((1, *self.obs_shape), device="meta"), ""
        try:
            shape = tuple(copy.deepcopy(self.convs).to("meta")(frames).shape[1:])
        except RuntimeError as error:
            shape, fault = (0,), f" ({error})"
        if 0 in shape:
            raise ConfigError(f"images {self.obs_shape} are too small for encoder={name}: enlarge them{fault}")
        return shape


class TiledEncoder(Encoder):
    """An encoder whose first convolution's windows do not overlap: on a CPU tiles are channels, and it is 1x1."""

    def scale(self, obs: Tensor) -> Tensor:
        """Return on a CPU the tiles (B, ..., C * size * size) that the map will need, 0 to 255; else as elsewhere."""
        if obs.device.type != "cpu":
            return super().scale(obs)
        size, padding = self.convs[0].kernel_size[0], self.convs[0].padding[0]
        padded = nn.functional.pad(obs, [padding] * 4) if padding else obs
        return cut_tiles(padded, size, self.tiles, self.runs).to(self.precision)

    @cached_property
    def runs(self) -> np.ndarray:
        """Return which runs of `size` pixels, counted through an image, make each tile: (..., C * size)."""
        (rows, columns), (channels, size) = self.tiles, self.convs[0].weight.shape[1:3]
        places = np.arange(channels * rows * size * columns).reshape(channels, rows, size, columns)
        return self.arrange(places.transpose(1, 3, 0, 2).reshape(rows, columns, channels * size))

    def arrange(self, tiles: np.ndarray) -> np.ndarray:
        """Return tiles (rows, columns, ...) in the order in which `map` takes them."""
        return tiles

    @cached_property
    def tiles(self) -> tuple[int, int]:
        """How many rows and columns of tiles the map depends on."""
        rows, columns = self.conv_shape[1:]
        for conv in reversed(self.convs.convolutions[1:]):
            rows, columns = ((side - 1) * conv.stride[0] + conv.kernel_size[0] for side in (rows, columns))
        return rows, columns

    def map(self, images: Tensor) -> Tensor:
        """Return the convolutional map (B, c, h, w) of what `scale` gave, in float32."""
        if images.device.type != "cpu":
            return super().map(images)
        return self.convs.of_pixels(images.permute(0, 3, 1, 2), tiled=True)


def cut_tiles(images: Tensor, size: int, tiles: tuple[int, int], runs: np.ndarray) -> Tensor:
    """Cut the first tiles out of images (B, C, H, W) uint8, (B, ..., C * size * size).

    Args: tiles, their rows and columns; runs (..., C * size), which runs of `size` pixels in them make each tile.
    """
    rows, columns = tiles
    used = np.ascontiguousarray(images.numpy()[:, :, : rows * size, : columns * size])
    # A run moves as one item: a third of the time of moving pixels.
    items = used.view(f"V{size}").reshape(len(used), -1).take(runs, axis=1)
    return torch.from_numpy(items.view(np.uint8))


@dataclass(frozen=True)
class FlatConfig:
    """What encoders whose features are their map have in common."""

    name: str = ""
    stretch: bool = option(False, "stretch each sample's features to [0, 1], as SPR and BBF do")


class FlatEncoder(Encoder):
    """An encoder whose features are its convolutional map; PyTorch's own initialisation, as in the original."""

    init = "default"

    def make_head(self) -> nn.Module:
        return flat_head(getattr(self.config, "stretch", False))


def flat_head(stretch: bool) -> nn.Module:
    """Build what makes features of a map as it is."""
    return nn.Sequential(nn.Flatten(), Stretch()) if stretch else nn.Flatten()
