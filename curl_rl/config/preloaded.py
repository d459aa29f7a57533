"""The recordings that a run's replay begins with, of which a configuration has to know how many frames they hold."""

import zipfile
from pathlib import Path

import numpy as np

from curl_rl.types import ConfigError


def recordings_of(path: Path) -> list[Path]:
    """Return the files of a recording or of a folder of some, in order. Raises ConfigError where there is none."""
    inside = [path] if path.is_file() else sorted(path.rglob("*.npz"))
    found = [each for each in inside if each.suffix == ".npz" and not each.name.startswith("tmp-")]
    if not found:
        raise ConfigError(
            f"replay.preload={path} has no recording: give an .npz file of curl-rl record, or a folder of some"
        )
    return found


def count_frames(path: Path) -> int:
    """Return how many frames the recordings of a path hold, by their headers alone."""
    return sum(_count(each) for each in recordings_of(path))


def _count(path: Path) -> int:
    try:
        with zipfile.ZipFile(path) as file, file.open("frames.npy") as frames:
            version = np.lib.format.read_magic(frames)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            return read(frames)[0][0]
    except (OSError, ValueError, LookupError, zipfile.BadZipFile) as error:
        raise ConfigError(f"replay.preload: {path} cannot be read ({error}): record it again") from None
