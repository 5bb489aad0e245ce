"""Shape annotations are checked at run time in the tests, and nowhere else. The longest tests
start first, so that no process ends with one while the others wait."""

import gc
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    # What is imported by now stays: looking for garbage in it takes long, and finds none.
    gc.collect()
    gc.freeze()
