"""The documents are as the code says: the catalog, the tutorials, the site, the ways of working."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from vitrail.cli import app
from vitrail.models.__main__ import page

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
DESIGN = DOCS / "design.md"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
PROSE = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")]
SHELL = [
    line
    for path in PROSE
    for text in re.findall(r"^```sh\n(.*?)^```$", path.read_text(), re.S | re.M)
    for line in text.splitlines()
]
# What makes a browser fetch something: a link that is followed by hand does not.
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)"""
)


def environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return os.environ | {"PYTHONPATH": path, "VITRAIL_CACHE": str(folder / "cache")}


def test_models_page_is_current():
    assert (DOCS / "models.md").read_text() == page(), "run `make docs`"


@pytest.mark.long
def test_tutorials_run(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "support.tutorial", *map(str, TUTORIALS)],
        cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for tutorial in TUTORIALS:  # each of them ends with a finished run
        runs = (tmp_path / tutorial.stem).glob("*-run")
        assert [run for run in runs if (run / "model.onnx").is_file()], tutorial


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith("vitrail ")])
def test_commands_are_understood(line):
    name, *rest = shlex.split(line)[1:]
    typer.main.get_command(app).commands[name].make_context(name, rest).close()  # pyright: ignore


def test_make_targets_are_there_and_explained():
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", text, re.M))
    named = {line.split()[1] for line in SHELL if line.startswith("make ")}
    assert named and named <= targets
    done = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {line.split()[0] for line in done.stdout.splitlines()} == targets
    assert set(re.search(r"^\.PHONY: (.*)$", text, re.M)[1].split()) == targets  # pyright: ignore


def test_paths_that_are_named_exist():
    """A file or folder in code type is there, unless NAME stands for one that is to come."""
    for path in (ROOT / "CONTRIBUTING.md", DOCS / "tutorials" / "your-folder.md"):
        for named in re.findall(r"`((?:vitrail|tests|docs|bench)/[^\s`]*)`", path.read_text()):
            assert "NAME" in named or (ROOT / named).exists(), f"{path.name}: {named}"
    for named in re.findall(r"`([a-z_]+/[a-z_/]+\.(?:py|json|md))`", DESIGN.read_text()):
        assert any((base / named).exists() for base in (ROOT, ROOT / "vitrail")), named


@pytest.mark.long
def test_the_site_is_whole_and_fetches_nothing(tmp_path):
    """No dead link, no unknown name in the API, and nothing from elsewhere when it is read."""
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT, env=environment(tmp_path) | {"NO_MKDOCS_2_WARNING": "1"}, check=True,
    )  # fmt: skip
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 10
    for built in pages:
        assert not FETCHED.findall(built.read_text()), built
    assert not [
        css for css in tmp_path.rglob("*.css") if re.search(r"url\(\W*http", css.read_text())
    ]
    front = (tmp_path / "api" / "index.html").read_text()
    assert all(f'id="vitrail.models.{name}"' in front for name in ("create", "load", "catalog"))
