"""What an error tells to install can be installed, wherever vitrail came from."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from vitrail.errors import DataError, extra

ROOT = Path(__file__).parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
NAMED = {
    name
    for path in (ROOT / "vitrail").rglob("*.py")
    for name in re.findall(r"""\bextra\(["'](\w+)["']\)""", path.read_text())
}


@pytest.mark.parametrize("name", sorted(NAMED))
def test_an_error_names_the_packages_of_an_extra(name, monkeypatch):
    # What is installed may be older than the project file.
    lines = [f"{need}; extra == '{key}'" for key, needs in EXTRAS.items() for need in needs]
    monkeypatch.setattr(metadata, "requires", lambda _: ["numpy>=2.1", *lines])
    words = extra(name)
    assert words.startswith("pip install '")
    assert set(re.findall(r"'([^']+)'", words)) == set(EXTRAS[name])


def test_no_error_names_vitrail_as_if_an_index_had_it():
    named = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "vitrail").rglob("*.py")
        if re.search(r"vitrail\[\w+\]", path.read_text()) and path.name != "errors.py"
    ]
    assert NAMED and not named


def test_sources_that_are_not_installed_name_their_folder(monkeypatch):
    def missing(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    assert extra("parquet") == f"pip install '{ROOT}[parquet]'"


def test_no_message_is_endless():
    told = str(DataError(f"a.csv, row 3: {'x' * 1_000_000} is unknown: name a class"))
    assert len(told) < 3100
    assert told.startswith("a.csv, row 3: xxx") and told.endswith("xxx is unknown: name a class")
    assert str(DataError("a.csv is empty")) == "a.csv is empty" and not str(DataError())
