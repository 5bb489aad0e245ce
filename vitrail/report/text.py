"""Text from outside, such as names of files and classes, made safe for terminal, page and CSV."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from urllib.parse import quote

from markupsafe import Markup, escape

# What a terminal obeys or what turns a line around instead of being shown: C0, DEL, C1, the marks
# and overrides of text direction, line and paragraph separators, and halves of surrogate pairs.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def plain(text: str, *, lines: bool = False) -> str:
    """Replace every control character of a text by its escape: ESC becomes the four signs \\x1b.

    `lines` keeps newlines and tabs, for a text that is meant to have several lines.
    """
    kept = "\n\t" if lines else ""
    return _HIDDEN.sub(lambda found: found[0] if found[0] in kept else _escape(found[0]), text)


def sentence(text: str) -> str:
    """Make one line of a text: breaks and runs of blanks become one blank, then as `plain`."""
    return plain(" ".join(re.split(r"[ \t\r\n]+", text.strip(" \t\r\n"))))


def cell(text: str) -> str:
    """Return a text as a spreadsheet may open it: plain, and never a formula.

    A leading =, +, - or @, also of full width, is kept from being computed by an apostrophe before
    it.
    """
    shown = plain(text)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


def coded(text: str | Markup) -> Markup:
    """Return a text for a page: escaped unless it is already, code where it is in backticks."""
    safe = text if isinstance(text, Markup) else escape(plain(text, lines=True))
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(safe)))


def link(page: str | os.PathLike) -> Markup:
    """Return a link to a report for a notebook.

    A colon is escaped as well, so that no name of a folder is taken for a scheme.
    """
    return Markup('<a href="{}">report</a>').format(quote(os.fspath(page)))


def in_notebook(
    title: str, rows: Iterable[tuple[str, str]], page: str | os.PathLike | None = None
) -> str:
    """Return a result as a notebook shows it: a title, rows of figures, a link to its report."""
    cells = Markup("").join(
        Markup("<tr><td>{}</td><td>{}</td></tr>").format(plain(name), plain(value))
        for name, value in rows
    )
    more = link(page) if page is not None else ""
    return str(Markup("<b>{}</b><table>{}</table>{}").format(plain(title), cells, more))


def _escape(sign: str) -> str:
    code = ord(sign)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
