"""Films of episodes as files that people can watch, in the format that their name says."""

import importlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from curl_rl.run.files import check_folder, check_target, replacing, writing
from curl_rl.types import ConfigError

_SIDE = 256  # pixels of a film's smaller side, at least
_GIF_PICTURES = 512  # at most, since all of them are kept until the end: of a longer episode every second, fourth, ...
_GIF_HUNDREDTHS = 2  # of a second for a picture: browsers slow down anything faster


class Camera(Protocol):
    """What takes the pictures of an episode."""

    def add(self, picture: Callable[[], np.ndarray], /) -> None:
        """Take the next step's picture (H, W, 3) uint8, or do not ask for it."""
        ...


class Film:
    """Pictures (H, W, 3) of an episode: all, or between half of `limit` and `limit` of them, `stride` steps apart."""

    def __init__(self, limit: int | None = None):
        self.frames: list[np.ndarray] = []
        self.stride = 1
        self._limit, self._seen = limit, 0

    def add(self, picture: Callable[[], np.ndarray]) -> None:
        """Take the next step's picture, if it is one to keep."""
        if self._seen % self.stride == 0:
            self.frames.append(picture())
            if len(self.frames) == self._limit:
                self.frames, self.stride = self.frames[::2], 2 * self.stride
        self._seen += 1


class Mp4:
    """A film in H.264, each picture written as it comes; small ones are enlarged so that people can see them."""

    def __init__(self, path: Path, fps: float):
        try:
            self._av: Any = importlib.import_module("av")
        except ImportError as error:
            raise ConfigError("a film as .mp4 needs PyAV: pip install 'av>=18,<19', or name a .gif") from error
        self._path, self._rate = path, Fraction(fps).limit_denominator(1000)
        self._stream: Any = None  # of the first picture's size
        with writing(path):
            self._container = self._av.open(str(path), "w", format="mp4")

    def add(self, picture: Callable[[], np.ndarray]) -> None:
        """Write a picture (H, W, 3) uint8, all of one size."""
        image = picture()
        check_frames(image[None])
        scale = _scale(*image.shape[:2])
        image = np.ascontiguousarray(image.repeat(scale, 0).repeat(scale, 1))
        with writing(self._path):
            if self._stream is None:
                size = {"height": image.shape[0], "width": image.shape[1]}
                self._stream = self._container.add_stream("libx264", rate=self._rate, pix_fmt="yuv420p", **size)
            self._container.mux(self._stream.encode(self._av.VideoFrame.from_ndarray(image, format="rgb24")))

    def finish(self) -> None:
        if self._stream is None:
            raise ValueError("a film has at least one picture")
        with writing(self._path):
            self._container.mux(self._stream.encode(None))
            self._container.close()

    def abandon(self) -> None:
        with suppress(OSError):  # what made the film end here matters more
            self._container.close()


class Gif(Film):
    """A moving image of at most 512 pictures, evenly spaced over the episode."""

    def __init__(self, path: Path, fps: float):
        super().__init__(limit=_GIF_PICTURES)
        self._path, self._fps = path, fps
        with writing(path):
            path.touch()

    def finish(self) -> None:
        from PIL import Image

        frames = np.stack(self.frames)
        check_frames(frames)
        scale = _scale(*frames.shape[1:3])
        size = frames.shape[2] * scale, frames.shape[1] * scale
        images = (Image.fromarray(frame).resize(size, Image.Resampling.NEAREST) for frame in frames)
        duration = 10 * max(_GIF_HUNDREDTHS, round(100 * self.stride / self._fps))  # the format knows no less
        with writing(self._path):
            next(images).save(self._path, "GIF", save_all=True, append_images=images, duration=duration, loop=0)

    def abandon(self) -> None: ...


FORMATS: dict[str, type[Mp4] | type[Gif]] = {".mp4": Mp4, ".gif": Gif}


def check_film(path: Path) -> None:
    """Raise ConfigError for a name of no format of films, WriteError where no film can take its place."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"no film can be written as {path}: give a name that ends in {' or '.join(FORMATS)}")
    check_folder(path.parent)
    check_target(path)


@contextmanager
def filming(path: Path, fps: float) -> Iterator[Camera]:
    """Give a film to add pictures to, which becomes `path` at the end; of one that fails nothing is left.

    Raises ConfigError and WriteError, before the first picture where it can be known.
    """
    check_film(path)
    with replacing(path) as (temporary,):
        film = FORMATS[path.suffix.lower()](temporary, fps)
        try:
            yield film
            film.finish()
        except BaseException:
            film.abandon()
            raise


def check_frames(frames: np.ndarray) -> None:
    """Raise ValueError for anything but frames (T, H, W, 3) uint8, at least one."""
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise ValueError(f"expected frames (T, H, W, 3) uint8, got {frames.shape} {frames.dtype}")


def _scale(height: int, width: int) -> int:
    """Return the smallest whole factor that makes both sides even (yuv420p needs it) and the smaller one visible."""
    scale = math.ceil(_SIDE / min(height, width))
    return scale if height * scale % 2 == 0 and width * scale % 2 == 0 else scale + 1
