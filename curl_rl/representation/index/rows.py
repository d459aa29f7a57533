"""What an index knows of each frame beside its embedding: one row of a CSV file."""

import csv
import io
import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from curl_rl.representation.frames import Frames
from curl_rl.run.files import csv_text

COLUMNS = ("name", "source", "episode", "step", "return", "class")


class Rows(NamedTuple):
    """Columns, one entry for each frame."""

    names: list[str]
    sources: list[str]
    episodes: np.ndarray  # (N,) int64, of one source apart from each other's
    steps: np.ndarray  # (N,) int64, from the episode's first frame
    returns: np.ndarray  # (N,) float64, undiscounted, from the frame to its episode's end; NaN without rewards
    classes: list[str]  # "" where unknown

    @classmethod
    def of(cls, frames: Frames) -> Self:
        """Return what frames tell of themselves."""
        numbers, episodes = range(len(frames)), frames.episodes.numpy()
        known = [""] * len(frames)
        if frames.classes is not None:
            known = [frames.class_name(each) if each >= 0 else "" for each in frames.classes.tolist()]
        begins = np.flatnonzero(np.diff(episodes, prepend=episodes[0] - 1))
        lengths = np.diff(begins, append=len(episodes))
        steps = np.arange(len(episodes)) - np.repeat(begins, lengths)
        names = [frames.name(each) for each in numbers]
        return cls(names, [frames.source] * len(frames), episodes, steps, _returns(frames, begins, lengths), known)

    def to_csv(self) -> str:
        """Return a CSV file of all, which `from_csv` reads."""
        return csv_text([COLUMNS, *map(self.told, range(len(self.names)))])

    def told(self, number: int) -> tuple[str | int, ...]:
        """Return what is known of one frame, in the order of `COLUMNS`; nothing where it is not."""
        after = "" if math.isnan(self.returns[number]) else repr(float(self.returns[number]))
        place = int(self.episodes[number]), int(self.steps[number])
        return self.names[number], self.sources[number], *place, after, self.classes[number]

    @classmethod
    def from_csv(cls, text: str) -> Self:
        """Read what `to_csv` wrote. Raises ValueError for anything else."""
        header, *rows = csv.reader(io.StringIO(text), strict=True)
        if tuple(header) != COLUMNS or not rows:
            raise ValueError(f"its columns are not {','.join(COLUMNS)}")
        names, sources, episodes, steps, returns, classes = map(list, zip(*rows, strict=True))
        places, taken = np.array(episodes, np.int64), np.array(steps, np.int64)
        return cls(names, sources, places, taken, np.array([float(each or "nan") for each in returns]), classes)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return parts one after another; the episodes of each get numbers of their own."""
        episodes, following = [], 0
        for part in parts:
            episodes.append(part.episodes + following)
            following = int(episodes[-1].max()) + 1
        names, sources, classes = (
            [each for part in parts for each in getattr(part, column)] for column in ("names", "sources", "classes")
        )
        steps, returns = (np.concatenate([getattr(part, column) for part in parts]) for column in ("steps", "returns"))
        return cls(names, sources, np.concatenate(episodes), steps, returns, classes)


def _returns(frames: Frames, begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the sum of rewards from each frame to its episode's end; no step leads out of the last frame."""
    if frames.reward is None:
        return np.full(len(frames), np.nan)
    reward = frames.reward.double().numpy().copy()
    reward[begins + lengths - 1] = 0
    total = reward[::-1].cumsum()[::-1]
    after = np.append(total, 0)[begins + lengths]
    return total - np.repeat(after, lengths)
