"""Builds a report of run directories: the page, its figures and its tables, and the comparison of two runs."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from curl_rl.config.suites import SUITES
from curl_rl.report.numbers.results import Results, gather
from curl_rl.report.page import contents, figures
from curl_rl.report.page import html as page
from curl_rl.report.page.comparison import compare
from curl_rl.report.page.figures import Drawing
from curl_rl.report.page.tables import Table, counted
from curl_rl.report.read.sections import Absent, read, read_sections
from curl_rl.run.cells import escaped
from curl_rl.run.files import WriteError, check_folder, check_target, write_whole, writing

_SUFFIXES = {f"{kind}s": tuple(formats) for kind, formats in page.FORMATS.items()}  # by folder
_NAME = re.compile(rf"(({'|'.join(SUITES)})_\d+|comparison)_[a-z_]+|without_score")  # of a table or figure


def build_report(folders: Sequence[Path], out: Path) -> Path:
    """Write the report of all runs in or below some folders and return its page, `out/index.html`.

    Raises ConfigError for runs that cannot be pooled and where there are none, WriteError for a place that cannot be
    written.
    """
    check_place(out)
    sections, absent = read_sections(folders)
    results = [gather(section) for section in sections]
    tables: list[Table] = []
    drawings: list[Drawing] = []
    parts = []
    for result in results:
        blocks, drawn, runs = contents.blocks(result), figures.of_section(result), contents.runs_table(result)
        parts.append(page.section_part(result.section, blocks, drawn, runs))
        tables += [*(table for block in blocks for table in (*block.tables, *block.folded)), runs]
        drawings += drawn.values()
    if absent:
        table = contents.absent_table(absent)
        parts.append(page.Part("without-score", table.title, page.absent_html(table, absent)))
        tables.append(table)
    text = page.page("Results of curl-rl", _summary(results, absent), parts)
    return write(out, text, tables, drawings)


def compare_runs(first: Path, second: Path, out: Path | None) -> str:
    """Return what two runs of one task scored, as lines for a terminal; with `out` also write a page with their curves.

    Raises ConfigError for runs of different tasks, or without an evaluation.
    """
    if out is not None:
        check_place(out)
    comparison = compare(read(first), read(second))
    if out is not None:
        drawing = figures.of_runs(comparison.curves, comparison.title)
        parts = [
            page.Part("curves", "Curves", page.show_figure(drawing) + page.note(comparison.bands)),
            page.Part("evaluations", "Evaluations", page.show_table(comparison.tables[0])),
            page.Part("configurations", "Configurations", page.show_table(comparison.tables[1])),
            page.Part("origins", "Code and machines", page.show_table(comparison.tables[2])),
            page.Part("commands", "Commands", page.commands_html(comparison.runs)),
        ]
        summary = "".join(page.note(text, "warning") for text in comparison.warnings)
        summary += f"<p>{escaped(comparison.verdict)}</p>\n"
        write(out, page.page(comparison.title, summary, parts), comparison.tables, [drawing])
    return comparison.text()


def check_place(out: Path) -> None:
    """Raise WriteError where no folder can be made of `out`, or where another page than a report is in the way."""
    check_folder(out)
    if (out / "index.html").exists() and not all((out / folder).is_dir() for folder in _SUFFIXES):
        raise WriteError(f"{out / 'index.html'} is no report's: give another --out, or move it away")


def write(out: Path, text: str, tables: Iterable[Table], drawings: Iterable[Drawing]) -> Path:
    """Write a page with the files that it links to, the page last, and return its path.

    Raises WriteError, before anything is written where it can be known.
    """
    files: dict[Path, str | bytes] = {}
    for folder, shown in (("tables", tables), ("figures", drawings)):
        for one in shown:
            files |= {out / folder / f"{one.name}{suffix}": content for suffix, content in one.files().items()}
    folders, index = [out / folder for folder in _SUFFIXES], out / "index.html"
    for folder in folders:
        check_folder(folder)
    for path in (*files, index):
        check_target(path)
    for folder in folders:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
    write_whole({**files, index: text})
    for path in (path for folder in folders for path in folder.iterdir() if path not in files):
        # What an earlier report left, by the names that reports give; nothing else is theirs.
        if path.suffix in _SUFFIXES[path.parent.name] and _NAME.fullmatch(path.stem) and path.is_file():
            path.unlink()
    return index


def _summary(results: Sequence[Results], absent: Sequence[Absent]) -> str:
    lines = [
        f"{escaped(result.section.title)}: {counted(len(result.section.runs), 'finished run')} of "
        f"{counted(len(result.section.methods), 'method')} on {counted(len(result.section.tasks), 'task')}."
        for result in results
    ]
    html = "".join(f"<p>{line}</p>\n" for line in lines) or page.note("No run is finished yet.", "warning")
    if absent:
        states = {state: sum(run.status == state for run in absent) for state in sorted({run.status for run in absent})}
        told = ", ".join(f"{count} {state}" for state, count in states.items())
        html += f'<p class="warning" role="note"><a href="#without-score">Without a score</a>: {escaped(told)}.</p>\n'
    return html
