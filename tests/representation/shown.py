"""Indices of frames that tell what they are: each picture is of one colour, by the frame's number."""

import colorsys
import csv
import io
import json
import re
from base64 import b64decode
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from reach import reach

from curl_rl.nn.encoders import encoder_config, make_encoder
from curl_rl.representation.frames import Frames
from curl_rl.representation.index import FrameIndex
from curl_rl.representation.index.folder import Part
from curl_rl.representation.index.pictures import sheets
from curl_rl.representation.index.rows import Rows

SIDE, LENGTH, CLASSES = 16, 10, ("door", "key", "wall")


def colour_of(number: int) -> tuple[int, ...]:
    """Return the colour (3,) of a frame's picture."""
    return tuple(round(255 * each) for each in colorsys.hsv_to_rgb(number * 0.618 % 1, 0.8, 0.5 + number % 5 / 10))


def index_of(
    count: int, *, dim: int = 6, metric: str = "cosine", names: Sequence[str] = (), seed: int = 0, sources: int = 1
) -> FrameIndex:
    """Return an index of random embeddings around three centres, of episodes of ten frames, in as many parts."""
    rng, parts = np.random.default_rng(seed), []
    classes = np.arange(count) // LENGTH % len(CLASSES)
    points = rng.normal(size=(count, dim)) + 3 * np.eye(len(CLASSES), dim)[classes]
    names = list(names) or [f"frame {number}" for number in range(count)]
    for number, chosen in enumerate(np.array_split(np.arange(count), sources)):
        images = torch.tensor(np.array([colour_of(each) for each in chosen.tolist()]), dtype=torch.uint8)
        frames = Frames(images[:, :, None, None].expand(-1, -1, SIDE, SIDE), source=f"source {number}")
        rows = Rows(
            [names[each] for each in chosen],
            [f"source {number}"] * len(chosen),
            chosen // LENGTH - chosen[0] // LENGTH,
            chosen % LENGTH,
            np.where(chosen % 7, chosen / 4, np.nan),
            ["" if each % 5 == 0 else CLASSES[classes[each]] for each in chosen],
        )
        told = {"shape": [3, SIDE, SIDE], "stack": 1, "data": f"source {number}", "crc32": str(number)}
        embeddings = torch.tensor(points[chosen], dtype=torch.float32)
        parts.append(Part(embeddings, rows, tuple(sheets(frames)), told))
    return FrameIndex(parts, weights="none", metric=metric)


def built_index(place: Path) -> Path:
    """Write an index of 60 frames of toy/reach with its encoder, and return its folder."""
    return FrameIndex.build(make_encoder(encoder_config("small"), (3, 24, 24)), reach(3, 1)).save(place)


def data_of(page: str) -> dict:
    """Return what a page holds, its arrays decoded."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    told = json.loads(text)
    told["arrays"] = {name: unpacked(*packed) for name, packed in told["arrays"].items()}
    for column in told["columns"]:
        column["values"] = unpacked(*column["values"])
    return told


def unpacked(kind: str, text: str) -> np.ndarray:
    return np.frombuffer(b64decode(text), kind.removesuffix("Array").lower())


def column_of(told: dict, name: str) -> list:
    """Return what a page says of its frames in one respect, None where nothing."""
    (column,) = (each for each in told["columns"] if each["name"] == name)
    if column["names"] is None:
        return [None if np.isnan(value) else value for value in column["values"].tolist()]
    return [column["names"][code] if code >= 0 else None for code in column["values"].tolist()]


def table_of(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text), strict=True))
