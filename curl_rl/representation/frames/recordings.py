"""Frames from recordings: `.npz` files of arrays, one or more episodes each."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curl_rl.representation.frames.base import Frames, called, numbered
from curl_rl.types import ConfigError

# What a file may hold beside `frames` (N, C, H, W) or (N, H, W, C) uint8, a row for each frame.
_ROWS = {
    "actions": "action",  # (N or N - 1, A) floats or (N or N - 1,) whole numbers, each from its frame to the next
    "rewards": "reward",  # (N or N - 1,)
    "classes": "classes",  # (N,) whole numbers
    "labels": "labels",  # (N, s, s) uint8
    "states": "state",  # (N, Q)
}
_KINDS = {"labels": np.uint8, "classes": np.int64, "rewards": np.float32, "states": np.float32}
_OTHERS = ("frames", "ends", "state_names", "class_names")  # ends (N,): whether an episode's last frame
_MOST_CHANNELS = 16


def read_recordings(paths: Sequence[Path], source: str, *, stack: int = 1, padding: str = "repeat") -> Frames:
    """Read recordings; `ends` divides a file into episodes, without it a file is one.

    Raises ConfigError for a file that is damaged, lacks frames, or holds other arrays than the others.
    """
    files = [_read(path) for path in paths]
    held = files[0].keys()
    for path, file in zip(paths, files, strict=True):
        if file.keys() != held:
            odd = sorted(file.keys() ^ held)[0]
            raise ConfigError(f"{path} and {paths[0]} differ in having {odd}: record all alike")
    images = [_channels_first(file["frames"], path) for path, file in zip(paths, files, strict=True)]
    rows: dict[str, Any] = {_ROWS[name]: _joined(name, files, paths) for name in _ROWS if name in held}
    lengths = [length for file in files for length in _lengths(file)]
    told: dict[str, Any] = {name: [str(each) for each in files[0][name]] for name in _OTHERS[2:] if name in held}
    count = [range(len(file["frames"])) for file in files]
    names = [f"{called(path, source)}#{i}" for path, numbers in zip(paths, count, strict=True) for i in numbers]
    layout = {"episode": numbered(lengths), "ordered": True, "stack": stack, "padding": padding}
    return Frames(torch.from_numpy(_stacked(images, paths)), source=source, names=names, **rows, **told, **layout)


def _read(path: Path) -> Mapping[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except Exception as error:  # a damaged file raises almost anything
        told = str(error).partition("\n")[0]
        raise ConfigError(f"{path} cannot be read ({told}): record it again, without pickled objects") from None
    known = [*_OTHERS, *_ROWS]
    odd = sorted(found.keys() - set(known))
    if "frames" not in found or odd:
        fault = f"holds {', '.join(odd)}" if "frames" in found else "has no frames"
        raise ConfigError(f"{path} {fault}: a recording holds frames, and may hold {', '.join(known[1:])}")
    for name in _ROWS.keys() & found.keys():
        _check_rows(path, name, found[name], len(found["frames"]))
    return found


def _check_rows(path: Path, name: str, rows: np.ndarray, count: int) -> None:
    fewer = name in ("actions", "rewards")
    if len(rows) != count and not (fewer and len(rows) == count - 1):
        raise ConfigError(f"{path} has {len(rows):,} {name} for {count:,} frames: give one each")
    if rows.dtype.kind not in "buif" or (name in ("classes", "labels") and rows.dtype.kind == "f"):
        raise ConfigError(f"{path} has {name} of type {rows.dtype}: give whole numbers" + " or floats" * fewer)


def _lengths(file: Mapping[str, np.ndarray]) -> list[int]:
    count = len(file["frames"])
    if "ends" not in file:
        return [count]
    ends = [int(end) + 1 for end in np.flatnonzero(file["ends"][:count])]
    stops = ends if ends[-1:] == [count] else [*ends, count]
    return [stop - start for start, stop in itertools.pairwise([0, *stops])]


def _joined(name: str, files: Sequence[Mapping[str, np.ndarray]], paths: Sequence[Path]) -> torch.Tensor:
    parts = []
    for file in files:
        rows = file[name]
        if len(rows) < len(file["frames"]):  # none leads out of the last frame
            rows = np.concatenate([rows, np.zeros_like(rows[:1])]) if len(rows) else np.zeros((1, *rows.shape[1:]))
        parts.append(rows.astype(_KINDS.get(name, np.float32 if rows.dtype.kind == "f" else np.int64)))
    shapes = {part.shape[1:]: path for part, path in zip(parts, paths, strict=True)}
    if len(shapes) > 1:
        raise ConfigError(
            f"{' and '.join(map(str, shapes.values()))} have {name} of different shapes: record all alike"
        )
    return torch.from_numpy(np.concatenate(parts))


def _channels_first(frames: np.ndarray, path: Path) -> np.ndarray:
    if frames.dtype != np.uint8 or frames.ndim not in (3, 4) or not len(frames):
        raise ConfigError(f"{path} has frames {frames.shape} {frames.dtype}: give (N, C, H, W) or (N, H, W, C) uint8")
    if frames.ndim == 3:
        return frames[:, None]
    last, first = frames.shape[3], frames.shape[1]
    return frames.transpose(0, 3, 1, 2) if last <= _MOST_CHANNELS and last < first else frames


def _stacked(images: Sequence[np.ndarray], paths: Sequence[Path]) -> np.ndarray:
    for path, each in zip(paths, images, strict=True):
        if each.shape[1:] != images[0].shape[1:]:
            told, other = ("x".join(map(str, one.shape[1:])) for one in (each, images[0]))
            raise ConfigError(f"{path} has frames of {told} and {paths[0]} of {other}: record all alike")
    return np.ascontiguousarray(np.concatenate(images))
