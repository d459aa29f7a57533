"""An index of frames: what an encoder makes of them, searched by what is alike."""

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from curl_rl.nn.encoders import Encoder
from curl_rl.representation.export import (
    ExportedEncoder,
    copy_encoder,
    describe_encoder,
    load_encoder,
    read_description,
    save_encoder,
)
from curl_rl.representation.frames import Frames, frames_of
from curl_rl.representation.frames.images import check_names, spelled
from curl_rl.representation.index import folder
from curl_rl.representation.index.approximate import EXACT_UP_TO, approximate
from curl_rl.representation.index.exact import METRICS, Exact
from curl_rl.representation.index.folder import ENCODER, IndexFolderError, Part
from curl_rl.representation.index.pictures import Tile, read_pictures, sheets, side_of
from curl_rl.representation.index.rows import Rows
from curl_rl.representation.looking import as_seen, embed, exported
from curl_rl.run.folder import weights_hash
from curl_rl.types import ConfigError


class Hits(NamedTuple):
    """What a search found, the nearest first."""

    ids: Tensor  # (count,) int64, or (Q, count) of several queries; -1 where there are fewer
    similarity: Tensor  # alike: cosines, or Euclidean distances; NaN where there are fewer


class FrameIndex:
    """Embeddings of frames, searched exactly by cosine or Euclidean distance; past a million by faiss, if it is there.

        index = FrameIndex.build(load_encoder("enc"), frames_of("runs/x"))
        ids, similarity = index.search(frame, count=10)

    Args:
        parts: of each source its embeddings, rows and pictures, in the order of the frames' numbers.
        weights: the hash of the encoder's weights and buffers, which alone may embed queries.
        encoder: what embeds queries and further frames; without it only frames of the index can be queries.
        metric: "cosine" or "euclidean".
        origin: the encoder's folder, to be copied beside; unless given the encoder is written as it is.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        weights: str,
        encoder: ExportedEncoder | None = None,
        metric: str = "cosine",
        origin: Path | None = None,
    ):
        if metric not in METRICS:
            raise ConfigError(f"metric={metric!r} is none of {', '.join(METRICS)}")
        self.parts, self.weights, self.encoder, self.metric, self.origin = list(parts), weights, encoder, metric, origin
        self._join()

    def _join(self) -> None:
        self.embeddings = torch.cat([part.embeddings for part in self.parts])
        self.rows = Rows.joined([part.rows for part in self.parts])
        self.episodes = torch.from_numpy(self.rows.episodes)
        for kept in ("classes", "sheets", "_exact", "_numbers", "_searcher"):
            self.__dict__.pop(kept, None)

    @classmethod
    def build(
        cls,
        encoder: str | Path | ExportedEncoder | Encoder,
        frames: Any,
        *,
        metric: str = "cosine",
        done: Callable[[int], None] = lambda count: None,
        **arguments: Any,
    ) -> Self:
        """Embed frames.

        Args: encoder, a folder, or what `load_encoder` gave, or an encoder or `Tap`; frames and arguments, what
        `frames_of` takes; done, is told how many frames are embedded.

        Raises ConfigError for frames that the encoder does not take, and for features that are not finite.
        """
        origin = Path(encoder) if isinstance(encoder, str | Path) else None
        module = load_encoder(encoder) if isinstance(encoder, str | Path) else exported(encoder)
        part = _part(module, frames, done, arguments)
        return cls([part], weights=weights_hash(module.encoder), encoder=module, metric=metric, origin=origin)

    def append(self, frames: Any, *, done: Callable[[int], None] = lambda count: None, **arguments: Any) -> None:
        """Embed further frames. Args and errors: as of `build`; ConfigError too for frames that are there already."""
        part = _part(self.given_encoder, frames, done, arguments)
        if part.told["shape"] != self.parts[0].told["shape"]:
            raise ConfigError(f"the frames of {part.told['data']} are of another size than those of the index")
        if any(part.told["crc32"] == each.told["crc32"] for each in self.parts):
            raise ConfigError(f"the frames of {part.told['data']} are in the index already: append others")
        self.parts.append(part)
        self._join()

    def save(self, out: str | Path) -> Path:
        """Write a folder of plain files, or add to it what it lacks; return it.

        Raises FileExistsError where it holds another index or something else, WriteError.
        """
        out = Path(out)
        described = {"weights": self.weights, "metric": self.metric, "dim": self.embeddings.shape[1]}
        folder.check_same(out, described)
        self.put_encoder(out)
        folder.write_index(out, described, self.parts)
        return out

    def put_encoder(self, out: Path) -> None:
        """Write the encoder into the index's folder where it is not there."""
        if self.encoder is None or self._is_encoder(out / ENCODER):
            return
        if self.origin is not None:
            copy_encoder(self.origin, out / ENCODER)
        else:
            encoder = self.encoder.encoder
            save_encoder(encoder, describe_encoder(encoder), self.encoder.obs_shape, out / ENCODER)

    def _is_encoder(self, place: Path) -> bool:
        """Return whether a folder has the index's encoder, which one of a build that was cut off need not be."""
        try:
            stored = _stored_encoder(place)
        except (OSError, ValueError):
            return False
        return stored is not None and weights_hash(stored.encoder) == self.weights

    @classmethod
    def load(
        cls, path: str | Path, device: str | torch.device = "cpu", *, encoder: ExportedEncoder | Encoder | None = None
    ) -> Self:
        """Read an index that `save` wrote.

        Args: device, of the encoder; encoder, in the place of the one in the folder, where that is a network of one's
        own. Raises FileNotFoundError where there is no index, IndexFolderError where it is no longer as it was written,
        ConfigError for another encoder than its own.
        """
        path = Path(path)
        described, parts = folder.read_index(path)
        try:
            module = _stored_encoder(path / ENCODER) if encoder is None else exported(encoder)
        except FileNotFoundError as error:
            raise IndexFolderError(f"{error}; index the same frames by it once more, which puts it back") from error
        if module is not None:
            check_encoder(module, described["weights"], str(path))
            module.to(device)
        return cls(parts, weights=described["weights"], encoder=module, metric=described["metric"])

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def dim(self) -> int:
        """The width of the embeddings."""
        return self.embeddings.shape[1]

    @property
    def points(self) -> Tensor:
        """The embeddings (N, d) as they are compared: of an index by cosine their directions."""
        return self._exact.points

    @functools.cached_property
    def _exact(self) -> Exact:
        return Exact(self.embeddings, self.metric)

    @functools.cached_property
    def _searcher(self) -> Any:
        return approximate(self.embeddings, self.metric) if len(self) > EXACT_UP_TO else self._exact

    @property
    def exact(self) -> bool:
        """Whether a search finds all that is nearest; past a million frames faiss, where it is there, may miss some."""
        return isinstance(self._searcher, Exact)

    def search(self, query: Tensor | np.ndarray, count: int = 10) -> Hits:
        """Return the frames that are most like a query.

        Args: query, one observation (k*C, H, W) uint8 or several, or embeddings (d,) or (Q, d) float.

        Raises ConfigError for more frames than there are, another size, and values that are not finite.
        """
        self._check_count(count, len(self))
        hits = Hits(*self._searcher.search(self.vectors(query), count))
        single = torch.as_tensor(query).dim() in (1, 3)
        return Hits(hits.ids[0], hits.similarity[0]) if single else hits

    def vectors(self, query: Tensor | np.ndarray) -> Tensor:
        """Return the embeddings (Q, d) of a query. Args and errors: as of `search`."""
        query = torch.as_tensor(query)
        query = query[None] if query.dim() in (1, 3) else query
        vectors = self._embed(query) if query.dtype == torch.uint8 else query.to(torch.float32)
        if vectors.dim() != 2 or vectors.shape[1] != self.dim:
            raise ConfigError(f"the index is of {self.dim} numbers a frame, and the query is {tuple(query.shape)}")
        if not vectors.isfinite().all():
            raise ConfigError("the query has values that are not finite: give another")
        return vectors

    def neighbours(
        self, ids: int | str | Tensor | np.ndarray, count: int = 10, *, other_episodes: bool = False
    ) -> Hits:
        """Return the frames that are most like frames of the index, by their numbers or one's name, without themselves.

        Args: other_episodes, leave out those of the frame's own episode too.
        """
        single = isinstance(ids, str) or np.ndim(ids) == 0
        asked = [ids] if isinstance(ids, str) else torch.as_tensor(ids).reshape(-1).tolist()
        numbers = torch.tensor([self.number(each) for each in asked], dtype=torch.int64)
        self._check_count(count, len(self) - 1)
        group = self.episodes if other_episodes else torch.arange(len(self))
        hits = Hits(*self._exact.search(self.embeddings[numbers], count, (group[numbers], group)))
        return Hits(hits.ids[0], hits.similarity[0]) if single else hits

    def number(self, name: int | str) -> int:
        """Return the number of a frame. Raises ConfigError where there is none such, or there are several."""
        if isinstance(name, int):
            if not 0 <= name < len(self):
                raise ConfigError(f"the index has {len(self):,} frames, 0 to {len(self) - 1}, and no {name}")
            return name
        if len(found := self.numbers(name)) > 1:
            raise ConfigError(f"{name} is the name of the frames {' and '.join(map(str, found))}: give a number")
        return found[0]

    def numbers(self, name: str) -> list[int]:
        """Return the numbers of all frames of a name. Raises ConfigError where there is none."""
        name = spelled(name, self._numbers)
        check_names([name], self._numbers, "the index")
        return self._numbers[name]

    @functools.cached_property
    def classes(self) -> tuple[tuple[str, ...], Tensor]:
        """The names of the classes, in order, and the class (N,) int64 of every frame, -1 where unknown."""
        names = sorted(set(self.rows.classes) - {""})
        codes = {"": -1} | {name: code for code, name in enumerate(names)}
        return tuple(names), torch.tensor([codes[each] for each in self.rows.classes])

    @functools.cached_property
    def _numbers(self) -> dict[str, list[int]]:
        numbers: dict[str, list[int]] = {}
        for i, name in enumerate(self.rows.names):
            numbers.setdefault(name, []).append(i)
        return numbers

    @functools.cached_property
    def sheets(self) -> list[bytes]:
        """The JPEG files on which the frames' pictures stand."""
        return [sheet for part in self.parts for sheet in part.sheets]

    def tile(self, number: int) -> Tile:
        """Return where a frame's picture stands."""
        sheet = 0
        for part in self.parts:
            if number < len(part.embeddings):
                break
            number, sheet = number - len(part.embeddings), sheet + len(part.sheets)
        return Tile.at(sheet, number)

    def picture(self, number: int) -> Tensor:
        """Return a frame's picture (1 or 3, side, side) uint8."""
        return next(self.pictures([number]))

    def pictures(self, numbers: Iterable[int]) -> Iterator[Tensor]:
        """Yield the pictures of frames; those of one sheet should follow one another."""
        return read_pictures(self.sheets, map(self.tile, numbers), self.side)

    @functools.cached_property
    def side(self) -> int:
        """Of the frames' pictures, in pixels."""
        return side_of(tuple(self.parts[0].told["shape"]))

    def recall(self, count: int = 10, *, sample: int = 100, seed: int = 0) -> float:
        """Return the share of the true nearest frames that a search finds, of frames drawn at random; 1 if exact."""
        if self.exact:
            return 1.0
        drawn = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:sample]
        found = self._searcher.search(self.embeddings[drawn], count)[0]
        true = self._exact.search(self.embeddings[drawn], count)[0]
        return float((found[:, :, None] == true[:, None]).any(2).float().mean())

    @property
    def given_encoder(self) -> ExportedEncoder:
        """What embeds queries. Raises ConfigError where that is a network of one's own, which was not given."""
        if self.encoder is None:
            raise ConfigError("the index was built by a network of your own: give FrameIndex.load(..., encoder=...)")
        return self.encoder

    def _embed(self, obs: Tensor) -> Tensor:
        encoder = self.given_encoder
        if obs.dim() != 4:
            raise ConfigError(f"a query is one observation (C, H, W) uint8 or several, got {tuple(obs.shape)}")
        return embed(encoder, as_seen(Frames(obs, source="the query"), encoder, "the index's encoder"))

    def _check_count(self, count: int, most: int) -> None:
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= most:
            raise ConfigError(f"count={count} must be at least 1 and at most {most:,}, the frames to be found")


def check_encoder(encoder: ExportedEncoder, weights: str, index: str) -> None:
    """Raise ConfigError unless an encoder has the weights by which an index was built."""
    if weights_hash(encoder.encoder) != weights:
        raise ConfigError(f"{index} was built by another encoder: give that one, or index the frames again")


def _part(encoder: ExportedEncoder, frames: Any, done: Callable[[int], None], arguments: dict[str, Any]) -> Part:
    given = as_seen(frames_of(frames, **arguments), encoder)
    arguments = json.loads(json.dumps(arguments, default=sorted))  # as they are read again
    data = str(frames) if isinstance(frames, str | Path) else given.source
    told = {"data": data, "arguments": arguments, "crc32": f"{given.checksum:08x}"}
    told |= {"stack": given.stack, "shape": list(given.frame_shape)}
    with ThreadPoolExecutor(1) as beside:
        pictures = beside.submit(lambda: tuple(sheets(given)))
        return Part(embed(encoder, given, done), Rows.of(given), pictures.result(), told)


def _stored_encoder(place: Path) -> ExportedEncoder | None:
    """Return the encoder in an index's folder; None where that is a network of one's own."""
    return None if read_description(place)["encoder"]["name"] == "tap" else load_encoder(place)
