import csv
import io
import math
from html.parser import HTMLParser

import numpy as np
import pytest

from curl_rl.report.page.tables import Table, Value, shown

NASTY = 'a_b & 50% #1 {x} | <b>"q"</b> $5 ~ ^ \\ *'
TABLE = Table(
    "demo",
    "Title with <i> & _",
    ("Task", "own [best]", "other", "Runs", "Text"),
    (
        ("dmc/a_b", Value(582.25, 146.0, 10), Value(0.5, low=0.25, high=0.75), 3, NASTY),
        ("dmc/c", Value(-20.7, None, 1), None, 12_000, None),
    ),
    "A note.",
    own=1,
)


class Reader(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (Value(582.25, 146.0, 10), "582 ± 146 (10)"),
        (Value(0.9, 5.31, 20), "0.90 ± 5.31 (20)"),
        (Value(2428.4, None, 1), "2,428 (1)"),
        (Value(-20.66), "−20.7"),
        (Value(-0.0001), "0.000"),
        (Value(0.381, low=0.35, high=0.412), "0.381 [0.350, 0.412]"),
        (Value(12.5, decimals=1), "12.5"),
        (Value(100.0, decimals=1), "100.0"),
        (Value(0.381, low=math.nan, high=math.nan), "0.381"),
        (100_000, "100,000"),
        (None, ""),
        ("text", "text"),
    ],
)
def test_cells_are_shown_with_three_digits(cell, text):
    assert shown(cell) == text


def test_csv_holds_plain_numbers_of_full_precision():
    others = ("other", "other low", "other high", "Runs", "Text")
    rows = list(csv.reader(io.StringIO(TABLE.to_csv())))
    assert rows == [
        [*["Task", "own [best]", "own [best] standard deviation", "own [best] seeds"], *others],
        ["dmc/a_b", "582.25", "146.0", "10", "0.5", "0.25", "0.75", "3", NASTY],
        ["dmc/c", "-20.7", "", "1", "", "", "", "12000", ""],
    ]


def test_markdown_cells_cannot_break_the_table():
    lines = TABLE.to_markdown().splitlines()
    assert lines[2] == r"| Task | own \[best\] | other | Runs | Text |"
    assert lines[3] == "| --- | --- | --- | --- | --- |"
    row = lines[4].replace(r"\\", "").replace(r"\|", "")
    assert row.count("|") == 6
    assert r"\<b>" in lines[4]
    assert lines[-1] == "A note."
    assert "one line" in Table("x", "t", ("A",), (("one\nline",),)).to_markdown()


def test_latex_escapes_what_it_must():
    text = TABLE.to_latex()
    assert r"dmc/a\_b & 582 $\pm$ 146 (10) & 0.500 [0.250, 0.750] & 3" in text
    expected = r"a\_b \& 50\% \#1 \{x\} \textbar{} \textless{}b\textgreater{}"
    assert expected in text
    assert r"\$5 \textasciitilde{} \textasciicircum{} \textbackslash{} *" in text
    assert "$-$20.7 (1)" in text
    assert r"\begin{tabular}{lrrrl}" in text
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(rule) == 1


def test_html_sorts_by_value_and_shows_what_was_written():
    reader = Reader(TABLE.to_html())
    headings = [attributes for tag, attributes in reader.tags if tag == "th" and attributes["scope"] == "col"]
    assert [heading["aria-sort"] for heading in headings] == ["none"] * 5
    assert sum(tag == "button" for tag, _ in reader.tags) == 5
    values = [attributes["data-value"] for _, attributes in reader.tags if "data-value" in attributes]
    assert [float(value) for value in values] == [582.25, 0.5, 3, -20.7, 12000]
    assert NASTY in reader.texts
    assert "b" not in {tag for tag, _ in reader.tags}
    own = [attributes for tag, attributes in reader.tags if tag == "td" and "own" in attributes.get("class", "")]
    assert len(own) == 2


def test_a_range_stands_among_numbers():
    table = Table("x", "x", ("Method", "Runs", "Score (of 1)"), (("a", 100, "b"), ("c", "52-60", "1-2 d")))
    assert '<th scope="col" aria-sort="none" class="number"><button type="button">Runs<' in table.to_html()
    assert '<td class="number">52-60</td><td>1-2 d</td>' in table.to_html()
    assert "Score <span>(of 1)</span>" in table.to_html()
    assert r"\begin{tabular}{lrl}" in table.to_latex()


def test_a_name_that_looks_like_a_formula_runs_nothing_in_a_spreadsheet():
    table = Table("x", "=t", ("@a", "+b"), (("=1+1", Value(-19.3)), ("-2+3", "-0.5")))
    assert list(csv.reader(io.StringIO(table.to_csv()))) == [["'@a", "'+b"], ["'=1+1", "-19.3"], ["'-2+3", "-0.5"]]
    head, _, *rows = table.to_markdown().splitlines()[2:]
    assert (head, rows) == ("| '@a | '+b |", ["| '=1+1 | −19.3 |", "| '-2+3 | -0.5 |"])


def test_hidden_characters_are_seen_in_every_format():
    table = Table("x", "t\0", ("a\u202eb", "\ud800"), (("c\x1b", "d\r\ne\u2028f"),), "n\x07")
    for text in (table.to_csv(), table.to_markdown(), table.to_latex(), table.to_html()):
        assert text.encode()
        assert not set(text) & set("\0\u202e\ud800\x1b\r\u2028\x07")
        assert all(seen in text for seen in ("u202eb", "x1b", "u2028f"))
    assert len(table.to_markdown().splitlines()) == 7
    assert list(csv.reader(io.StringIO(table.to_csv())))[1] == [r"c\x1b", "d\ne\\u2028f"]


def test_markdown_and_latex_take_names_for_names():
    table = Table("x", "t", ("a", "b"), (("[x]", "$y$ &lt; ~z~ _w_ v_w"), ("*", "c")))
    assert table.to_markdown().splitlines()[4] == r"| \[x\] | \$y\$ \&lt; \~z\~ \_w\_ v_w |"
    latex = table.to_latex()
    assert "\n{[}x] & " in latex  # after \\ a bracket would be an option of it
    assert "\n{*} & c" in latex


def test_rows_of_another_length_are_refused():
    with pytest.raises(ValueError, match="2 cells"):
        Table("x", "x", ("a", "b"), ((1,),))


def test_a_deviation_is_of_three_values_or_more():
    assert Value.of(np.array([])) is None
    assert Value.of(np.array([4.0])) == Value(4.0, None, 1)
    assert Value.of(np.array([10.0, 12.0])) == Value(11.0, None, 2)
    assert Value.of(np.array([1.0, 2.0, 6.0])) == Value(3.0, pytest.approx(math.sqrt(7)), 3)
