"""The page of a report: one HTML file that needs nothing but itself."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template
from typing import NamedTuple

from curl_rl.report.page.contents import Block
from curl_rl.report.page.figures import Drawing
from curl_rl.report.page.tables import Table
from curl_rl.report.read import measured
from curl_rl.report.read.sections import Absent, Section
from curl_rl.run.cells import escaped
from curl_rl.run.look import style_of
from curl_rl.run.records import Run

# Names of the files' formats, by suffix, for the links to a table and to a figure.
FORMATS = {
    "table": {".csv": "CSV", ".md": "Markdown", ".tex": "LaTeX"},
    "figure": {".svg": "SVG", ".png": "PNG", ".pdf": "PDF"},
}
_HERE = Path(__file__).parent


class Part(NamedTuple):
    """One chapter of the page."""

    anchor: str
    title: str
    html: str
    inside: tuple[tuple[str, str], ...] = ()  # anchors and titles of what it consists of


def page(title: str, summary: str, parts: Sequence[Part]) -> str:
    """Return the whole page. `summary` and the parts are HTML, the titles text."""
    template = Template((_HERE / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escaped(title),
        summary=summary,
        contents="\n".join(map(_entry, parts)),
        body="\n".join(map(_chapter, parts)),
        style=style_of(_HERE / "page.css"),
        script=(_HERE / "page.js").read_text(encoding="utf-8").strip(),
    )


def section_part(section: Section, blocks: Sequence[Block], drawings: dict[str, Drawing], runs: Table) -> Part:
    """Return the chapter of one section; it ends with its runs, each with what it takes to get its numbers again."""
    name = section.name
    head = note(measured.protocol(section)) + "".join(note(text, "warning") for text in measured.warnings(section))
    html = "".join(_block(f"{name}-{block.kind}", block, drawings.get(block.kind)) for block in blocks)
    end = (
        f'<h3 id="{name}-runs">Runs and commands</h3>\n{show_table(runs)}'
        "<details><summary>The command, the versions and the machine behind each run</summary>\n"
        f"{commands_html(section.runs)}</details>\n"
    )
    inside = [(f"{name}-{block.kind}", block.title) for block in blocks]
    return Part(name, section.title, f"{head}{html}{end}", (*inside, (f"{name}-runs", "Runs and commands")))


def commands_html(runs: Iterable[Run]) -> str:
    """Return each run's command, and what its rows say of where they come from."""
    return "".join(map(_provenance, runs))


def absent_html(table: Table, absent: Iterable[Absent]) -> str:
    """Return the list of runs without a score, each with its command and how its log ends."""
    return note(table.note) + show_table(table) + "".join(map(_failure, absent))


def show_table(table: Table) -> str:
    return _captioned("table", table.name, table.title, table.to_html())


def show_figure(drawing: Drawing) -> str:
    return _captioned("figure", drawing.name, drawing.title, drawing.svg)


def note(text: str, kind: str = "note") -> str:
    """Return a paragraph, nothing for an empty text."""
    role = ' role="note"' if kind == "warning" else ""
    return f'<p class="{kind}"{role}>{escaped(text)}</p>\n' if text else ""


def _chapter(part: Part) -> str:
    return f'<section id="{part.anchor}">\n<h2>{escaped(part.title)}</h2>\n{part.html}</section>'


def _entry(part: Part) -> str:
    inner = "".join(f'<li><a href="#{anchor}">{escaped(title)}</a></li>' for anchor, title in part.inside)
    nested = f"<ol>{inner}</ol>" if inner else ""
    return f'<li><a class="part" href="#{part.anchor}">{escaped(part.title)}</a>{nested}</li>'


def _block(anchor: str, block: Block, drawing: Drawing | None) -> str:
    warnings = "".join(note(text, "warning") for text in block.warnings)
    tables = "".join(map(show_table, block.tables))
    figure = show_figure(drawing) if drawing else ""
    if block.folded:
        folded = "".join(map(show_table, block.folded))
        tables += f"<details><summary>Every published result that is known here</summary>\n{folded}</details>\n"
    notes = "".join(map(note, block.notes))
    return f'<h3 id="{anchor}">{escaped(block.title)}</h3>\n{warnings}{notes}{tables}{figure}'


def _captioned(kind: str, name: str, title: str, inner: str) -> str:
    """Return a table or figure that scrolls in its own box, with links to its files."""
    label = escaped(title)
    box = f'<div class="scroll" role="region" tabindex="0" aria-label="{label}">{inner}</div>'
    links = " · ".join(f'<a href="{kind}s/{name}{suffix}">{text}</a>' for suffix, text in FORMATS[kind].items())
    files = f'<p class="files">{links}</p>'
    return f'<figure id="{kind}-{name}"><figcaption>{label}</figcaption>\n{box}\n{files}\n</figure>\n'


def _provenance(run: Run) -> str:
    command = run.command or "unknown: its metadata.json is lost"
    origins = "".join(
        f"<dt>{escaped(name)}</dt><dd>{escaped(value)}</dd>"
        for origin in run.origins
        for name, value in origin._asdict().items()
        if value
    )
    title = f"{run.method} on {run.task}, seed {run.seed}: {run.score:,.1f}"
    return (
        f"<details open><summary>{escaped(title)}</summary><pre>{escaped(command)}</pre>"
        f"<dl>{origins}<dt>directory</dt><dd>{escaped(str(run.path))}</dd></dl></details>\n"
    )


def _failure(run: Absent) -> str:
    if not (run.command or run.tail):
        return ""
    tail = f"<pre>{escaped(run.tail)}</pre>" if run.tail else ""
    title = f"{run.method} on {run.task}, seed {run.seed}: {run.status}"
    return f"<details><summary>{escaped(title)}</summary><pre>{escaped(run.command)}</pre>{tail}</details>\n"
