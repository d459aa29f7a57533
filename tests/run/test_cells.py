"""Text from outside is shown as it is, as far as that is safe, and otherwise so that one sees what it holds."""

import unicodedata

import pytest

from curl_rl.run.cells import escaped, inert, one_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\0b\x1b[31m\x7f\x9b", r"a\x00b\x1b[31m\x7f\x9b"),
        ("a\u202eb\u2066c\u200f", r"a\u202eb\u2066c\u200f"),
        ("a\ud800b\udcff\uffff", r"a\ud800b\udcff\uffff"),
        ("a\u2028b\u2029c\x85\x0c", r"a\u2028b\u2029c\x85\x0c"),
        ("a\r\nb\rc\n\td", "a\nb\nc\n\td"),
        ("Größe 方法 τ 🙂 é — “x”", "Größe 方法 τ 🙂 é — “x”"),
        ("", ""),
    ],
)
def test_hidden_characters_are_written_out_and_the_rest_stays(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown


def test_no_character_that_xml_forbids_or_nobody_sees_is_left():
    everything = "".join(map(chr, range(0x11000)))
    left = set(printable(everything))
    assert {unicodedata.category(c) for c in left} & {"Cc", "Cs", "Zl", "Zp"} == {"Cc"}
    assert {c for c in left if unicodedata.category(c) == "Cc"} == {"\t", "\n"}
    assert not {c for c in left if unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI")}
    assert printable(everything).encode()


def test_names_that_differ_still_differ():
    names = [chr(code) for code in range(0x3000)] + [chr(code) for code in range(0xD800, 0xE000)]
    assert len({one_line(f"m{name}") for name in names}) == len(names) - 1  # \r and \n end a line alike
    assert one_line("a\nb\tc") == r"a\nb\tc"


@pytest.mark.parametrize(
    "text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1", "==== log"]
)
def test_formulas_get_an_apostrophe_once(text):
    assert inert(text) == f"'{printable(text)}"
    assert inert(inert(text)) == inert(text)


@pytest.mark.parametrize("text", ["-19.3", "+1", "-1e-05", "-inf", "−20.7", "curl-rl", "a=b", "", "-", "'=1", "1-2"])
def test_numbers_and_names_stay_as_they_are(text):
    assert inert(text) == text


def test_pages_hold_no_markup_of_others():
    assert escaped("<b>&\"'\0") == "&lt;b&gt;&amp;&quot;&#x27;\\x00"
