"""Videos of a folder, for training and for evaluation: each a file, or a folder of images."""

import functools
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from curl_rl.envs.errors import EnvError

_FILES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif", ".m4v", ".mpg", ".mpeg")
_IMAGES = (".png", ".jpg", ".jpeg")
_SPLITS = ("train", "evaluation")
SIDE = 256  # of frames, whatever their shape was: a lens of 45 degrees sees some 106 pixels of it at once
_LONGEST = 128  # frames of a video: with the eight that are kept 201 MB of a process at most


class Footage(NamedTuple):
    """One video: a file or a folder of images in the order of their names."""

    path: Path

    def frames(self) -> np.ndarray:
        """Return its first 128 frames (N, SIDE, SIDE, 3) uint8; the eight videos that were used last are kept."""
        return _decoded(self.path)

    def check(self) -> None:
        """Raise EnvError where not even a first frame can be read."""
        next(_frames(self.path))


def split_videos(folder: str, least: int, most: int | None) -> tuple[list[Footage], list[Footage]]:
    """Return the first `most` videos by name (None: all) for training, and those for evaluation.

    They are those of the subfolders train/ and evaluation/ where there are both, else the last quarter of all is for
    evaluation. Raises EnvError where there is no such folder, either has fewer than `least`, or one cannot be read.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise EnvError(f"env.distraction=video:{folder} is no folder: give one that holds videos, or folders of images")
    parts = [place / split for split in _SPLITS]
    if all(part.is_dir() for part in parts):
        found = [_videos(part) for part in parts]
    else:
        videos = _videos(place)
        count = len(videos) - -(-len(videos) // 4)
        found = [videos[:count], videos[count:]]
    if min(map(len, found)) < least:
        has = f"{len(found[0])} videos for training and {len(found[1])} for evaluation"
        raise EnvError(
            f"env.distraction=video:{folder} has {has}, and this intensity needs {least} of each: add some, sort them "
            "into its folders train and evaluation, or lower env.distraction_intensity"
        )
    train, evaluation = (videos[:most] for videos in found)
    for video in (*train, *evaluation):
        video.check()
    return train, evaluation


def _videos(folder: Path) -> list[Footage]:
    """Return a folder's videos by name; what is neither a video nor holds images is none."""
    return [Footage(path) for path in sorted(folder.iterdir()) if path.suffix.lower() in _FILES or _images(path)]


def _images(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(each for each in path.iterdir() if each.suffix.lower() in _IMAGES)


@functools.lru_cache(maxsize=8)
def _decoded(path: Path) -> np.ndarray:
    return np.stack(list(islice(_frames(path), _LONGEST)))


def _frames(path: Path) -> Iterator[np.ndarray]:
    """Yield a video's frames, resized. Raises EnvError for one that cannot be read, or has none."""
    try:
        count = 0
        for frame in _of_images(_images(path)) if path.is_dir() else _of_file(path):
            count += 1
            yield frame
    except (OSError, ValueError) as error:
        raise EnvError(f"{path} cannot be read as a video ({error}): mend it or take it out of the folder") from error
    if not count:
        raise EnvError(f"{path} has no frames: mend it or take it out of the folder")


def _of_images(paths: list[Path]) -> Iterator[np.ndarray]:
    from PIL import Image

    for path in paths:
        with Image.open(path) as image:
            image.draft("RGB", (SIDE, SIDE))  # a JPEG is decoded no larger than needed
            yield np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def _of_file(path: Path) -> Iterator[np.ndarray]:
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0) if container.streams.video else ():
                yield frame.to_ndarray(format="rgb24", width=SIDE, height=SIDE)
    except FFmpegError as error:
        raise ValueError(error.strerror) from error
