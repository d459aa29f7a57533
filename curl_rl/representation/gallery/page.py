"""The page of a gallery: one HTML file that needs nothing but itself, or what a server beside it answers."""

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curl_rl.representation.frames import Frames
from curl_rl.representation.gallery.contents import Contents, Gallery, Values
from curl_rl.representation.gallery.maps import quantised
from curl_rl.representation.index import FrameIndex
from curl_rl.representation.index.exact import Exact
from curl_rl.representation.index.folder import check_outside
from curl_rl.representation.index.pictures import TILES, sheets
from curl_rl.run.cells import escaped
from curl_rl.run.files import check_target, write_whole
from curl_rl.run.look import style_of

_HERE = Path(__file__).parent
_SCRIPTS = ("data.js", "chart.js", "colours.js", "panel.js", "gallery.js")
_SELF = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "


def build_gallery(
    index: FrameIndex | str | Path,
    out: str | Path,
    *,
    columns: Mapping[str, Values] | None = None,
    title: str = "",
    **options: Any,
) -> Path:
    """Write a page that shows the frames of an index, and return its file.

    Args: index, or its folder; columns, more to colour by, a number or a text for each frame; title, the folder's name
    unless given; options, what `Gallery` has: map, clusters, most, neighbours. Raises ConfigError for other options or
    columns, WriteError.
    """
    out, look = Path(out), Gallery(**options)
    check_target(out)
    if not isinstance(index, FrameIndex):
        check_outside(out, Path(index))
    opened, name = opened_index(index)
    write_whole({out: page(Contents(opened, look, columns or {}), title or name)})
    return out


def opened_index(index: FrameIndex | str | Path) -> tuple[FrameIndex, str]:
    """Return an index, read from its folder if that is given, and what it is called."""
    return (index, "Frames") if isinstance(index, FrameIndex) else (FrameIndex.load(index), Path(index).resolve().name)


def page(contents: Contents, title: str, *, served: bool = False) -> str:
    """Return the page. Args: served, whether a server answers what it asks for, instead of all being in it."""
    embedded = [] if served else [_embedded(number, sheet) for number, sheet in enumerate(_sheets(contents))]
    policy = "img-src 'self' data:; connect-src 'self'" if served else "img-src data:"
    return Template(_read("gallery.html")).substitute(
        title=escaped(title),
        policy=_SELF + policy,
        style=style_of(_HERE / "gallery.css"),
        script="\n".join(_read(name).strip() for name in _SCRIPTS),
        data=embeddable(_data(contents, title, served)),
        pictures="\n".join(embedded),
    )


def embeddable(value: Any) -> str:
    """Return JSON as a script of the page may hold it: in ASCII, and without what ends a script or begins a tag."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _data(contents: Contents, title: str, served: bool) -> dict[str, Any]:
    index, numbers = contents.index, contents.numbers.numpy()
    places, origin, unit = quantised(contents.places)
    repacked = len(numbers) < len(index) and not served
    drawn = range(len(numbers)) if repacked else [index.tile(number).number for number in numbers.tolist()]
    arrays = {"x": places[:, 0], "y": places[:, 1], "number": numbers, "picture": drawn}
    arrays |= {"repeated": contents.repeated[numbers], "episode": index.rows.episodes[numbers]}
    if not served and len(numbers) > 1:
        arrays |= _neighbours(contents)
    columns = [
        {"name": c.name, "names": _met(c.names), "varies": c.varies, "values": _packed("values", c.values[numbers])}
        for c in contents.columns
    ]
    told = {"title": title, "served": served, "total": len(index), "dim": index.dim, "metric": index.metric}
    told |= {"map": contents.told, "origin": origin, "unit": unit, "side": index.side}
    told |= {"sources": sorted(set(index.rows.sources)), "names": [index.rows.names[n] for n in numbers.tolist()]}
    return told | {"columns": columns, "arrays": {name: _packed(name, values) for name, values in arrays.items()}}


def _met(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names)


def _packed(name: str, values: Any) -> list[str]:
    """Return numbers as the name of JavaScript's array for them, and their bytes in base64."""
    numbers = np.asarray(values)
    kinds = {"x": "Uint16", "y": "Uint16", "repeated": "Uint8"}
    kind = kinds.get(name, "Float32" if numbers.dtype.kind == "f" else "Int32")
    bytes_ = np.ascontiguousarray(numbers, np.dtype(kind.lower()).newbyteorder("<")).tobytes()
    return [f"{kind}Array", base64.b64encode(bytes_).decode()]


def _neighbours(contents: Contents) -> dict[str, Tensor]:
    """Return of each frame on the map the most alike on it, and of those of other episodes, as places among them."""
    points, own = contents.index.embeddings[contents.numbers], torch.arange(len(contents.numbers))
    count = min(contents.look.neighbours, len(own) - 1)
    exact, episodes = Exact(points, contents.index.metric), contents.index.episodes[contents.numbers]
    near, near_values = exact.search(points, count, (own, own))
    far, far_values = exact.search(points, count, (episodes, episodes))
    return {"near": near, "nearValues": near_values, "far": far, "farValues": far_values}


def _sheets(contents: Contents) -> Iterator[bytes]:
    """Yield the pictures of the frames on the map, 1024 on a JPEG file: those of the index, or chosen from them."""
    index, numbers = contents.index, contents.numbers
    if len(numbers) == len(index):
        yield from index.sheets
        return
    for some in numbers.split(TILES):
        yield from sheets(Frames(torch.stack(list(index.pictures(some.tolist()))), source="pictures"))


def _embedded(number: int, sheet: bytes) -> str:
    return f'<script type="text/plain" id="sheet-{number}">{base64.b64encode(sheet).decode()}</script>'
