"""The frames that an index was built of, read again from where they came."""

import functools
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, tensor

from curl_rl.representation.frames import Frames, frames_of
from curl_rl.representation.index.base import FrameIndex
from curl_rl.types import ConfigError


class Sources:
    """An index's sources, each read when it is first asked for, and checked to be as it was when it was embedded."""

    def __init__(self, index: FrameIndex):
        self._index = index

    @functools.cached_property
    def frames(self) -> Sequence[Frames]:
        """Of each part of the index its frames. Raises ConfigError where they are gone or others."""
        return [self._read(part.told) for part in self._index.parts]

    def _read(self, told: dict) -> Frames:
        if told.get("some"):
            raise ConfigError(f"this index is of some frames of {told['data']} alone: index them all, or copy none")
        if not Path(told["data"]).exists():
            raise ConfigError(
                f"there is no {told['data']}: go to the folder that it was indexed from, or index it again"
            )
        frames = frames_of(told["data"], **told["arguments"])
        if f"{frames.checksum:08x}" != told["crc32"]:
            raise ConfigError(f"{told['data']} has other frames than when it was indexed: index it again")
        return frames.stacked(told["stack"])

    def file(self, number: int) -> Path | None:
        """Return the image file that a frame is, None where it is none. Raises as `frames`."""
        part, place = self._place(number)
        path = Path(self._index.parts[part].told["data"]) / self.frames[part].name(place)
        return path if path.is_file() else None

    def newest(self, number: int) -> Tensor:
        """Return a frame (C, H, W) uint8."""
        part, place = self._place(number)
        return self.frames[part].newest(tensor([place]))[0]

    def _place(self, number: int) -> tuple[int, int]:
        """Return a frame's part, and its number in it."""
        for place, part in enumerate(self._index.parts):
            if number < len(part.embeddings):
                return place, number
            number -= len(part.embeddings)
        raise IndexError(number)
