"""Runs that were made smaller out of one another, and what each of them is worth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitrail.config import read_json
from vitrail.errors import VitrailError
from vitrail.report.compression import Worth
from vitrail.report.kin import Kin
from vitrail.run.folder import RESTORE, RunFolder

WHOLE = "whole"


def kin(folder: Path, source: Path, test: int) -> list[Kin]:
    """Return the runs beside `folder` that were made of what it was made of, and that one itself.

    They are judged on `test` images, as many as this one; what is beside them and cannot be read
    is none of them.
    """
    root = _root(source)
    found = []
    for path in sorted({root, *_beside(folder.resolve().parent)}):
        if path == folder.resolve() or _root(path) != root:
            continue
        told = _result(path)
        if told is not None and told["test"]["n"] == test:
            found.append(Kin(path.name, way(path), _worth(told)))
    return found


def way(path: Path) -> str:
    """Return by which methods a run was made smaller, one behind the other: "up + int8"."""
    methods: list[str] = []
    for told in _chain(path):
        made = told.get("compressed")
        methods += [made["method"]] if made else []
    return " + ".join(reversed(methods)) or WHOLE


def _beside(parent: Path) -> Iterator[Path]:
    for path in parent.iterdir():
        if RunFolder(path).result.is_file():
            yield path


def _root(path: Path) -> Path:
    """Return the run at the beginning of a chain of smaller ones."""
    for told in _chain(path):
        made = told.get("compressed")
        path = Path(made["source"]) if made else path
    return path.resolve()


def _chain(path: Path) -> Iterator[dict[str, Any]]:
    """Give the results of a run, of what it was made of, and so on."""
    seen: set[Path] = set()
    while (path := path.resolve()) not in seen and (told := _result(path)) is not None:
        seen.add(path)
        yield told
        if "compressed" not in told:
            return
        path = Path(told["compressed"]["source"])


def _result(path: Path) -> dict[str, Any] | None:
    """Return what a run's result says, None for what is none or lacks something."""
    try:
        told = read_json(RunFolder(path).result, dict, remedy=RESTORE)
    except VitrailError:
        return None
    parts = [told.get(name) for name in ("test", "latency", "model")]
    known = {"accuracy", "low", "high", "n"} <= set(parts[0] or ())
    return told if known and all(isinstance(part, dict) for part in parts) else None


def _worth(told: dict[str, Any]) -> Worth:
    test, model = told["test"], told["model"]
    return Worth(
        test["accuracy"], test["low"], test["high"], test["n"], model["macs"], model["params"],
        told["latency"]["p50_s"], told.get("size_bytes"),
    )  # fmt: skip
