"""Figures of a section's results, each as an SVG that takes the page's colours, a PNG and a PDF."""

import io
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle, product
from typing import Any, NamedTuple

import numpy as np

from curl_rl.report.numbers.results import Curve, Results
from curl_rl.report.numbers.statistics import METRICS
from curl_rl.report.read.sections import normalised
from curl_rl.run.cells import escaped

# Okabe and Ito 2008 without yellow and black, which vanish on one of the two backgrounds.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
LINES = ("-", "--", ":", "-.")
METRIC_TITLES = {
    "mean": "Mean",
    "median": "Median",
    "iqm": "Interquartile mean",
    "optimality_gap": "Optimality gap (lower is better)",
}
_INK = "#010203"  # of text and axes: the SVG's becomes currentColor, so that it follows the page
_GREY = "#808080"  # of published results: readable on white and on black
_STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 9,
    "font.size": 9,
    "font.family": "DejaVu Sans",  # matplotlib's own: the same everywhere
    "grid.alpha": 0.15,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a method may be called $x$
    **dict.fromkeys(("text.color", "grid.color", "xtick.color", "ytick.color"), _INK),
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "axes.titlecolor"), _INK),
}
_WIDTH = 7.2  # inches


class Drawing(NamedTuple):
    """One figure in its three formats."""

    name: str  # of its files
    title: str
    svg: str
    png: bytes
    pdf: bytes

    def files(self) -> dict[str, str | bytes]:
        """Return the contents of its files by their suffixes."""
        return {".svg": self.svg, ".png": self.png, ".pdf": self.pdf}


class Look(NamedTuple):
    """How one method is drawn everywhere in a section."""

    colour: str
    marker: str
    line: Any  # one of LINES
    hollow: bool = False

    @property
    def face(self) -> str:
        return "none" if self.hollow else self.colour


def looks(own: Iterable[str], others: Iterable[str]) -> dict[str, Look]:
    """Return the looks of the methods reported, filled and coloured, and of published ones, hollow and grey."""
    styles = zip(cycle(product(LINES, COLOURS)), cycle(MARKERS), strict=False)
    found = {method: Look(colour, marker, line) for method, ((line, colour), marker) in zip(own, styles, strict=False)}
    styles = zip((name for name in others if name not in found), cycle(MARKERS), strict=False)
    return found | {method: Look(_GREY, marker, "-", True) for method, marker in styles}


def of_section(results: Results) -> dict[str, Drawing]:
    """Draw everything that a section's results allow, by kind: scores, aggregates, improvement, ..."""
    # Random play and people are the ends of a scale, and would hide the rest.
    style = looks(results.section.methods, (name for name in results.main if results.methods[name].kind != "reference"))
    kinds = {
        "scores": ("Scores by task", _scores),
        "aggregates": ("Aggregates", _aggregates),
        "improvement": ("Probability of improvement", _improvement),
        "percentiles": ("Percentiles among published runs", _percentiles),
        "profiles": ("Performance profiles", _profiles),
        "curves": ("Learning curves", _learning),
        "efficiency": ("Sample efficiency", _efficiency),
    }
    found = {
        kind: render(f"{results.section.name}_{kind}", title, lambda draw=draw: draw(results, style))
        for kind, (title, draw) in kinds.items()
    }
    return {kind: drawing for kind, drawing in found.items() if drawing}


def render(name: str, title: str, draw: Callable[[], Any]) -> Drawing | None:
    """Write what `draw` draws in all formats, bit for bit alike each time; None where it draws nothing."""
    import matplotlib as mpl
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    style: Any = {**mpl.rcParamsDefault, **_STYLE, "svg.hashsalt": name}  # whatever a user's matplotlibrc says
    with mpl.rc_context(style), warnings.catch_warnings():
        # What names can do to a figure stays off the terminal: no glyph for a letter, no room for a label.
        warnings.filterwarnings("ignore", r"Glyph \d+ |constrained_layout not applied", UserWarning)
        figure = draw()
        if figure is None:
            return None
        ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06).execute(figure)  # once: it takes longer than all the formats
        svg, png, pdf = io.StringIO(), io.BytesIO(), io.BytesIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(svg, format="svg", transparent=True, metadata=nothing)
        figure.savefig(png, format="png", dpi=200, facecolor="white", metadata={"Software": None})
        figure.savefig(pdf, format="pdf", facecolor="white", metadata={"CreationDate": None})
    return Drawing(name, title, _for_pages(svg.getvalue(), name, title), png.getvalue(), pdf.getvalue())


def _for_pages(svg: str, name: str, title: str) -> str:
    """Return an SVG that several can stand in one page: ids of its own, the page's font and colour."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' width="[^"]*pt"| height="[^"]*pt"', "", svg, count=2)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    svg = svg.replace(_INK, "currentColor").replace("'DejaVu Sans'", "'DejaVu Sans', system-ui, sans-serif")
    label = f'<svg role="img" aria-label="{escaped(title)}" stroke-linejoin="round" stroke-linecap="butt"'
    return re.sub(r"\s+\n", "\n", svg.replace("<svg", label, 1)).strip() + "\n"


def blank(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height))
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.flat)


def draw_point(axes: Any, row: float, look: Look, x: float, *ends: float, **more: Any) -> None:
    """Draw a marker, with a bar where the ends of its interval are known."""
    if ends and np.isfinite(ends).all():
        axes.plot(ends, [row, row], color=look.colour, linewidth=2.4, alpha=0.55, solid_capstyle="butt")
    _marks(axes, look, [(x, row)], **more)


def _marks(axes: Any, look: Look, places: Iterable[tuple[float, float]], **more: Any) -> None:
    """Draw one method's markers."""
    x, y = np.reshape(list(places), (-1, 2)).T
    axes.plot(x, y, look.marker, color=look.colour, markerfacecolor=look.face, linestyle="none", **more)


def name_rows(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)


def _labelled(results: Results, method: str) -> str:
    """Return a method's name, with its kind where that must not be overlooked."""
    label = results.label(method)
    return method if label.endswith("[not stated]") else label


def _legend(figure: Any, results: Results, style: dict[str, Look], *, lines: bool = False) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=look.colour,
            marker=look.marker,
            markerfacecolor=look.face,
            linestyle=look.line if lines and not look.hollow else "none",
            label=_labelled(results, name),
        )
        for name, look in style.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, handletextpad=0.5)


def _offsets(methods: Sequence[str]) -> dict[str, float]:
    """Return how far from the middle of a row each method is drawn."""
    places = np.linspace(-0.26, 0.26, len(methods)) if len(methods) > 1 else [0.0]
    return dict(zip(methods, map(float, places), strict=True))


def _scores(results: Results, style: dict[str, Look]) -> Any:
    """Draw one row a task: own methods with their intervals, published means hollow."""
    section = results.section
    tasks = section.scaled_tasks or section.tasks
    measure = normalised if section.scaled_tasks else lambda _, score: score
    figure, (axes,) = blank(1.0 + 0.42 * len(tasks) + 0.18 * ((len(style) + 3) // 4))
    for row, task in enumerate(tasks):
        for method, look in style.items():
            if score := results.scores.get((method, task)):
                draw_point(axes, row, look, measure(task, score.mean), alpha=0.8)
        for method, offset in _offsets(section.methods).items():
            if value := results.finals.get((method, task)):
                draw_point(axes, row + offset, style[method], *(measure(task, part) for part in value), zorder=3)
    name_rows(axes, [task.partition("/")[2] for task in tasks])
    axes.set_xlabel("return of the final checkpoint")
    if section.scaled_tasks:
        _score_axis(axes, section.score_label)
    _legend(figure, results, style)
    return figure


def _aggregates(results: Results, style: dict[str, Look]) -> Any:
    rows = [row for row in results.aggregates if row.method in style]
    if not rows:
        return None
    figure, panels = blank(0.9 + 0.26 * len(rows), 1, len(METRICS), sharey=True)
    for axes, metric in zip(panels, METRICS, strict=True):
        for index, row in enumerate(rows):
            if value := row.metrics[metric]:
                draw_point(axes, index, style[row.method], *value)
        axes.set_title(METRIC_TITLES[metric].replace(" (", "\n("))
        name_rows(axes, [_labelled(results, row.method) for row in rows])
        axes.locator_params(axis="x", nbins=3, steps=(1, 2, 5, 10))
        axes.tick_params(axis="x", labelsize=8)
    figure.supxlabel(results.section.score_label, fontsize=9, color=_INK)
    return figure


def _improvement(results: Results, style: dict[str, Look]) -> Any:
    """Draw one row for each method that others are held against."""
    if not results.pairs:
        return None
    rows = list(dict.fromkeys(pair.second for pair in results.pairs))
    held = {pair.first: style[pair.first] for pair in results.pairs}
    figure, (axes,) = blank(1.0 + 0.36 * len(rows) + 0.18 * ((len(held) + 3) // 4))
    axes.axvline(0.5, color=_GREY, linewidth=1)
    offsets = _offsets(list(held))
    for first, second, value in results.pairs:
        draw_point(axes, rows.index(second) + offsets[first], held[first], *value)
    name_rows(axes, [f"> {_labelled(results, name)}" for name in rows])
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel("probability that a run scores higher than one of the method at the left")
    _legend(figure, results, held)
    return figure


def _percentiles(results: Results, style: dict[str, Look]) -> Any:
    """Draw one row a task and one panel a published method, with a mark for each own run."""
    if not results.standings:
        return None
    section, peers = results.section, list(results.standings[0].percentiles)
    tasks = list(dict.fromkeys(standing.run.task for standing in results.standings))
    figure, panels = blank(1.3 + 0.3 * len(tasks), 1, len(peers), sharey=True)
    offsets = _offsets(section.methods)
    for axes, peer in zip(panels, peers, strict=True):
        axes.axvline(50, color=_GREY, linewidth=1)
        for method, offset in offsets.items():
            own = [(run.task, found[peer]) for run, found in results.standings if run.method == method]
            _marks(axes, style[method], [(x, tasks.index(task) + offset) for task, x in own], alpha=0.8)
        axes.set_title(_labelled(results, peer).replace(" (", "\n("))
        axes.set_xlim(-5, 105)
        axes.set_xticks([0, 50, 100])
        axes.set_xlabel("percentile")
        name_rows(axes, [task.partition("/")[2] for task in tasks])
    _legend(figure, results, {method: style[method] for method in section.methods})
    return figure


def _profiles(results: Results, style: dict[str, Look]) -> Any:
    if not results.profiles:
        return None
    figure, (axes,) = blank(3.4)
    # From 0 or where a curve first leaves the top: a peer's one very low run would take the room of all others.
    start = min(0.0, *(curve.x[np.argmax(curve.y[0] <= 0.95)] - 0.05 for curve in results.profiles))
    for curve in results.profiles:
        look, label = style[curve.method], _labelled(results, curve.method)
        marks = {"markevery": 0.1, "markerfacecolor": "none", "linewidth": 0.9} if look.hollow else {"marker": None}
        first = max(int(np.searchsorted(curve.x, start)) - 1, 0)
        shown = Curve(curve.method, np.maximum(curve.x[first:], start), curve.y[:, first:])
        _line(axes, shown, look, label=label, drawstyle="steps-post", **marks)
    axes.set_ylim(-0.02, 1.02)
    _score_axis(axes, f"{results.section.score_label}, τ")
    axes.set_ylabel("share of runs above τ")
    axes.legend(fontsize=8)
    return figure


def _learning(results: Results, style: dict[str, Look]) -> Any:
    section = results.section
    columns = min(3, len(section.tasks))
    rows = -(-len(section.tasks) // columns)
    figure, panels = blank(0.5 + (2.0 if columns > 1 else 2.8) * rows + 0.18 * (len(style) // 4), rows, columns)
    for index, (axes, task) in enumerate(zip(panels, section.tasks, strict=False)):
        for curve in results.learning[task]:
            _line(axes, curve, style[curve.method])
        for method, look in style.items():
            if score := results.scores.get((method, task)):
                draw_point(axes, score.mean, look, section.budget_frames, alpha=0.8, clip_on=False)
        axes.set_title(task.partition("/")[2])
        axes.set_xlabel("frames" if index + columns >= len(section.tasks) else "")
        axes.set_ylabel("return" if index % columns == 0 else "")
        axes.set_xlim(0, section.budget_frames * 1.03)
        axes.xaxis.set_major_formatter(_thousands)
        axes.locator_params(axis="x", nbins=4)
    for axes in panels[len(section.tasks) :]:
        axes.set_visible(False)
    _legend(figure, results, style, lines=True)
    return figure


def _efficiency(results: Results, style: dict[str, Look]) -> Any:
    if not any(results.efficiency.values()):
        return None
    figure, (frames, hours) = blank(3.0, 1, 2, sharey=True)
    for curve in results.efficiency["frames"]:
        _line(frames, curve, style[curve.method])
    for curve in _held(results.efficiency["hours"]):
        _line(hours, curve, style[curve.method], marker=None, drawstyle="steps-post")
    for axes, label in ((frames, "frames"), (hours, "wall-clock hours of a run")):
        axes.set_xlim(left=0)
        axes.set_xlabel(label)
    frames.xaxis.set_major_formatter(_thousands)
    frames.set_ylabel(f"IQM of {results.section.score_label}")
    _legend(figure, results, {method: style[method] for method in results.section.methods}, lines=True)
    return figure


def _held(curves: Sequence[Curve]) -> list[Curve]:
    """Return curves whose last value holds until a little after the slowest one's end."""
    end = max((curve.x[-1] for curve in curves), default=0.0) * 1.05
    return [
        Curve(curve.method, np.append(curve.x, end), np.append(curve.y, curve.y[:, -1:], axis=1)) for curve in curves
    ]


def _line(axes: Any, curve: Curve, look: Look, **options: Any) -> None:
    estimate, low, high = curve.y
    options = {"marker": look.marker, "markersize": 3.5, **options}
    axes.plot(curve.x, estimate, color=look.colour, linestyle=look.line, **options)
    if np.isfinite(low).all():
        step = "post" if options.get("drawstyle") == "steps-post" else None
        alpha = 0.1 if look.hollow else 0.18
        axes.fill_between(curve.x, low, high, color=look.colour, alpha=alpha, linewidth=0, step=step)


def _score_axis(axes: Any, label: str) -> None:
    """Label an axis of normalised scores; where some are far above a human's, those above 1 in a logarithm."""
    low, high = axes.dataLim.x0 - 0.05, axes.dataLim.x1 * 1.1
    if high > 4:
        ticks = (-2, -1, 0, 0.5, 1, 2, 5, 10, 20, 50)
        axes.set_xscale("symlog", linthresh=1, linscale=1.5)
        axes.set_xticks([tick for tick in ticks if low <= tick <= high], minor=False)
        axes.set_xticks([], minor=True)
        axes.set_xlim(low, high)
        axes.xaxis.set_major_formatter("{x:g}")
        label += " (logarithmic beyond 1)"
    axes.set_xlabel(label)


def _thousands(value: float, _: int) -> str:
    return f"{value / 1000:g}K" if value else "0"


def of_runs(curves: Sequence[Curve], title: str) -> Drawing:
    """Draw the learning curves of single runs."""
    style = looks((curve.method for curve in curves), ())

    def draw() -> Any:
        figure, (axes,) = blank(3.4)
        for curve in curves:
            _line(axes, curve, style[curve.method], label=curve.method)
        axes.set_title(title)
        axes.set_xlim(left=0)
        axes.set_xlabel("frames")
        axes.set_ylabel("return")
        axes.xaxis.set_major_formatter(_thousands)
        axes.legend(fontsize=8)
        return figure

    drawing = render("comparison_curves", "Learning curves", draw)
    assert drawing is not None
    return drawing
