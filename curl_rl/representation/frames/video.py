"""Frames from videos, one episode a file."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from curl_rl.representation.frames.base import Frames, called, numbered
from curl_rl.representation.frames.pictures import Form
from curl_rl.types import ConfigError

SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".gif")


def read_videos(paths: Sequence[Path], source: str, *, form: Form, every: int = 1, stack: int = 1) -> Frames:
    """Read every so manieth frame of videos, in RGB unless the form says otherwise; a name is file#frame.

    Raises ConfigError for a file that is no video, or of another size than the first.
    """
    videos = [list(_frames(path, form, every)) for path in paths]
    shapes = {video[0].shape: path for video, path in zip(reversed(videos), reversed(paths), strict=True)}
    if len(shapes) > 1:
        told = ", ".join(f"{path} is {'x'.join(map(str, shape))}" for shape, path in shapes.items())
        raise ConfigError(f"videos of several sizes ({told}): give size=64, say, to make all alike")
    names = [
        f"{called(path, source)}#{i * every}"
        for path, video in zip(paths, videos, strict=True)
        for i in range(len(video))
    ]
    images = torch.from_numpy(np.stack([frame for video in videos for frame in video]))
    episode = numbered([len(video) for video in videos])
    return Frames(images, source=source, episode=episode, ordered=True, names=names, stack=stack)


def _frames(path: Path, form: Form, every: int) -> Iterator[np.ndarray]:
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ConfigError(f"{path} holds no picture: give a video")
            count = 0
            for frame in container.decode(video=0):
                if count % every == 0:
                    yield form.of_array(frame.to_ndarray(format="rgb24"))
                count += 1
    except FFmpegError as error:
        raise ConfigError(f"{path} cannot be read as a video ({error.strerror}): give a whole one") from None
    if not count:
        raise ConfigError(f"{path} holds no frame: give a video with some")
