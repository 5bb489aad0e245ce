"""Runs tutorials: `python -m support.tutorial PAGE ...` executes the Python of each in order.

A block with a title is a file, which is written where its title says; the others share their
names, as in one session. Each page has a process and a folder of its own, called after the page;
what all of them import is imported once, before they part.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

# Imports only: nothing has computed when the pages part.
IMPORTED = (
    "lightning_fabric", "matplotlib.figure", "onnxruntime", "onnxscript", "optuna", "scipy.stats",
    "sklearn.kernel_ridge", "timm", "torch.onnx", "torchvision", "vitrail.jobs.fit",
    "vitrail.jobs.train",
)  # fmt: skip
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


def run_in(folder: Path, page: Path) -> None:
    """Execute a page in a new folder."""
    folder.mkdir()
    os.chdir(folder)
    run(page)


if __name__ == "__main__":
    for name in IMPORTED:
        import_module(name)
    failed = []
    for page in map(Path, sys.argv[1:]):
        one = multiprocessing.get_context("fork").Process(
            target=run_in, args=(Path(page.stem), page)
        )
        one.start()
        one.join()
        failed += [page.stem] if one.exitcode else []
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
