"""Reads a recording: an `.npz` file of arrays, one or more episodes."""

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from curl_rl.types import ConfigError

# What a file may hold beside `frames` (N, C, H, W) or (N, H, W, C) uint8, a row for each frame: `actions` (N or N - 1,
# A) floats or (N or N - 1,) whole numbers, each from its frame to the next, as are `rewards` (N or N - 1,); `classes`
# (N,) whole numbers, `labels` (N, s, s) uint8, `states` (N, Q).
_ROWS = ("actions", "rewards", "classes", "labels", "states")
_OTHERS = ("state_names", "class_names")
OUTCOMES = {"terminated", "life_lost"}  # (N,): whether no future follows a frame, or a life was lost on the way to it
_MARKS = ("ends", "terminated", "life_lost")  # ends (N,): whether an episode's last frame
_NUMBERS = {"rewards", "classes", *_MARKS}  # one a row
_MOST_CHANNELS = 16


def read_recording(path: Path) -> Mapping[str, np.ndarray]:
    """Return a recording's arrays. Raises ConfigError for a file that is damaged, lacks frames, or holds others."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except Exception as error:  # a damaged file raises almost anything
        told = str(error).partition("\n")[0]
        raise ConfigError(f"{path} cannot be read ({told}): record it again, without pickled objects") from None
    known = ["frames", *_MARKS, *_ROWS, *_OTHERS]
    odd = sorted(found.keys() - set(known))
    if "frames" not in found or odd:
        fault = f"holds {', '.join(odd)}" if "frames" in found else "has no frames"
        raise ConfigError(f"{path} {fault}: a recording holds frames, and may hold {', '.join(known[1:])}")
    for name in [name for name in (*_ROWS, *_MARKS) if name in found]:
        _check_rows(path, name, found[name], len(found["frames"]))
    return found


def _check_rows(path: Path, name: str, rows: np.ndarray, count: int) -> None:
    fewer, number = name in ("actions", "rewards"), name in _NUMBERS
    if rows.ndim == 0 or (number and rows.ndim > 1):
        raise ConfigError(f"{path} has {name} of shape {rows.shape}: give one {'number' if number else 'row'} each")
    if len(rows) != count and not (fewer and len(rows) == count - 1):
        raise ConfigError(f"{path} has {len(rows):,} {name} for {count:,} frames: give one each")
    if rows.dtype.kind not in "buif" or (name in ("classes", "labels", *_MARKS) and rows.dtype.kind == "f"):
        raise ConfigError(f"{path} has {name} of type {rows.dtype}: give whole numbers" + " or floats" * fewer)


def episode_lengths(file: Mapping[str, np.ndarray]) -> list[int]:
    """Return the number of frames of each of a recording's episodes."""
    count = len(file["frames"])
    if "ends" not in file:
        return [count]
    ends = [int(end) + 1 for end in np.flatnonzero(file["ends"])]
    stops = ends if ends[-1:] == [count] else [*ends, count]
    return [stop - start for start, stop in itertools.pairwise([0, *stops])]


def channels_first(frames: np.ndarray, path: Path) -> np.ndarray:
    """Return a recording's frames as (N, C, H, W). Raises ConfigError for what is none."""
    if frames.dtype != np.uint8 or frames.ndim not in (3, 4) or not len(frames):
        raise ConfigError(f"{path} has frames {frames.shape} {frames.dtype}: give (N, C, H, W) or (N, H, W, C) uint8")
    if frames.ndim == 3:
        return frames[:, None]
    last, first = frames.shape[3], frames.shape[1]
    return frames.transpose(0, 3, 1, 2) if last <= _MOST_CHANNELS and last < first else frames
