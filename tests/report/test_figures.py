import re
import warnings
from xml.etree import ElementTree

import pytest
from fake_runs import write_suite

from curl_rl.report.numbers.results import gather
from curl_rl.report.page import figures
from curl_rl.report.page.figures import looks, of_section, render
from curl_rl.report.read.sections import read_sections

METHODS = ("curl", "$none_<x>&")


@pytest.fixture(scope="module")
def drawings(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    levels = {method: {"dmc/walker_walk": 500.0, "dmc/cheetah_run": 300.0} for method in METHODS}
    write_suite(root, levels, seeds=2)
    return of_section(gather(read_sections([root])[0][0]))


def drawn(draw=lambda: figures.blank(2.0)[0]):
    drawing = render("demo", "A <title>", draw)
    assert drawing is not None
    return drawing


def test_every_kind_is_drawn_in_three_formats(drawings):
    assert list(drawings) == ["scores", "aggregates", "improvement", "profiles", "curves", "efficiency"]
    for kind, drawing in drawings.items():
        assert drawing.name == f"dmc_100000_{kind}"
        assert drawing.png.startswith(b"\x89PNG")
        assert drawing.pdf.startswith(b"%PDF")
        assert ElementTree.fromstring(drawing.svg).tag.endswith("svg")


def test_text_is_text_in_the_pages_colour(drawings):
    for drawing in drawings.values():
        assert "currentColor" in drawing.svg
        assert "#010203" not in drawing.svg
        assert "<text" in drawing.svg
        assert "#ffffff" not in drawing.svg.lower()  # nothing opaque behind it
    labels = "".join(ElementTree.fromstring(drawings["scores"].svg).itertext())
    for name in (*METHODS, "CURL", "DrQ", "walker_walk"):
        assert name in labels


def test_ids_of_several_figures_are_apart(drawings):
    ids = [re.findall(r'\bid="([^"]+)"', drawing.svg) for drawing in drawings.values()]
    everything = [name for names in ids for name in names]
    assert len(everything) == len(set(everything)) > 50
    for drawing in drawings.values():
        used = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', drawing.svg)
        assert used
        assert {a or b for a, b in used} <= set(everything)


def test_figures_are_the_same_each_time():
    assert drawn() == drawn()


def test_nothing_is_drawn_of_nothing():
    assert render("demo", "A title", lambda: None) is None


def test_the_label_of_a_figure_is_escaped():
    assert 'aria-label="A &lt;title&gt;"' in drawn().svg


def test_names_that_cannot_be_drawn_warn_of_nothing():
    def draw():
        figure, (axes,) = figures.blank(2.0)
        axes.set_title("\u65b9\u6cd5")  # the font has no such glyph
        axes.set_yticks([0], ["n" * 300])  # leaves no room
        return figure

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert "\u65b9\u6cd5" in drawn(draw).svg
    assert [str(warning.message) for warning in caught] == []


def test_other_warnings_are_heard():
    def draw():
        warnings.warn("mind this", UserWarning, stacklevel=1)
        return figures.blank(2.0)[0]

    with pytest.warns(UserWarning, match="mind this"):
        drawn(draw)


def test_many_methods_look_different():
    own = [f"m{i}" for i in range(20)]
    found = looks(own, ["paper", "m1"])
    assert len({(look.colour, look.line) for look in map(found.get, own) if look}) == 20
    assert found["paper"].hollow
    assert not found["m1"].hollow
