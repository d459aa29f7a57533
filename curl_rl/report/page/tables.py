"""Tables that are written as CSV, Markdown, LaTeX and HTML from the same cells."""

import math
import re
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from curl_rl.report.numbers.statistics import Interval
from curl_rl.run.cells import escaped, inert, printable
from curl_rl.run.files import csv_text


class Value(NamedTuple):
    """A number with what is known of its spread; nan bounds are unknown."""

    number: float
    std: float | None = None
    seeds: int | None = None
    low: float | None = None
    high: float | None = None
    decimals: int | None = None  # None for three digits

    @classmethod
    def of(cls, values: np.ndarray) -> "Value | None":
        """Return the mean of values (n,), their number, and of three or more their standard deviation."""
        if not len(values):
            return None
        # Two differ by chance as much as by what one wants to know: between them a deviation says nothing.
        return cls(float(values.mean()), float(values.std(ddof=1)) if len(values) > 2 else None, len(values))

    @classmethod
    def between(cls, value: Interval | None) -> "Value | None":
        return cls(value.estimate, low=value.low, high=value.high) if value else None


Cell: TypeAlias = str | int | Value | None

# The parts of a value, with what their columns add to its name.
_PARTS = {"number": "", "std": " standard deviation", "seeds": " seeds", "low": " low", "high": " high"}
_LONG = 48  # characters that a cell of a page holds in one line
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


@dataclass(frozen=True)
class Table:
    """Rows of cells under named columns."""

    name: str  # of its files
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    own: int = 0  # so many columns after the first are of the runs reported, which the page emphasises
    own_rows: int = 0

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"{self.name}: every row needs {len(self.columns)} cells")

    def files(self) -> dict[str, str]:
        """Return the contents of its files by their suffixes."""
        return {".csv": self.to_csv(), ".md": self.to_markdown(), ".tex": self.to_latex()}

    def to_csv(self) -> str:
        """Return plain numbers, each part of a value in a column of its own."""
        columns = [(index, part) for index in range(len(self.columns)) for part in self._parts(index)]
        header = [inert(self.columns[index] + _PARTS[part]) for index, part in columns]
        return csv_text([header, *([_plain(row[index], part) for index, part in columns] for row in self.rows)])

    def to_markdown(self) -> str:
        head, *rows = (map(_markdown, line) for line in (self.columns, *(map(shown, row) for row in self.rows)))
        table = "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(self.columns), *rows))
        return f"{_markdown(self.title)}\n\n{table}\n" + (f"\n{_markdown(self.note)}\n" if self.note else "")

    def to_latex(self) -> str:
        """Return a `table` for the package booktabs."""
        align = "l" + "".join("l" if self._is_text(index) else "r" for index in range(1, len(self.columns)))
        note = f" {_latex(self.note)}" if self.note else ""
        lines = [
            r"\begin{table}",
            rf"\caption{{{_latex(self.title)}.{note}}}",
            rf"\begin{{tabular}}{{{align}}}",
            r"\toprule",
            _latex_row(self.columns),
            r"\midrule",
            *(_latex_row(map(shown, row)) for row in self.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def to_html(self) -> str:
        """Return a table whose headings are buttons that sort it."""
        head = "".join(self._heading(index) for index in range(len(self.columns)))
        body = "\n".join(self._row(index) for index in range(len(self.rows)))
        return (
            f'<table aria-label="{escaped(self.title)}">\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
        )

    def _heading(self, index: int) -> str:
        kind = "" if self._is_text(index) else ' class="number"'
        name = re.sub(r" (\[.*\])$", r" <small>\1</small>", escaped(self.columns[index]))
        name = re.sub(r" (\([^()]*\))", r" <span>\1</span>", name)  # kept in one line
        return f'<th scope="col" aria-sort="none"{kind}><button type="button">{name}</button></th>'

    def _row(self, index: int) -> str:
        cells = [f'<th scope="row">{escaped(shown(self.rows[index][0]))}</th>']
        for column, cell in enumerate(self.rows[index][1:], start=1):
            number = "" if isinstance(cell, str) or cell is None else f' data-value="{_plain(cell, "number")}"'
            long = isinstance(cell, str) and len(cell) > _LONG
            kinds = {"number": number or _is_range(cell), "own": column <= self.own, "long": long}
            classes = [name for name, holds in kinds.items() if holds]
            kind = f' class="{" ".join(classes)}"' if classes else ""
            cells.append(f"<td{kind}{number}>{escaped(shown(cell))}</td>")
        kind = ' class="own"' if index < self.own_rows else ""
        return f"<tr{kind}>{''.join(cells)}</tr>"

    def _parts(self, index: int) -> list[str]:
        """Return which parts any value of a column has; the number stands for every cell."""
        values = [row[index] for row in self.rows if isinstance(row[index], Value)]
        return [part for part in _PARTS if part == "number" or any(_known(getattr(value, part)) for value in values)]

    def _is_text(self, index: int) -> bool:
        return any(isinstance(row[index], str) and row[index] and not _is_range(row[index]) for row in self.rows)


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def shown(cell: Cell) -> str:
    """Write a cell for readers: "582 ± 146 (10)", "0.381 [0.350, 0.412]"."""
    if not isinstance(cell, Value):
        return "" if cell is None else f"{cell:,}" if isinstance(cell, int) else cell
    digits = _digits(max(abs(cell.number), cell.std or 0.0)) if cell.decimals is None else cell.decimals
    text = _number(cell.number, digits)
    if _known(cell.std):
        text += f" ± {_number(cell.std, digits)}"
    if cell.seeds is not None:
        text += f" ({cell.seeds})"
    if _known(cell.low) and _known(cell.high):
        text += f" [{_number(cell.low, digits)}, {_number(cell.high, digits)}]"
    return text


def _is_range(cell: Cell) -> bool:
    """Return whether a cell is like "52-60", which stands among numbers."""
    return isinstance(cell, str) and re.fullmatch(r"\d+-\d+", cell) is not None


def _known(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def _digits(size: float) -> int:
    """Return how many decimals show three digits of a number."""
    return 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3


def _number(value: float | None, digits: int) -> str:
    text = f"{value:,.{digits}f}"
    return text.replace("-", "" if not float(text.replace(",", "")) else "−")


def _plain(cell: Cell, part: str) -> str:
    if not isinstance(cell, Value):
        return inert(str(cell)) if cell is not None and part == "number" else ""
    value = getattr(cell, part)
    return repr(value if isinstance(value, int) else float(value)) if _known(value) else ""


def _markdown(text: str) -> str:
    # An underscore inside a word is one; the rest of what Markdown, or GitHub's, takes for more than itself is escaped.
    return re.sub(r"([\\|*`\[\]<&~$]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", inert(text)).replace("\n", " ")


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in printable(text)).replace("\n", " ")


def _latex_row(cells) -> str:
    # After the end of a row, a bracket or a star would be an option of it.
    return re.sub(r"^([\[*])", r"{\1}", " & ".join(map(_latex, cells))) + r" \\"
