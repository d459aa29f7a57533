"""How text from outside is shown: nothing in it breaks a page, hides what it says, or runs in a spreadsheet."""

import re
from contextlib import suppress
from html import escape

# Control characters but the tab and the line end, marks that turn the reading direction, halves of characters, and what
# XML forbids; lines and paragraphs have separators of their own, which end a line where no one expects it.
_HIDDEN = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
_FORMULA = re.compile(r"[=+\-@\t\n\uff1d\uff0b\uff0d\uff20].", re.DOTALL)  # the last four are wide forms


def printable(text: str) -> str:
    r"""Return a text whose hidden characters are written out, as \x1b or \u202e; a line ends with \n alone."""
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), re.sub("\r\n?", "\n", text))


def one_line(text: str) -> str:
    """Return a name as one printable line."""
    return printable(text).replace("\n", r"\n").replace("\t", r"\t")


def inert(text: str) -> str:
    """Return a printable text, with an apostrophe where a spreadsheet would take it for a formula and no number."""
    text = printable(text)
    with suppress(ValueError):
        float(text)
        return text
    return f"'{text}" if _FORMULA.match(text) else text


def escaped(text: str) -> str:
    """Return a text as a page holds it, between tags or as an attribute's value."""
    return escape(printable(text))
