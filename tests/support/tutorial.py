"""Runs a tutorial: `python -m support.tutorial PAGE` executes its blocks of Python in order.

A block with a title is a file, which is written where its title says; the others share their
names, as in one session.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

BLOCK = re.compile(r'^```python(?: title="([^"]+)")?\n(.*?)^```$', re.S | re.M)


def run(page: Path) -> None:
    """Execute the blocks of a page in the working directory."""
    text = page.read_text()
    names: dict[str, Any] = {}
    for block in BLOCK.finditer(text):
        title, code = block.groups()
        if title:
            Path(title).parent.mkdir(parents=True, exist_ok=True)
            Path(title).write_text(code)
            continue
        # Tracebacks name the line of the page.
        lines = text.count("\n", 0, block.start(2))
        exec(compile("\n" * lines + code, str(page), "exec"), names)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
