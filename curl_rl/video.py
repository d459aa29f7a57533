"""Films of episodes as files that people can watch."""

import importlib
import math
from fractions import Fraction
from pathlib import Path

import numpy as np

from curl_rl.files import replacing

_SIDE = 256  # pixels of a film's smaller side, at least


def write_mp4(path: Path, frames: np.ndarray, fps: float) -> None:
    """Write frames (T, H, W, 3) uint8 as H.264, small ones enlarged so that people can see them."""
    try:
        av = importlib.import_module("av")
    except ImportError as error:
        raise RuntimeError("writing a video needs PyAV: pip install 'av>=18,<19'") from error
    check_frames(frames)
    scale = _scale(*frames.shape[1:3])
    size = {"height": frames.shape[1] * scale, "width": frames.shape[2] * scale}
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(1000)
        stream = container.add_stream("libx264", rate=rate, pix_fmt="yuv420p", **size)
        for frame in frames:
            image = np.ascontiguousarray(frame.repeat(scale, 0).repeat(scale, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def check_frames(frames: np.ndarray) -> None:
    """Raise ValueError for anything but frames (T, H, W, 3) uint8, at least one."""
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise ValueError(f"expected frames (T, H, W, 3) uint8, got {frames.shape} {frames.dtype}")


def _scale(height: int, width: int) -> int:
    """Return the smallest whole factor that makes both sides even (yuv420p needs it) and the smaller one visible."""
    scale = math.ceil(_SIDE / min(height, width))
    return scale if height * scale % 2 == 0 and width * scale % 2 == 0 else scale + 1
