"""Answers one question to an index as a command does: as a table, and as a picture."""

from pathlib import Path

import torch
from torch import Tensor

from curl_rl.representation.frames.images import read_image
from curl_rl.representation.frames.pictures import Form
from curl_rl.representation.index.base import FrameIndex, Hits
from curl_rl.representation.index.folder import check_outside
from curl_rl.representation.index.pictures import picture_of, small
from curl_rl.representation.index.rows import COLUMNS
from curl_rl.run.device import choose_device
from curl_rl.run.files import csv_text, write_whole
from curl_rl.types import ConfigError


def search_index(
    path: Path,
    query: str,
    count: int,
    *,
    other_episodes: bool = False,
    picture: Path | None = None,
    device: str = "auto",
) -> str:
    """Return a CSV table of the frames of an index that are most like one, the nearest first.

    Args: query, a frame's number or name, or else an image file; other_episodes, leave out its own; picture, a file for
    the query and what was found, side by side. Raises ConfigError where the query does not fit the index.
    """
    check_outside(picture, path)
    index = FrameIndex.load(path, choose_device(device))
    if (file := Path(query)).is_file() and query not in index.rows.names:
        if other_episodes:
            raise ConfigError(f"{query} is an image and of no episode: leave --other-episodes out")
        asked = observation(index, file)
        tile, hits = _tile(asked, index), index.search(asked, count)
    else:
        number = index.number(int(query) if query.isdecimal() else query)
        tile, hits = index.picture(number), index.neighbours(number, count, other_episodes=other_episodes)
    hits = Hits(*(part[hits.ids >= 0] for part in hits))
    if picture is not None:
        write_whole({picture: picture_of([tile, *index.pictures(hits.ids.tolist())])})
    return _table(index, hits)


def observation(index: FrameIndex, file: Path) -> Tensor:
    """Return an image file as an observation, standing still where the encoder sees several frames.

    Raises ConfigError for one that cannot be read, or is of another size than the encoder takes.
    """
    wanted, stack = index.given_encoder.obs_shape, index.parts[0].told["stack"]
    try:
        image = torch.from_numpy(read_image(file, Form(channels=wanted[0] // stack)))
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    if image.shape[1:] != wanted[1:]:
        told, other = ("x".join(map(str, shape)) for shape in (image.shape[1:], wanted[1:]))
        raise ConfigError(f"{file} is {told}, and the index is of frames of {other}: resize it")
    return image.repeat(stack, 1, 1)


def _tile(obs: Tensor, index: FrameIndex) -> Tensor:
    """Return the newest frame of an observation as the index's pictures are."""
    channels = len(obs) // index.parts[0].told["stack"]
    return small(obs[None, -channels:], index.picture(0).shape[-1])[0]


def _table(index: FrameIndex, hits: Hits) -> str:
    found = enumerate(zip(hits.ids.tolist(), hits.similarity.tolist(), strict=True), 1)
    rows = ([rank, number, f"{value:.6f}", *index.rows.told(number)] for rank, (number, value) in found)
    return csv_text([["rank", "number", "cosine" if index.metric == "cosine" else "distance", *COLUMNS], *rows])
