"""Shape annotations are checked at run time in the tests, and nowhere else. The longest tests
start first, so that no process ends with one while the others wait; no file waits for the disk."""

import gc
import os
import sys
from functools import cached_property
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

PACKAGE = Path(__file__).parents[1] / "vitrail"


def annotated(part: str) -> list[str]:
    """Return the modules of a part of the package that annotate shapes: checks cost the others
    time and tell them nothing."""
    return [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in sorted((PACKAGE / part).rglob("*.py"))
        if "jaxtyping" in path.read_text()
    ]


install_import_hook([*annotated("layers"), *annotated("models")], "beartype.beartype")


# No test cuts the power, and a run has a hundred files.
os.fsync = lambda handle: None
# Some machines forbid to keep bytecode; then each process that a test starts, and there are some
# fifty, compiles torch's sources anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_runtest_setup() -> None:
    """Let torch's exporter read each of its 500 functions once a process, not for every file."""
    values = sys.modules.get("onnxscript.values")
    kind = getattr(values, "TracedOnnxFunction", None)
    made = getattr(kind, "function_ir", None)
    if isinstance(made, property) and made.fget is not None:
        kept = cached_property(made.fget)
        kept.__set_name__(kind, "function_ir")
        kind.function_ir = kept


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    # What is imported by now stays: looking for garbage in it takes long, and finds none.
    gc.collect()
    gc.freeze()
