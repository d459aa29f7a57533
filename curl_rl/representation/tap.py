"""Any network as an encoder: its forward pass stopped at one of its layers."""

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from curl_rl.nn.encoders import Encoder
from curl_rl.run.folder import weights_hash
from curl_rl.types import ConfigError

Prepare = Callable[[Tensor], Tensor]


class Tap(Encoder):
    """Frames (B, C, H, W) uint8 to what one layer of a network gives, flattened: (B, feature_dim) float32.

        encoder = Tap(MyPolicy(), layer="trunk.4")

    Where the layer gives (B, c, h, w), that is the map of objectives that read one. The network is trained in place:
    what comes after the layer is not run and keeps every bit.

    Args:
        net: takes one tensor of images.
        layer: a name as in `net.named_modules()`, or a number as in `list(net.children())[-2]`; without it what the
            network itself gives.
        prepare: makes the network's input of frames; without it they become floats in [0, 1].

    Its attribute `bf16` runs the network under autocast to bfloat16.

    Raises ConfigError, with the nearest names, for a layer that is not there.
    """

    def __init__(self, net: nn.Module, *, layer: str | int = "", prepare: Prepare | None = None):
        nn.Module.__init__(self)
        if not isinstance(net, nn.Module):
            raise ConfigError(f"{title(net)} is no network: give a torch.nn.Module")
        self.net, self.layer, self.bf16 = net, _name(net, layer), False
        self.prepare = prepare or _unit
        self.head = nn.Flatten()
        self.obs_shape = self.conv_shape = ()
        self.feature_dim = 0

    @property
    def config(self) -> dict[str, Any]:
        """What a folder says of it; the network itself must be given again to load it."""
        kind, prepare = type(self.net), "" if self.prepare is _unit else title(self.prepare)
        return {"name": "tap", "layer": self.layer, "network": f"{kind.__module__}:{title(kind)}", "prepare": prepare}

    @property
    def convs(self) -> nn.Module:
        return self.net

    @property
    def cells(self) -> None:
        """Where the map's cells look is not known; objectives divide the image evenly."""

    def see(self, obs_shape: tuple[int, ...]) -> "Tap":
        """Learn the shapes by a run on a blank observation (C, H, W), which changes nothing, and return itself.

        Raises ConfigError where the network cannot take it, or the layer gives no batch of numbers.
        """
        parameter = next(self.net.parameters(), torch.empty(0))
        blank = torch.zeros((2, *obs_shape), dtype=torch.uint8, device=parameter.device)
        with evaluating(self.net), torch.no_grad():
            try:
                given = self.map(self.scale(blank))
            except ConfigError:
                raise
            except Exception as error:  # of the user's own network
                told = str(error).partition("\n")[0]
                raise ConfigError(
                    f"{type(self.net).__name__} cannot take images {tuple(obs_shape)} ({told}): give frames of its "
                    "size and channels, or Tap(net, prepare=...) that makes its input of them"
                ) from error
        if given.dim() < 2 or len(given) != len(blank):
            raise ConfigError(
                f"{self._told} gives {tuple(given.shape)} for {len(blank)} images: tap one with a row each"
            )
        self.obs_shape, self.conv_shape = tuple(obs_shape), tuple(given.shape[1:])
        self.feature_dim = given[0].numel()
        return self

    def scale(self, obs: Tensor) -> Tensor:
        """Return the network's input of frames (B, C, H, W) uint8."""
        return self.prepare(obs)

    def map(self, images: Tensor) -> Tensor:
        """Return what the layer gives for the network's input, in float32; what comes after it is not run."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            given = self._run(images)
        if not isinstance(given, Tensor) or not given.is_floating_point():
            kind = str(given.dtype) if isinstance(given, Tensor) else type(given).__name__
            raise ConfigError(f"{self._told} gives {kind}: tap one that gives a tensor of floats")
        return given.float()

    def _run(self, images: Tensor) -> Any:
        if not self.layer:
            return self.net(images)

        def stop(_module: nn.Module, _inputs: Any, given: Any) -> NoReturn:
            raise _ReachedError(given)

        hook = self.net.get_submodule(self.layer).register_forward_hook(stop)
        try:
            self.net(images)
        except _ReachedError as reached:
            return reached.given
        finally:
            hook.remove()
        raise ConfigError(f"{self._told} is not run by its forward pass: tap one that is")

    @property
    def _told(self) -> str:
        return f"layer {self.layer!r} of {type(self.net).__name__}" if self.layer else type(self.net).__name__


class _ReachedError(Exception):
    """Carries what a layer gave out of a forward pass."""

    def __init__(self, given: Any):
        self.given = given


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode inside; put each of its parts back as it was, and its buffers."""
    before = {part: part.training for part in module.modules()}
    buffers = [(part, key, buffer, buffer.clone()) for part in before for key, buffer in _buffers(part)]
    try:
        module.eval()
        yield
    finally:
        for part, training in before.items():
            part.training = training
        with torch.no_grad():
            for part, key, buffer, content in buffers:  # a network of one's own may move them in eval mode too
                setattr(part, key, buffer.copy_(content))


def _buffers(part: nn.Module) -> list[tuple[str, Tensor]]:
    return list(part.named_buffers(recurse=False))


@contextmanager
def unchanged(module: nn.Module, name: str) -> Iterator[None]:
    """Raise ConfigError after what is done inside unless each weight and buffer is as it was before."""
    before = weights_hash(module)
    yield
    if weights_hash(module) != before:
        raise ConfigError(f"{name} was to stay as it is and has changed: its own forward pass moves its weights")


def title(made: Any) -> str:
    """Return what a function, a class, or an object by its class, is called."""
    return getattr(made, "__qualname__", type(made).__qualname__)


def _unit(obs: Tensor) -> Tensor:
    return obs.float() / 255


def _name(net: nn.Module, layer: str | int) -> str:
    """Return a layer's name. Raises ConfigError where there is none such."""
    if isinstance(layer, str):
        names = [name for name, _ in net.named_modules()]
        if layer not in names:
            near = difflib.get_close_matches(layer, names, 3, 0.4) or [name for name in names if name][:8]
            raise ConfigError(
                f"{type(net).__name__} has no layer {layer!r}; there are, among others, {', '.join(near)}"
            )
        return layer
    names = [name for name, _ in net.named_children()]
    if not isinstance(layer, int):
        raise ConfigError(f"layer={layer!r} is neither a name nor a whole number: give one of {', '.join(names)}")
    if not -len(names) <= layer < len(names):
        raise ConfigError(f"{type(net).__name__} has {len(names)} children, no number {layer}: {', '.join(names)}")
    return names[layer]
