"""Pictures on their way into frames: files of one size and depth, read by Pillow, the bad ones named."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from curl_rl.types import ConfigError

T = TypeVar("T")


class BadPictureError(ConfigError):
    """A picture that is damaged or unlike the others, and may be left out."""


_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_DEEP = ("I", "F")  # beginnings of the modes with more than eight bits


class Form(NamedTuple):
    """What is made of every picture: its side and its channels; 0 leaves them as they are."""

    size: int = 0
    channels: int = 0

    def of(self, picture: Any) -> np.ndarray:
        """Return a Pillow image as (C, H, W) uint8. Raises ConfigError for one of more than eight bits."""
        if picture.mode.startswith(_DEEP):
            raise BadPictureError(f"it has pixels of mode {picture.mode}, more than eight bits: save it with eight")
        wanted = _MODES.get(self.channels) or _kept_mode(picture)
        picture = picture if picture.mode == wanted else picture.convert(wanted)
        pixels = np.asarray(self._sized(picture), np.uint8)
        return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def _sized(self, picture: Any) -> Any:
        from PIL import Image

        if not self.size or picture.size == (self.size, self.size):
            return picture
        return picture.resize((self.size, self.size), Image.Resampling.BILINEAR, reducing_gap=3)

    def of_array(self, pixels: np.ndarray) -> np.ndarray:
        """Return a picture (H, W) or (H, W, C) uint8 as (C, H, W); only what Pillow knows changes its channels."""
        from PIL import Image

        pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
        if self == Form():
            return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
        if pixels.ndim == 2 or pixels.shape[2] in _MODES:
            return self.of(Image.fromarray(pixels))
        if self.channels:
            raise ConfigError(f"it has {pixels.shape[2]} channels, of which channels={self.channels} cannot be made")
        return np.stack([np.asarray(self._sized(Image.fromarray(each))) for each in pixels.transpose(2, 0, 1)])


def check_form(size: int, channels: int) -> Form:
    """Return a form. Raises ConfigError for a size or channels that no picture can have."""
    if not 0 <= size <= 4096:
        raise ConfigError(f"size must be at least 0 and at most 4096, got {size}")
    if channels and channels not in _MODES:
        raise ConfigError(f"channels must be one of 0 (as they are), {', '.join(map(str, _MODES))}, got {channels}")
    return Form(size, channels)


def _kept_mode(picture: Any) -> str:
    if picture.mode in _MODES.values():
        return picture.mode
    bare = {"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA"}
    return bare.get(picture.mode, "RGBA" if "transparency" in picture.info else "RGB")


def collect(
    items: Sequence[T],
    read: Callable[[T], np.ndarray],
    *,
    called: Callable[[T], str] = str,
    skip_bad: bool = False,
) -> tuple[Tensor, list[T]]:
    """Read pictures into one tensor (N, C, H, W) uint8; return it with the items that it is of.

    Args: called, what a message calls an item.

    Raises ConfigError, which names it, for one that cannot be read, or is of another size or depth than the first;
    with `skip_bad` such ones are left out and named on stderr; for one that is no picture at all, and where memory
    cannot hold them all.
    """
    pictures, kept, shape = list[np.ndarray](), list[T](), None
    for item in items:
        try:
            picture = read(item)
            shape = shape or picture.shape
            _check_shape(picture.shape, shape, called(kept[0] if kept else item))
        except BadPictureError as error:
            if not skip_bad:
                raise ConfigError(f"{called(item)}: {error}, or give skip_bad=true to leave it out") from None
            print(f"left out {called(item)}: {error}", file=sys.stderr)
            continue
        except ConfigError as error:
            raise ConfigError(f"{called(item)}: {error}") from None
        if not pictures:
            _check_room(len(items), picture)
        pictures.append(picture)
        kept.append(item)
    if not pictures:
        raise ConfigError("no picture is left: every one was left out")
    return torch.from_numpy(np.stack(pictures)), kept


def _check_room(count: int, picture: np.ndarray) -> None:
    """Refuse what memory cannot hold, twice: as pictures and as one tensor."""
    from curl_rl.run.memory import check_fits

    check_fits(f"{count:,} images", 2 * count * picture.nbytes, torch.device("cpu"), "size, or give fewer")


def _check_shape(shape: Sequence[int], first: Sequence[int], item: str) -> None:
    if tuple(shape) == tuple(first):
        return
    mend = "give channels=3 to make all alike" if shape[0] != first[0] else "give size=64, say, to make all alike"
    told, other = ("x".join(map(str, each)) for each in (shape, first))
    raise BadPictureError(f"it is {told} (channels, height, width) and {item} is {other}: {mend}")
