"""Which frames an update learns from: a function of its number, so that a resume repeats it."""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from curl_rl.config.pretraining import Learning
from curl_rl.representation.frames import Frames
from curl_rl.types import ConfigError


class Passes:
    """One pass over some frames after another, each in an order of its own; what fills no batch is left out."""

    def __init__(self, numbers: np.ndarray, size: int, seed: int):
        self.numbers, self._size, self._seed = numbers, size, seed
        self._pass = -1, numbers

    @property
    def epoch(self) -> int:
        """How many updates a pass takes."""
        return len(self.numbers) // self._size

    def ids(self, update: int) -> Tensor:
        """Return the frames of an update (B,) int64."""
        epoch, place = divmod(update, self.epoch)
        if self._pass[0] != epoch:
            self._pass = epoch, np.random.default_rng([self._seed, epoch]).permutation(self.numbers)
        return torch.from_numpy(self._pass[1][place * self._size : (place + 1) * self._size])


def passes(frames: Frames, settings: Learning, needs: Collection[str] = ()) -> Passes:
    """Return passes over the frames that something with such needs can learn from.

    Raises ConfigError where they fill no batch.
    """
    numbers, size = frames.usable(needs).numpy(), settings.batch_size
    if len(numbers) < size:
        raise ConfigError(
            f"batch_size={size} exceeds the {len(numbers):,} frames that can be learned from: lower it, or give more "
            "frames"
        )
    return Passes(numbers, size, settings.seed)


class Rounds:
    """Of each of some groups of frames in turn, so that all are met equally often, however large they are.

    Each pass over a group has an order of its own; a batch may hold more frames than there are.
    """

    def __init__(self, groups: Sequence[np.ndarray], size: int, seed: int):
        self._groups, self._size, self._seed = groups, size, seed

    @property
    def epoch(self) -> int:
        """How many updates show as many frames as there are."""
        return -(-sum(map(len, self._groups)) // self._size)

    def ids(self, update: int) -> Tensor:
        """Return the frames of an update (B,) int64."""
        turns = np.arange(update * self._size, (update + 1) * self._size)
        ids = np.empty(self._size, np.int64)
        for which, group in enumerate(self._groups):
            mine = turns % len(self._groups) == which
            ids[mine] = self._of(which, group, turns[mine] // len(self._groups))
        return torch.from_numpy(ids)

    def _of(self, which: int, group: np.ndarray, turns: np.ndarray) -> np.ndarray:
        passes, places = np.divmod(turns, len(group))
        orders = {each: np.random.default_rng([self._seed, which, each]).permutation(group) for each in set(passes)}
        return np.array([orders[each][place] for each, place in zip(passes, places, strict=True)], np.int64)


def rounds(frames: Frames, ids: Tensor, settings: Learning, *, balanced: bool) -> Rounds:
    """Return rounds over labelled frames (n,), where they are balanced of each class in turn."""
    classes = frames.given("classes")[ids]
    groups = [ids[classes == each] for each in classes.unique()] if balanced else [ids]
    return Rounds([group.numpy() for group in groups], settings.batch_size, settings.seed)
