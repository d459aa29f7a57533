"""What a page says of probes: a table and a figure for each, and the pictures that stand with them."""

import base64
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curl_rl.report.numbers.statistics import Interval, spread
from curl_rl.report.page import html as page
from curl_rl.report.page.figures import Drawing, Look, blank, draw_point, looks, name_rows, render
from curl_rl.report.page.tables import Table, Value, counted
from curl_rl.run.cells import escaped

Row = Mapping[str, str]
Cells = dict[str, dict[str, np.ndarray]]  # values (n,) by column and subject

_BESIDE = ("pixels", "untrained")
_TITLES = {
    "linear": ("Linear probe", "Accuracy on episodes left out of a linear classifier fitted on all others."),
    "low_shot": ("Few labels", "Accuracy of linear classifiers on so many labelled frames of each class."),
    "neighbours": ("Nearest neighbours", "Accuracy of a vote of the nearest frames of other episodes."),
    "retrieval": (
        "What is found by a frame",
        "Frames of other episodes ranked by cosine: whether the first k hold one of the frame's class, their share, "
        "that of the first R where R are of the class, and mean average precision.",
    ),
    "same_episode": (
        "Whose episode a frame is of",
        "All other frames ranked by cosine: whether the first k hold one of the frame's episode, their share, that of "
        "the first R where R are of the episode, and mean average precision.",
    ),
    "nearest_states": (
        "States of the nearest frames",
        "Mean distance of standardised states of the nearest frames of other episodes, less of which is better; the "
        "best possible, and that of any frames.",
    ),
    "ridge": (
        "The simulator's state",
        "R2 of ridge regression on episodes left out; r2 is the mean over quantities.",
    ),
    "dense": ("What each cell shows", "Mean intersection over union of the classes of the map's cells."),
    "geometry": (
        "Geometry",
        "Effective rank; distance of two views of a frame (alignment) and evenness on the sphere (uniformity), less of "
        "which is better; how often a view is found among all by the other.",
    ),
}


def of_probe(probe: str, rows: Sequence[Row]) -> tuple[page.Part, Table, Drawing | None]:
    """Return the chapter of one probe, its table and its figure."""
    title, meaning = _TITLES.get(probe, (probe, ""))
    cells = _cells(rows)
    subjects = _ordered({row["subject"] for row in rows}, cells)
    table = Table(
        f"probe_{probe}",
        f"{title}: mean [95 % interval] over seeds",
        ("Encoder", *cells),
        tuple((name, *(_value(cells[column].get(name)) for column in cells)) for name in subjects),
    )
    drawing = render(f"probe_{probe}", title, lambda: _draw(cells, subjects))
    figure = page.show_figure(drawing) if drawing else ""
    return page.Part(probe, title, page.note(meaning) + figure + page.show_table(table)), table, drawing


def _cells(rows: Sequence[Row]) -> Cells:
    """Return the values by "layer quantity" and subject: one an encoder, or of a single encoder one a seed."""
    found: dict[str, dict[str, dict[tuple[str, str], float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        found[f"{row['layer']} {row['quantity']}"][row["subject"]][row["encoder"], row["seed"]] = float(row["value"])
    return {column: {name: _each(values) for name, values in of.items()} for column, of in found.items()}


def _each(values: Mapping[tuple[str, str], float]) -> np.ndarray:
    encoders = dict.fromkeys(name for name, _ in values)
    if len(encoders) == 1:
        return np.array(list(values.values()))
    return np.array([np.mean([value for (each, _), value in values.items() if each == name]) for name in encoders])


def _ordered(subjects: set[str], cells: Cells) -> list[str]:
    """Return what stands beside first, then the best by the first column."""
    merit = {name: float(np.mean(values)) for name, values in next(iter(cells.values())).items()}

    def place(name: str) -> tuple[int, float, str]:
        beside = next((i for i, each in enumerate(_BESIDE) if name.split(maxsplit=1)[0] == each), len(_BESIDE))
        value = merit.get(name, np.nan)
        return beside, np.inf if np.isnan(value) else -value, name

    return sorted(subjects, key=place)


def _value(values: np.ndarray | None) -> Value | None:
    if values is None:
        return None
    if not np.isfinite(values).all():
        return Value(float("nan"))
    return Value.between(_interval(values))


def _interval(values: np.ndarray) -> Interval:
    return spread(values) if len(values) > 1 else Interval(float(values[0]), np.nan, np.nan)


def _draw(cells: Cells, subjects: Sequence[str]) -> Any:
    """Draw each subject's row of the first quantity, features and map apart."""
    quantity = next(iter(cells)).partition(" ")[2]
    columns = [column for column in cells if column.partition(" ")[2] == quantity]
    style: dict[str, Look] = looks(columns, ())
    figure, (axes,) = blank(0.9 + 0.26 * len(subjects))
    for column in columns:
        shift = 0.24 * (columns.index(column) - (len(columns) - 1) / 2)
        for row, name in enumerate(subjects):
            values = cells[column].get(name, np.array([np.nan]))
            if np.isfinite(values).all():
                draw_point(axes, row + shift, style[column], *_interval(values))
    name_rows(axes, subjects)
    axes.set_xlabel(quantity)
    if len(columns) > 1:
        marks = [axes.plot([], [], style[name].marker, color=style[name].colour)[0] for name in columns]
        figure.legend(marks, columns, loc="outside lower center", ncols=len(columns), fontsize=8)
    return figure


def of_pictures(folder: Path, subjects: Sequence[str]) -> page.Part:
    """Return the chapter of the pictures of neighbours."""
    told = "In each row a frame, then the frames of other episodes whose features are nearest to its own."
    shown = [page.note(told)]
    for name in subjects:
        if (path := folder / f"{name}.png").is_file():
            data = base64.b64encode(path.read_bytes()).decode()
            image = (
                f'<img alt="frames and their nearest neighbours by {escaped(name)}" src="data:image/png;base64,{data}">'
            )
            shown.append(f"<details open><summary>{escaped(name)}</summary>{image}</details>\n")
    return page.Part("neighbours-seen", "What is near to what", "".join(shown))


def of_makers(rows: Sequence[Row]) -> page.Part:
    """Return the chapter that tells what made the rows."""
    columns = ("commit", "versions", "hardware")
    makers: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for row in rows:
        makers[tuple(row.get(name) or "unknown" for name in columns)].append(row.get("command") or "unknown")
    told = [_maker(dict(zip(columns, maker, strict=True)), commands) for maker, commands in makers.items()]
    return page.Part("makers", "Commands", "".join(told))


def _maker(told: Mapping[str, str], commands: Sequence[str]) -> str:
    once = "\n".join(dict.fromkeys(commands))
    rows = "".join(f"<dt>{name}</dt><dd>{escaped(value)}</dd>" for name, value in told.items())
    count = counted(len(commands), "number")
    return f"<details open><summary>{count}</summary><pre>{escaped(once)}</pre><dl>{rows}</dl></details>\n"


def ordered(rows: Sequence[Row]) -> list[str]:
    """Return the subjects in the order in which pictures stand."""
    return _ordered({row["subject"] for row in rows}, _cells(rows))
