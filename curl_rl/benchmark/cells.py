"""How text from outside is shown: nothing in it breaks a page, hides what it says, or runs in a spreadsheet."""

import re
from html import escape

# Control characters but the tab and the line end, marks that turn the reading direction, halves of characters, and what
# XML forbids; lines and paragraphs have separators of their own, which end a line where no one expects it.
_HIDDEN = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
_FORMULA = re.compile(r"[=+\-@\t\n\uff1d\uff0b\uff0d\uff20].", re.DOTALL)  # the last four are wide forms


def printable(text: str) -> str:
    r"""Return a text whose hidden characters are written out, as \x1b or \u202e; a line ends with \n alone."""
    return _HIDDEN.sub(_written_out, re.sub("\r\n?", "\n", text))


def one_line(text: str) -> str:
    """Return a name as one printable line."""
    return printable(text).replace("\n", r"\n").replace("\t", r"\t")


def inert(text: str) -> str:
    """Return a printable text that no spreadsheet takes for a formula: one that begins like it gets an apostrophe.

    Numbers stay numbers.
    """
    text = printable(text)
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def escaped(text: str) -> str:
    """Return a text as a page holds it, between tags or as an attribute's value."""
    return escape(printable(text))


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
