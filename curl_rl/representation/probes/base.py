"""What every probe is: one question to frozen features, answered by numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from curl_rl.nn.encoders import Encoder
from curl_rl.options import option
from curl_rl.representation.frames.base import Frames
from curl_rl.representation.looking import device_of
from curl_rl.representation.tap import evaluating

LAYERS = ("features", "map")
_SIDE = 21  # of the images that stand for pixels
_AT_ONCE = 256
_MOST = 4096  # numbers of a map; a larger one's cells are averaged
Look = Callable[[Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True)
class ProbeConfig:
    """What every probe's options have in common."""

    name: str = ""


@dataclass(frozen=True)
class SplitConfig(ProbeConfig):
    """Options of a probe that leaves episodes out."""

    share: float = option(0.25, "of the episodes that are left out", above=0, below=1)


def labelled(frames: Frames, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return the frames of known classes that a probe may look at, and those of the episodes left out."""
    first, second = (part[frames.known[part]] for part in frames.split(share, seed=seed))
    return first, second


class Subject:
    """What is probed: a name, and what it makes of frames, layer by layer; each layer is computed once.

    Args: look, takes observations (B, k*C, H, W) uint8 and gives a batch for each of its layers.
    """

    def __init__(self, name: str, look: Look, frames: Frames):
        self.name, self.look, self.frames = name, look, frames
        self._seen: dict[str, Tensor] = {}

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(self._all())

    def of(self, layer: str) -> Tensor:
        """Return a layer's output for all frames, (N, ...) float32 on the CPU."""
        return self._all()[layer]

    def vectors(self, layer: str) -> Tensor:
        """Return a layer's output as vectors (N, d), a map of many numbers with its neighbouring cells averaged."""
        given = self.of(layer)
        if given.dim() == 4 and given[0].numel() > _MOST:
            given = F.adaptive_avg_pool2d(given, max(1, int((_MOST / given.shape[1]) ** 0.5)))
        return given.flatten(1)

    def _all(self) -> dict[str, Tensor]:
        if not self._seen:
            parts = [self.look(self.frames.obs(ids)) for ids in torch.arange(len(self.frames)).split(_AT_ONCE)]
            self._seen = {layer: torch.cat([part[layer].cpu() for part in parts]) for layer in parts[0]}
        return self._seen


class Probe:
    """A question to what a subject makes of frames. A subclass names its options as `Config`, and is found by its name.

    `needs` says what the frames must give, of classes, labels and states; `layers` at which it looks: two that hold the
    same numbers are measured once.
    """

    Config: ClassVar[type[ProbeConfig]]
    needs: ClassVar[frozenset[str]] = frozenset()
    layers: ClassVar[tuple[str, ...]] = ("features",)

    def __init__(self, config: Any):
        self.config = config

    def check(self, frames: Frames) -> None:
        """Raise ConfigError for frames of which this cannot be asked."""

    def measure(self, subject: Subject, layer: str, seed: int) -> dict[str, float]:
        """Return quantities by their names; the seed decides every draw."""
        raise TypeError(f"{type(self).__name__} measures nothing")


def look_through(encoder: Encoder, whole: Callable[[Tensor], Tensor]) -> Look:
    """Return what shows an encoder's features, and its map where that is another thing.

    Args: whole, makes of observations what the encoder sees of them.
    """

    @torch.no_grad()
    def look(obs: Tensor) -> dict[str, Tensor]:
        device = device_of(encoder)
        with evaluating(encoder):
            seen = encoder.conv(whole(obs).to(device))
            features = encoder.head(seen)
        same = features.shape[1:].numel() == seen.shape[1:].numel()
        return {"features": features} if same and seen.dim() < 4 else {"features": features, "map": seen}

    return look


def shrunk(obs: Tensor) -> dict[str, Tensor]:
    """Return the images' means over 21x21 areas, what pixels alone tell."""
    return {"features": F.adaptive_avg_pool2d(obs.float(), _SIDE).flatten(1)}
