"""`vitrail cache`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitrail.commands.options import Json, console

if TYPE_CHECKING:
    from vitrail.data.store import Entry

_HOLDS = {
    "pixels": "decoded images",
    "latency": "measured latencies",
    "answers": "what teachers said",
    "features": "what frozen networks see of images",
    "downloads": "data sets fetched, kept by --clear",
}


def cache(
    clear: Annotated[
        bool, typer.Option("--clear", help="Remove what no running process uses.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what is kept in $VITRAIL_CACHE (~/.cache/vitrail), how much and how old; or clear it.

    Beyond $VITRAIL_CACHE_LIMIT, by default 10GB, what was not used for longest is removed.
    """
    from vitrail.data import store
    from vitrail.data.builtin import cache_folder
    from vitrail.data.cache import ROOMS, cache_limit

    folder = cache_folder()
    limit, _ = cache_limit()
    found = store.entries(folder)
    gone = []
    if clear:
        gone = _cleared(folder, [entry for entry in found if entry.room in ROOMS])
        found = store.entries(folder)
    if as_json:
        told = {"folder": str(folder), "limit_bytes": limit, "rooms": _rooms(found)}
        print(json.dumps(told | ({"removed": _sums(gone)} if clear else {}), indent=1))
        return
    if clear:
        print(f"removed {_said(gone)}")
    _show(folder, limit, found)


def _cleared(folder: Path, found: list[Entry]) -> list[Entry]:
    from vitrail.data import store
    from vitrail.errors import DataError

    try:
        return [entry for entry in found if store.remove(entry)]
    except OSError as error:
        raise DataError(
            f"the cache {folder} cannot be cleared ({error.strerror}): allow to write to it"
        ) from error


def _show(folder: Path, limit: int, found: list[Entry]) -> None:
    from rich.table import Table

    from vitrail.data import store
    from vitrail.units import size

    now = time.time()
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("what")
    for name in ("files", "size", "last used", "oldest", "in use"):
        table.add_column(name, justify="right")
    for room, files in _by_room(found).items():
        ages = [now - entry.used for entry in files]
        table.add_row(
            _HOLDS.get(room, room), f"{len(files):,}", size(sum(entry.size for entry in files)),
            _age(min(ages)), _age(max(ages)), str(sum(map(store.in_use, files)) or ""),
        )  # fmt: skip
    print(f"{folder}: {_said(found)}; limit {size(limit)} (VITRAIL_CACHE_LIMIT)")
    if found:
        console().print(table)


def _by_room(found: list[Entry]) -> dict[str, list[Entry]]:
    rooms: dict[str, list[Entry]] = {}
    for entry in found:
        rooms.setdefault(entry.room, []).append(entry)
    return rooms


def _rooms(found: list[Entry]) -> dict[str, dict[str, float]]:
    """Return files, bytes and seconds since the last use, of the newest
    and the oldest of each room.
    """
    from vitrail.data import store

    now = time.time()
    return {
        room: {
            **_sums(files),
            "used_s": round(now - max(entry.used for entry in files)),
            "oldest_s": round(now - min(entry.used for entry in files)),
            "in_use": sum(map(store.in_use, files)),
        }
        for room, files in _by_room(found).items()
    }


def _sums(found: list[Entry]) -> dict[str, float]:
    return {"files": len(found), "bytes": sum(entry.size for entry in found)}


def _said(found: list[Entry]) -> str:
    from vitrail.units import counted, size

    return f"{counted(len(found), 'file')}, {size(sum(entry.size for entry in found))}"


def _age(seconds: float) -> str:
    """Say how long ago something was, in the largest unit that fits."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"
