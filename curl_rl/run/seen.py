"""What an agent sees of an environment: frames in a stack, and rewards as it learns from them."""

from collections import deque
from typing import NamedTuple

import numpy as np


class Reward(NamedTuple):
    """What is learned from of a reward: scaled, then clipped to +-`bound`."""

    scale: float = 1.0
    bound: float = np.inf

    def __call__(self, reward: float) -> float:
        return float(np.clip(reward * self.scale, -self.bound, self.bound))


class FrameStack:
    """The last `size` frames as one observation; before an episode's start its first frame repeats, or blanks stand."""

    def __init__(self, size: int, padding: str):
        self.padding = padding
        self.frames: deque[np.ndarray] = deque(maxlen=size)

    def reset(self, frame: np.ndarray) -> None:
        blank = frame if self.padding == "repeat" else np.zeros_like(frame)
        self.frames.extend([blank] * (self.frames.maxlen or 1))
        self.push(frame)

    def push(self, frame: np.ndarray) -> None:
        self.frames.append(frame)

    def observation(self) -> np.ndarray:
        return np.concatenate(self.frames)
