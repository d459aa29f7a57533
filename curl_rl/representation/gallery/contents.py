"""What a gallery shows of an index: which frames, where on the map, and what is known of each."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curl_rl.nn.clustering import k_means, nearest
from curl_rl.options import check, option
from curl_rl.representation.gallery.maps import MAPS
from curl_rl.representation.index import FrameIndex
from curl_rl.types import ConfigError

Values = Sequence[float | str] | np.ndarray | Tensor


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """How an index is shown."""

    map: str = option("pca", "what gives embeddings their places", one_of=tuple(MAPS))
    clusters: int = option(8, "of k-means, a colour each; 0 for none", at_least=0, at_most=1000)
    most: int = option(20_000, "frames on the map; of more, evenly chosen ones", at_least=1, at_most=200_000)
    neighbours: int = option(12, "of each frame, shown beside it", at_least=1, at_most=100)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Column:
    """What is known of every frame in one respect: a number, or one of some names."""

    name: str
    values: np.ndarray  # (N,) float32, NaN where unknown; of names int32, -1 where unknown
    names: tuple[str, ...] | None = None

    @property
    def varies(self) -> bool:
        """Whether it tells frames apart."""
        known = self.values[self.values >= 0] if self.names is not None else self.values[~np.isnan(self.values)]
        return len(known) > 0 and bool(len(known) < len(self.values) or known.min() < known.max())

    @property
    def known(self) -> bool:
        """Whether it says anything of any frame."""
        return bool((self.values >= 0).any() if self.names is not None else not np.isnan(self.values).all())

    def told(self, number: int) -> str | float | None:
        """Return what is known of a frame."""
        value = self.values[number].item()
        if self.names is not None:
            return self.names[value] if value >= 0 else None
        return None if math.isnan(value) else value


class Contents:
    """Frames of an index on a map.

    Args:
        columns: by name, a number or a text ("" where unknown) for each frame of the index; before what the index
            knows, and in the place of what has the same name there.

    Raises ConfigError for columns of another length.
    """

    def __init__(self, index: FrameIndex, look: Gallery, columns: Mapping[str, Values]):
        self.index, self.look = index, look
        if not index.embeddings.isfinite().all():
            raise ConfigError("the index holds values that are not finite: train the encoder again, index again")
        self.numbers = evenly(len(index), look.most)
        points = index.points
        self.places, self.told = MAPS[look.map](points[self.numbers])
        given = {name: _column(name, values, len(index)) for name, values in columns.items()}
        own = [each for each in _known(index) if each.name not in given]
        if look.clusters and "cluster" not in given:
            own.insert(-1, _clusters(points, self.numbers, look.clusters))
        self.columns = [*given.values(), *(each for each in own if each.known)]
        times = Counter(index.rows.names)
        self.repeated = np.array([times[name] > 1 for name in index.rows.names], np.uint8)

    def frame(self, number: int) -> dict[str, Any]:
        """Return what is known of one frame of the index, on the map or not."""
        return {
            "number": number,
            "name": self.index.rows.names[number],
            "picture": self.index.tile(number).number,
            "repeated": bool(self.repeated[number]),
            "values": [column.told(number) for column in self.columns],
        }


def evenly(count: int, most: int) -> Tensor:
    """Return at most so many of `count` numbers (n,) int64, at even distances."""
    kept = min(count, most)
    return torch.arange(kept) * count // kept


def _column(name: str, values: Values, count: int) -> Column:
    listed = values.tolist() if isinstance(values, np.ndarray | Tensor) else list(values)
    if len(listed) != count:
        raise ConfigError(f"column {name!r} has {len(listed):,} values: give one for each of {count:,} frames")
    texts = [each for each in listed if isinstance(each, str)]
    if len(texts) == len(listed):
        return _named(name, texts)
    try:
        numbers = np.array([float(each) for each in listed])
    except (TypeError, ValueError):
        raise ConfigError(f"column {name!r} has numbers beside texts: give one kind") from None
    with np.errstate(over="ignore"):
        values = numbers.astype(np.float32)
    if np.isinf(values).any():
        raise ConfigError(f"column {name!r} has values without bound in float32: give finite ones, or NaN for none")
    return Column(name, values)


def _named(name: str, texts: Sequence[str]) -> Column:
    """Return a column of names in natural order, "" where there is none."""
    names = sorted({each for each in texts if each}, key=lambda text: [_part(p) for p in re.split(r"(\d+)", text)])
    codes = {"": -1} | {each: code for code, each in enumerate(names)}
    return Column(name, np.array([codes[each] for each in texts], np.int32), tuple(names))


def _part(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdecimal() and len(text) < 20 else (-1, text)


def _known(index: FrameIndex) -> list[Column]:
    rows = index.rows
    numbers = {"return": rows.returns, "episode": rows.episodes, "step": rows.steps}
    return [
        _named("class", rows.classes),
        *(Column(name, values.astype(np.float32)) for name, values in numbers.items()),
        _named("source", rows.sources),
    ]


def _clusters(points: Tensor, shown: Tensor, count: int) -> Column:
    centres = k_means(points[shown], min(count, len(shown)), torch.Generator().manual_seed(0))[0]
    return _named("cluster", [str(each) for each in nearest(points, centres).tolist()])
