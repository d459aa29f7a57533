"""What every encoder is: raw uint8 frames in, features out; scaling happens here and nowhere else."""

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from curl_rl.nn.networks import Initialisation, initialise
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
        self.obs_shape = tuple(obs_shape)
        self.bf16 = bf16
        self.convs: Any = self.layers(config)
        self.conv_shape = self._dry_run(config.name)
        self.feature_dim: int = getattr(config, "feature_dim", torch.Size(self.conv_shape).numel())
        self.head = self.make_head()
        initialise(self, self.init)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def layers(self, config: Any) -> nn.Module:
        raise TypeError(f"{type(self).__name__} gives no layers")

    def make_head(self) -> nn.Module:
        """Build a fresh head on the convolutional map; the actor owns one of its own."""
        width = torch.Size(self.conv_shape).numel()
        return nn.Sequential(nn.Flatten(), nn.Linear(width, self.feature_dim), nn.LayerNorm(self.feature_dim))

    def scale(self, obs: Tensor) -> Tensor:
        """Return uint8 images (B, C, H, W) in [0, 1], float32 and channels last."""
        if obs.device.type != "cpu":
            return obs.to(torch.float32, memory_format=torch.channels_last, copy=True).div_(255)
        # On a CPU a product with the identity moves the channels last in half of the copy's time, and is exact.
        batch, channels, height, width = obs.shape
        pixels = obs.reshape(batch, channels, -1).float().transpose(1, 2)
        pixels = torch.matmul(pixels, torch.eye(channels)).div_(255)
        return pixels.view(batch, height, width, channels).permute(0, 3, 1, 2)

    def map(self, images: Tensor) -> Tensor:
        """Return the convolutional map (B, c, h, w) of scaled images, in float32."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=False):
            return self.convs(images).float()

    def conv(self, obs: Tensor) -> Tensor:
        """Return the convolutional map (B, c, h, w) of raw frames, in float32."""
        return self.map(self.scale(obs))

    def forward(self, obs: Tensor) -> Tensor:
        return self.head(self.conv(obs))

    @property
    def cells(self) -> tuple[float, float]:
        """Where the map's cells look: the middle of the first one's view and the way to the next, in pixels."""
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


class FlatEncoder(Encoder):
    """An encoder whose features are its convolutional map; PyTorch's own initialisation, as in the original."""

    init = "default"

    def make_head(self) -> nn.Module:
        return nn.Flatten()


def conv_stack(channels: int, specs: list[tuple[int, int, int]]) -> nn.Sequential:
    """Build convolutions with ReLU from (filters, kernel, stride) triples."""
    layers: list[nn.Module] = []
    for filters, kernel, stride in specs:
        layers += [nn.Conv2d(channels, filters, kernel, stride), nn.ReLU()]
        channels = filters
    return nn.Sequential(*layers)
