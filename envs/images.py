"""Frames of any layout, size and range as square ones (C, H, W) uint8."""

import math
from typing import Any

import gymnasium as gym
import numpy as np

from curl_rl.envs.errors import EnvError
from curl_rl.envs.spaces import CHANNELS, check_declared


class SquareFrames(gym.ObservationWrapper, gym.utils.RecordConstructorArgs):
    """An environment of images, whose frames are (C, size, size) uint8.

    Images are (H, W), (H, W, C) or (C, H, W) of 1, 3 or 4 channels, of any real type. Their declared bounds become 0
    and 255. Another size is stretched to the square by averaging over area (Pillow's BOX). Raises EnvError for a space
    that is no image's, and for an observation that is not of its space or lies beyond its bounds.
    """

    def __init__(self, env: gym.Env, size: int):
        gym.utils.RecordConstructorArgs.__init__(self, size=size)
        gym.ObservationWrapper.__init__(self, env)
        self._declared: Any = env.observation_space
        self._axis = _channel_axis(self._declared)
        self._range = _range(self._declared)
        self._size = size
        shape = self._declared.shape
        channels = 1 if self._axis is None else shape[self._axis]
        self.observation_space = gym.spaces.Box(0, 255, (channels, size, size), np.uint8)

    def observation(self, observation: Any) -> np.ndarray:
        """Return one frame of one image."""
        image = check_declared(observation, self._declared)
        frame = image[None] if self._axis is None else np.moveaxis(image, self._axis, 0)
        if self._range is not None:
            frame = _spread(frame, *self._range)
        return np.array(
            frame if frame.shape[1:] == (self._size, self._size) else _resized(frame, self._size), order="C"
        )


def is_image(space: gym.Space) -> bool:
    """Return whether a space is one that `SquareFrames` takes for images."""
    try:
        _channel_axis(space)
        _range(space)
    except EnvError:
        return False
    return True


def _channel_axis(space: gym.Space) -> int | None:
    """Return which axis of an image counts channels: the last one where both could; None of a single channel."""
    shape = space.shape or ()
    if isinstance(space, gym.spaces.Box) and 0 not in shape:
        if len(shape) == 2:
            return None
        if len(shape) == 3 and shape[2] in CHANNELS:
            return 2
        if len(shape) == 3 and shape[0] in CHANNELS:
            return 0
    raise EnvError(
        f"env.obs=pixels needs images (H, W), (H, W, C) or (C, H, W) of 1, 3 or 4 channels, and the environment's "
        f"observations are {space}: set env.obs=render for what it draws, preset=state for a vector (rainbow_state "
        "where its actions are Discrete), or wrap it"
    )


def _range(space: Any) -> tuple[float, float] | None:
    """Return what is black and what is white, None where they are 0 and 255 already."""
    low, high = float(space.low.min()), float(space.high.max())
    if space.dtype == np.uint8 and (low, high) == (0, 255):
        return None
    uniform = (space.low == space.low.min()).all() and (space.high == space.high.max()).all()
    if not uniform or not np.isfinite([low, high]).all() or low >= high:
        raise EnvError(
            f"an image's values need one finite lower and one finite upper bound, and the environment's observations "
            f"are {space}: let its observation_space say what is black and what is white"
        )
    return low, high


def _spread(frame: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return an image whose bounds are 0 and 255. Raises EnvError for values beyond them by half a grey and more."""
    least, most = float(frame.min()), float(frame.max())
    if not (math.isfinite(least) and math.isfinite(most)):
        raise EnvError("the environment gave an image that is not finite: no agent can learn from it")
    rounding = (high - low) / 510
    if least < low - rounding or most > high + rounding:
        raise EnvError(
            f"the environment gave an image of values from {least:g} to {most:g}, and declares {low:g} to {high:g}: "
            "let its observation_space say what is black and what is white"
        )
    share = (np.clip(frame.astype(np.float64), low, high) - low) / (high - low)
    return np.round(share * 255).astype(np.uint8)


def _resized(frame: np.ndarray, size: int) -> np.ndarray:
    from PIL import Image

    def resized(image: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((size, size), Image.Resampling.BOX))

    if len(frame) == 3:
        return resized(frame.transpose(1, 2, 0)).transpose(2, 0, 1)
    return np.stack([resized(channel) for channel in frame])  # Pillow takes a fourth for opacity
