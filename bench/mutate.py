"""Damage to files: at random in their bytes, and by rule in what their format means.

Every function takes a random.Random and the bytes of a file and returns other bytes.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
import struct
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

Mutation = Callable[[Random, bytes], bytes]

DEEP: Any = []
for _ in range(200):
    DEEP = [DEEP]
STRANGE: Sequence[Any] = (
    0, -1, 1, 2, 10**6, 10**12, 10**40, 0.0, -0.5, 1e-300, 1e308, float("nan"), float("inf"), None,
    True, False, "", "0", "nan", "x" * 10_000, "\ud800", "a\x00b", "../../etc/passwd", "\x1b]0;x",
    [], {}, [[]], [1, 2, 3], ["a"], {"kind": "x"}, {"a": {"b": [None]}}, DEEP,
)  # fmt: skip


def in_bytes(random: Random, data: bytes) -> bytes:
    """Bits turned, bytes set, spans cut, doubled or zeroed, noise put in: one to four of these."""
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(data) + 1)
        span = random.choice((1, 2, 4, 8, 64, 1024))
        noise = random.randbytes(span)
        data = random.choice(
            (
                data[:at] + bytes([noise[0]]) + data[at + 1 :],
                data[:at] + bytes(b ^ (1 << random.randrange(8)) for b in data[at : at + 1])
                + data[at + 1 :],
                data[:at] + data[at + span :],
                data[:at] + data[at : at + span] + data[at:],
                data[:at] + bytes(len(data[at : at + span])) + data[at + span :],
                data[:at] + noise + data[at:],
                data[:at],
                data[at:],
                data[:at] + b"\xff" * len(data[at : at + span]) + data[at + span :],
            )
        )  # fmt: skip
    return data


def in_json(random: Random, data: bytes) -> bytes:
    """One to three places of the tree replaced, removed, doubled or renamed."""
    value = json.loads(data)
    for _ in range(random.randint(1, 3)):
        value = _changed(random, value)
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _changed(random: Random, value: Any) -> Any:
    if not isinstance(value, (dict, list)) or not value or random.random() < 0.15:
        return random.choice(STRANGE)
    if isinstance(value, list):
        at, found = random.randrange(len(value)), list(value)
        found[at : at + 1] = random.choice(([], [found[at]] * 2, [_changed(random, found[at])]))
        return found
    name, found = random.choice(list(value)), dict(value)
    move = random.randrange(5)
    if move == 0:
        del found[name]
    elif move == 1:
        found[random.choice(("", "x", name + "_", "kind", "__class__"))] = found.pop(name)
    else:
        found[name] = _changed(random, found[name])
    return found


def in_lines(random: Random, data: bytes) -> bytes:
    """JSON lines, of which a few change, come twice or trade places."""
    lines = data.splitlines()
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(lines))
        try:
            other = in_json(random, lines[at])
        except ValueError:
            other = in_bytes(random, lines[at])
        lines[at : at + 1] = random.choice(([other], [lines[at], other], [lines[at]] * 2, [b""]))
        lines = lines or [b"{}"]
    return b"\n".join(lines) + random.choice((b"\n", b""))


def in_cells(random: Random, data: bytes) -> bytes:
    """A table of text, some cells of which hold something strange."""
    mark = "\t" if b"\t" in data else ","
    rows = list(csv.reader(io.StringIO(data.decode()), delimiter=mark))
    for _ in range(random.randint(1, 6)):
        row = random.choice(rows) if rows else []
        if not row:
            continue
        at = random.randrange(len(row))
        strange = str(random.choice(STRANGE))[:5000]
        row[at : at + 1] = random.choice(([strange], [], [row[at]] * 2, [f"{row[at]}{strange}"]))
    text = io.StringIO()
    csv.writer(text, delimiter=mark, quoting=random.choice((0, 1))).writerows(rows)
    return text.getvalue().encode(random.choice(("utf-8", "utf-16", "latin-1")), "replace")


def in_words(random: Random, data: bytes) -> bytes:
    """A text, some numbers and words of which are something strange, gone, or there twice."""
    for _ in range(random.randint(1, 4)):
        found = list(re.finditer(rb"[^\s,:;<>/=\[\]{}\"]+", data))
        if not found:
            return data
        one = random.choice(found)
        strange = str(random.choice(STRANGE))[:5000].encode("utf-8", "surrogatepass")
        other = random.choice((strange, b"", one[0] + strange, random.choice(found)[0]))
        data = data[: one.start()] + other + data[one.end() :]
    return data


def in_head(random: Random, data: bytes) -> bytes:
    """Sizes and counts near the beginning of a file set to nothing, to the most, or by chance."""
    for _ in range(random.randint(1, 3)):
        at, span = random.randrange(min(len(data), 200) + 1), random.choice((1, 2, 4, 8))
        value = random.choice((bytes(span), b"\xff" * span, b"\x7f" + b"\xff" * (span - 1),
                               b"\xff" * (span - 1) + b"\x7f", random.randbytes(span)))  # fmt: skip
        data = data[:at] + value + data[at + span :]
    return data


def in_zip(random: Random, data: bytes) -> bytes:
    """A zip with one member damaged, renamed, dropped or doubled."""
    found = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(found, "w") as new:
        names = old.namelist()
        chosen, move = random.choice(names), random.randrange(5)
        for name in names:
            inner = old.read(name)
            if name == chosen:
                if move == 0:
                    continue
                inner = in_bytes(random, inner) if move < 3 else inner
                name = name + random.choice(("", ".npy", "x", "/../x")) if move == 3 else name
            method = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
            new.writestr(name, inner, method)
    return found.getvalue()


def in_safetensors(random: Random, data: bytes) -> bytes:
    """The header changed as JSON, its length kept right."""
    (size,) = struct.unpack("<Q", data[:8])
    header = in_json(random, data[8 : 8 + size])
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def in_sqlite(random: Random, data: bytes) -> bytes:
    """A few cells of a data base set to something strange, or rows removed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.sqlite"
        path.write_bytes(data)
        base = sqlite3.connect(path)
        query = "select name from sqlite_master where type='table'"
        tables = [name for (name,) in base.execute(query)]
        for _ in range(random.randint(1, 4)):
            table = random.choice(tables)
            rows = base.execute(f"select rowid, * from {table}").fetchall()
            if not rows:
                continue
            columns = [row[1] for row in base.execute(f"pragma table_info({table})")]
            row, column = random.choice(rows), random.choice(columns)
            strange = _column(random, row[1 + columns.index(column)])
            try:
                if random.random() < 0.2:
                    base.execute(f"delete from {table} where rowid=?", (row[0],))
                else:
                    base.execute(f"update {table} set {column}=? where rowid=?", (strange, row[0]))
            except (sqlite3.Error, OverflowError, UnicodeError):
                continue
        base.commit()
        base.close()
        return path.read_bytes()


def _column(random: Random, old: Any) -> Any:
    """Something else for a cell, JSON where it holds JSON."""
    if isinstance(old, str) and random.random() < 0.7:
        try:
            return in_json(random, old.encode()).decode("utf-8", "replace")
        except ValueError:
            pass
    strange = random.choice(STRANGE)
    return strange if isinstance(strange, (int, float, str, type(None))) else json.dumps(strange)
