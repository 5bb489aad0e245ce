"""One output of a notebook's cell that changes in place, where a notebook is running."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup, escape

from vitrail.report.text import plain

# Lines that stay below the table; a fit says about thirty.
MOST_LINES = 200


class Output:
    """The output of a cell; `handle` is IPython's, which replaces what was shown."""

    def __init__(self, handle: Any, html: Callable[[str], Any]) -> None:
        self._handle, self._html = handle, html

    def show(self, markup: str) -> None:
        """Show this instead of what is there."""
        self._handle.update(self._html(markup))


def output() -> Output | None:
    """Return a new output below the running cell; None outside of notebooks.

    IPython is not imported: whoever runs in it has it. In its terminal nothing can be replaced.
    """
    running = sys.modules.get("IPython")
    shell = running.get_ipython() if running is not None else None
    if shell is None or getattr(shell, "kernel", None) is None:
        return None
    from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]

    handle = display(HTML(""), display_id=True)
    return None if handle is None else Output(handle, HTML)


class Lines(io.TextIOBase):
    """A file whose whole lines go to `told`, for a console that prints into an output."""

    def __init__(self, told: Callable[[str], None]) -> None:
        self._told, self._rest = told, ""

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str, /) -> int:
        """Hand over every line that is complete."""
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            self._told(line)
        return len(text)


def progress(
    head: str, left: str, titles: Sequence[str], rows: Sequence[Sequence[str]], lines: Sequence[str]
) -> str:
    """Return what a training shows: the phase, the time left, candidates, and what was said."""
    parts = [Markup("<div><b>{}</b> {}</div>").format(plain(head), left)]
    if rows:
        parts.append(Markup("<table>{}{}</table>").format(_row("th", titles), _body(rows)))
    if lines:
        said = "\n".join(map(plain, lines[-MOST_LINES:]))
        style = "white-space: pre-wrap; overflow-wrap: anywhere"
        parts.append(Markup('<pre style="{}">{}</pre>').format(style, said))
    return str(Markup("").join(parts))


def _body(rows: Sequence[Sequence[str]]) -> Markup:
    return Markup("").join(_row("td", row) for row in rows)


def _row(tag: str, cells: Sequence[str]) -> Markup:
    made = [Markup(f"<{tag}>{escape(plain(cell))}</{tag}>") for cell in cells]
    return Markup("<tr>{}</tr>").format(Markup("").join(made))
