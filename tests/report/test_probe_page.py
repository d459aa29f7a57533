"""The page of probes: what is one value, what is put first, and what the page embeds."""

import numpy as np
import pytest

from curl_rl.report.page.probes import of_makers, of_probe, ordered
from curl_rl.report.probes import build_probe_page
from curl_rl.run.measurements import merge_rows
from curl_rl.types import ConfigError


def row(subject, value, *, encoder="", seed=1, layer="features", quantity="accuracy", probe="linear"):
    told = {"subject": subject, "encoder": encoder or subject, "probe": probe, "seed": str(seed)}
    made = {"command": "curl-rl probe", "commit": "abc", "versions": "v", "hardware": "2 x <cpu>"}
    return {**told, "layer": layer, "quantity": quantity, "value": str(value), **made}


ROWS = [
    row("byol", 0.8, encoder="byol-seed1", seed=1),
    row("byol", 0.6, encoder="byol-seed1", seed=2),
    row("byol", 0.9, encoder="byol-seed2", seed=1),
    row("byol", 0.9, encoder="byol-seed2", seed=2),
    row("simclr", 0.95, seed=1),
    row("simclr", 0.93, seed=2),
    row("untrained", 0.5, encoder="untrained-seed1"),
    row("pixels", 0.7),
    row("simclr", 0.4, layer="map"),
    row("broken", float("nan")),
]


def test_a_subject_of_several_encoders_has_a_value_for_each():
    _, table, drawing = of_probe("linear", ROWS)
    assert table.columns == ("Encoder", "features accuracy", "map accuracy")
    assert [cells[0] for cells in table.rows] == ["pixels", "untrained", "simclr", "byol", "broken"]
    cells = {name: value for name, value, _ in table.rows}
    assert cells["byol"].number == pytest.approx(np.mean([0.7, 0.9]))
    assert (cells["byol"].low, cells["byol"].high) == (pytest.approx(0.7), pytest.approx(0.9))
    assert (cells["simclr"].low, cells["simclr"].high) == (pytest.approx(0.93), pytest.approx(0.95))
    assert np.isnan(cells["broken"].number)
    assert np.isnan(cells["pixels"].low)  # one value has no interval
    assert table.rows[0][2] is None  # pixels have no map
    assert drawing is not None
    assert "features accuracy" in drawing.svg
    assert "map accuracy" in drawing.svg  # of which the first row has none
    assert ordered(ROWS)[:2] == ["pixels", "untrained"]


def test_the_page_tells_what_made_its_numbers_and_escapes_it():
    html = of_makers([*ROWS, {**ROWS[0], "commit": ""}]).html
    assert "10 numbers" in html
    assert "1 number" in html
    assert "2 x &lt;cpu&gt;" in html


def test_each_command_is_told_once_a_line():
    commands = ["curl-rl probe a --data <x>", "curl-rl probe b --data <x>"]
    html = of_makers([{**each, "command": commands[place % 2]} for place, each in enumerate(ROWS)]).html
    assert "<pre>curl-rl probe a --data &lt;x&gt;\ncurl-rl probe b --data &lt;x&gt;</pre>" in html
    assert html.count("<details") == 1


def test_the_page_is_built_from_the_table(tmp_path):
    with pytest.raises(ConfigError, match=r"has no probe\.csv: curl-rl probe"):
        build_probe_page(tmp_path)
    merge_rows(tmp_path / "probe.csv", [*ROWS, row("simclr", 3.0, probe="mine", quantity="size")], ("encoder",))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "byol.png").write_bytes(b"\x89PNG")
    page = build_probe_page(tmp_path).read_text()
    assert "img-src data:" in page
    assert page.count("<img ") == 1
    assert 'id="mine"' in page  # a probe of one's own
    assert (tmp_path / "figures" / "probe_linear.svg").is_file()
    (tmp_path / "tables" / "probe_gone.md").write_text("of an earlier table")
    assert build_probe_page(tmp_path).is_file()
