"""Builds the page of what encoders know, from the table and the pictures that `curl-rl probe` left."""

from pathlib import Path

from curl_rl.report.build import check_place, write
from curl_rl.report.page import html as page
from curl_rl.report.page.probes import of_makers, of_pictures, of_probe, ordered
from curl_rl.report.page.tables import counted
from curl_rl.run.cells import escaped
from curl_rl.run.measurements import read_rows
from curl_rl.types import ConfigError

_NOTE = (
    "Features are frozen. Pixels, shrunk to 21 x 21, and untrained encoders of the same kind stand beside. An interval "
    "is over encoders that differ in their seed, or over the probe's seeds where there is one encoder: percentiles of "
    "the bootstrap, which of few are too narrow."
)


def build_probe_page(folder: Path) -> Path:
    """Write tables, figures and `index.html` beside a folder's `probe.csv`; return the page.

    Raises ConfigError where there is no table, WriteError for a place that cannot be written.
    """
    check_place(folder)
    if not (rows := read_rows(folder / "probe.csv")):
        raise ConfigError(f"{folder} has no probe.csv: curl-rl probe ENC --data SOURCE --out {folder}")
    parts, tables, drawings = [], [], []
    for probe in sorted({row["probe"] for row in rows}):
        part, table, drawing = of_probe(probe, [row for row in rows if row["probe"] == probe])
        parts.append(part)
        tables.append(table)
        drawings += [drawing] if drawing else []
    parts += [of_pictures(folder / "pictures", ordered(rows)), of_makers(rows)]
    subjects = {row["subject"] for row in rows}
    summary = f"<p>{escaped(counted(len(subjects), 'subject'))}, {escaped(counted(len(parts) - 2, 'probe'))}.</p>\n"
    return write(folder, page.page("What encoders know", summary + page.note(_NOTE), parts), tables, drawings)
