"""Pixel encoders: raw uint8 frames in, features out; scaling happens here and nowhere else."""

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curl_rl.nn.networks import Initialisation, initialise
from curl_rl.options import by_name, check, option
from curl_rl.types import ConfigError


class Encoder(nn.Module):
    """Frames (B, C, H, W) uint8 to features (B, feature_dim) float32.

    A subclass gives `layers`, and `make_head` where Linear and LayerNorm are not its head. `bf16` runs the convolutions
    in bfloat16; features leave in float32 whatever the precision.
    """

    Config: ClassVar[type]
    init: ClassVar[Initialisation] = "orthogonal"

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
        frames = torch.empty((1, *self.obs_shape), device="meta")
        try:
            shape = tuple(copy.deepcopy(self.convs).to("meta")(frames).shape[1:])
        except RuntimeError as error:
            raise ConfigError(f"images {self.obs_shape} are too small for encoder={name}: enlarge them") from error
        if 0 in shape:
            raise ConfigError(f"images {self.obs_shape} are too small for encoder={name}: enlarge them")
        return shape


def _conv_stack(channels: int, specs: list[tuple[int, int, int]]) -> nn.Sequential:
    """Build convolutions with ReLU from (filters, kernel, stride) triples."""
    layers: list[nn.Module] = []
    for filters, kernel, stride in specs:
        layers += [nn.Conv2d(channels, filters, kernel, stride), nn.ReLU()]
        channels = filters
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class PaperConfig:
    name: str = "paper"
    feature_dim: int = option(50, "width of the features", at_least=1)
    filters: int = option(32, "filters of each convolution", at_least=1)
    depth: int = option(4, "number of 3x3 convolutions; the first has stride 2", at_least=1, at_most=100)


class PaperEncoder(Encoder):
    """CURL's encoder on DeepMind Control (Laskin et al. 2020, table 3): 3x3 convolutions, Linear and LayerNorm."""

    Config = PaperConfig
    init = "delta"

    def layers(self, config: PaperConfig) -> nn.Module:
        strides = [2] + [1] * (config.depth - 1)
        return _conv_stack(self.obs_shape[0], [(config.filters, 3, stride) for stride in strides])


@dataclass(frozen=True)
class StridedConfig:
    name: str = "strided"
    feature_dim: int = option(50, "width of the features", at_least=1)
    filters: int = option(32, "filters of each convolution", at_least=1)


class StridedEncoder(Encoder):
    """A tenth of the paper's arithmetic: a 4x4 convolution of stride 4, then 3x3 of stride 2 and 1; made for CPUs."""

    Config = StridedConfig

    def layers(self, config: StridedConfig) -> nn.Module:
        f = config.filters
        return _conv_stack(self.obs_shape[0], [(f, 4, 4), (f, 3, 2), (f, 3, 1)])


@dataclass(frozen=True)
class SmallConfig:
    name: str = "small"
    feature_dim: int = option(50, "width of the features", at_least=1)
    filters: int = option(16, "filters of each convolution", at_least=1)


class SmallEncoder(Encoder):
    """Two 3x3 convolutions, the first of stride 2, for images of some thirty pixels."""

    Config = SmallConfig

    def layers(self, config: SmallConfig) -> nn.Module:
        return _conv_stack(self.obs_shape[0], [(config.filters, 3, 2), (config.filters, 3, 1)])


@dataclass(frozen=True)
class NatureConfig:
    name: str = "nature"
    feature_dim: int = option(512, "width of the features", at_least=1)


class NatureEncoder(Encoder):
    """The encoder of DQN (Mnih et al. 2015, extended data)."""

    Config = NatureConfig

    def layers(self, config: NatureConfig) -> nn.Module:
        return _conv_stack(self.obs_shape[0], [(32, 8, 4), (64, 4, 2), (64, 3, 1)])

    def make_head(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(self.conv_shape).numel(), self.feature_dim), nn.ReLU())


class _FlatEncoder(Encoder):
    """An encoder whose features are its convolutional map; PyTorch's own initialisation, as in the original."""

    init = "default"

    def make_head(self) -> nn.Module:
        return nn.Flatten()


@dataclass(frozen=True)
class DataEfficientConfig:
    name: str = "data_efficient"


class DataEfficientEncoder(_FlatEncoder):
    """The encoder of data-efficient Rainbow (van Hasselt et al. 2019, appendix E): two 5x5 convolutions of stride 5.

    Their windows do not overlap, so on a CPU they are matrix products of tiles: a sixth off an update.
    """

    Config = DataEfficientConfig

    def layers(self, config: DataEfficientConfig) -> nn.Module:
        return _conv_stack(self.obs_shape[0], [(32, 5, 5), (64, 5, 5)])

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


@dataclass(frozen=True)
class CanonicalConfig:
    name: str = "canonical"


class CanonicalEncoder(_FlatEncoder):
    """The convolutions of DQN and Rainbow (Mnih et al. 2015), their map as it is."""

    Config = CanonicalConfig

    def layers(self, config: CanonicalConfig) -> nn.Module:
        return _conv_stack(self.obs_shape[0], [(32, 8, 4), (64, 4, 2), (64, 3, 1)])


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


class ImpalaEncoder(Encoder):
    """The residual encoder of IMPALA (Espeholt et al. 2018, figure 3)."""

    Config = ImpalaConfig

    def layers(self, config: ImpalaConfig) -> nn.Module:
        layers: list[nn.Module] = []
        channels = self.obs_shape[0]
        for filters in (16 * config.width, 32 * config.width, 32 * config.width):
            layers += [nn.Conv2d(channels, filters, 3, padding=1), nn.MaxPool2d(3, 2, padding=1)]
            layers += [_Residual(filters), _Residual(filters)]
            channels = filters
        return nn.Sequential(*layers, nn.ReLU())

    def make_head(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(self.conv_shape).numel(), self.feature_dim), nn.ReLU())


@dataclass(frozen=True)
class StateConfig:
    name: str = "state"
    feature_dim: int = option(256, "width of the features", at_least=1)


class StateEncoder(Encoder):
    """State observations (B, D) float32 to features: the upper-bound control without pixels."""

    Config = StateConfig

    def layers(self, config: StateConfig) -> nn.Module:
        return nn.Identity()

    def make_head(self) -> nn.Module:
        width = self.conv_shape[0]
        return nn.Sequential(nn.Linear(width, self.feature_dim), nn.LayerNorm(self.feature_dim), nn.Tanh())

    def scale(self, obs: Tensor) -> Tensor:
        """Return the observations as they are, (B, D)."""
        return obs.float()


ENCODERS: dict[str, type[Encoder]] = by_name(
    "encoder",
    (
        PaperEncoder,
        StridedEncoder,
        SmallEncoder,
        NatureEncoder,
        DataEfficientEncoder,
        CanonicalEncoder,
        ImpalaEncoder,
        StateEncoder,
    ),
)


def encoder_config(name: str, **fields: Any) -> Any:
    """Return an encoder's configuration by name. Raises ConfigError for an unknown name, field or value."""
    if name not in ENCODERS:
        raise ConfigError(f"unknown encoder {name!r}; there are {', '.join(sorted(ENCODERS))}")
    cls = ENCODERS[name].Config
    unknown = set(fields) - {field.name for field in dataclasses.fields(cls)}
    if unknown:
        raise ConfigError(f"encoder {name!r} has no {', '.join(sorted(unknown))}")
    config = cls(name=name, **fields)
    check(config, "encoder.")
    return config


def make_encoder(config: Any, obs_shape: tuple[int, ...], *, bf16: bool = False) -> Encoder:
    """Build the encoder that a configuration names, for observations (C, H, W) or (D,)."""
    if (len(obs_shape) == 1) != (config.name == "state"):
        wanted = "encoder=state" if len(obs_shape) == 1 else "a pixel encoder"
        raise ConfigError(f"observations of shape {tuple(obs_shape)} need {wanted}, not encoder={config.name}")
    return ENCODERS[config.name](config, obs_shape, bf16=bf16)
