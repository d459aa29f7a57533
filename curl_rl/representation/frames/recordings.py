"""Frames from recordings: `.npz` files of arrays, one or more episodes each."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curl_rl.representation.frames.base import Frames, called, numbered
from curl_rl.run.recorded import OUTCOMES, channels_first, episode_lengths, read_recording
from curl_rl.types import ConfigError

# What a frame has in each of a recording's arrays.
_ROWS = {"actions": "action", "rewards": "reward", "classes": "classes", "labels": "labels", "states": "state"}
_KINDS = {"labels": np.uint8, "classes": np.int64, "rewards": np.float32, "states": np.float32}
_NAMES = ("state_names", "class_names")


def read_recordings(paths: Sequence[Path], source: str, *, stack: int = 1, padding: str = "repeat") -> Frames:
    """Read recordings; `ends` divides a file into episodes, without it a file is one.

    Raises ConfigError for a file that is damaged, lacks frames, or holds other arrays than the others.
    """
    files = [read_recording(path) for path in paths]
    held = files[0].keys() - OUTCOMES
    for path, file in zip(paths, files, strict=True):
        if odds := file.keys() - OUTCOMES ^ held:
            odd = sorted(odds)[0]
            raise ConfigError(f"{path} and {paths[0]} differ in having {odd}: record all alike")
    images = [channels_first(file["frames"], path) for path, file in zip(paths, files, strict=True)]
    rows: dict[str, Any] = {_ROWS[name]: _joined(name, files, paths) for name in _ROWS if name in held}
    lengths = [length for file in files for length in episode_lengths(file)]
    told: dict[str, Any] = {name: [str(each) for each in files[0][name]] for name in _NAMES if name in held}
    count = [range(len(file["frames"])) for file in files]
    names = [f"{called(path, source)}#{i}" for path, numbers in zip(paths, count, strict=True) for i in numbers]
    layout = {"episode": numbered(lengths), "ordered": True, "stack": stack, "padding": padding}
    return Frames(torch.from_numpy(_stacked(images, paths)), source=source, names=names, **rows, **told, **layout)


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


def _stacked(images: Sequence[np.ndarray], paths: Sequence[Path]) -> np.ndarray:
    for path, each in zip(paths, images, strict=True):
        if each.shape[1:] != images[0].shape[1:]:
            told, other = ("x".join(map(str, one.shape[1:])) for one in (each, images[0]))
            raise ConfigError(f"{path} has frames of {told} and {paths[0]} of {other}: record all alike")
    return np.ascontiguousarray(np.concatenate(images))
