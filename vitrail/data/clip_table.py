"""A source of clips with sounds and sentences: a table with a row for each, cells left empty where
there is none.

    clip,sound,sentence,label,split
    clips/a.mp4,sounds/a.wav,a ball flies to the left,ball,train
    clips/a.mp4,,something moves,ball,train            another sentence of the same clip
    clips/b.mp4,sounds/b.wav,,door,train               no sentence
    clips/c.mp4,clips/c.mp4,a bell rings,bell,train    its own sound track

Clips are what sounds and sentences are compared with, so a row needs one. Labels are never learned
from: they tell how often a class that is asked for in words is right.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vitrail.data.captioned import ALL, LABELS, LINES, TEXTS, lines_of, text_of
from vitrail.data.captions import Captions
from vitrail.data.cells import TABLES, Cell, Cells, read_cells
from vitrail.data.source import (
    Finding,
    Item,
    PartName,
    Sampling,
    Severity,
    Source,
    sorted_classes,
)
from vitrail.data.table_parts import filled, held, part_columns, unused
from vitrail.data.tracks import Tracks
from vitrail.data.videos import require_av
from vitrail.data.whereabouts import Whereabouts
from vitrail.errors import DataError
from vitrail.units import counted, shortened

CLIPS = ("clip", "clips", "video", "videos", "movie", "path", "filename", "file", "filepath")
SOUNDS = ("sound", "sounds", "audio", "wav", "wave", "waveform", "soundfile", "audiofile")
_EXPECTED = "expected clip, and sound or sentence or both, and if wanted label and split"
_KINDS: tuple[tuple[str, Severity, str], ...] = (
    ("no clip", "error", "without a clip left out: sounds and sentences are compared with clips"),
    ("clip missing", "error", "whose clip is not a file left out"),
    ("sound missing", "error", "whose sound is not a file, taken without it"),
    ("several sounds", "warning", "with another sound of a clip that has one, taken without it"),
    ("other label", "warning", "with another label than an earlier row of the clip"),
    ("two parts", "error", "of a clip that is listed in two parts, kept out of training"),
    ("nothing beside", "info", "of a clip that has neither a sound nor a sentence, from which the "
     "others are told"),
)  # fmt: skip


@dataclass
class _Listed:
    """What is known of each clip by its key, and the rows with each fault."""

    sounds: dict[str, str | None] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    parts: dict[str, set[PartName | None]] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    more: list[Finding] = field(default_factory=list)

    def fault(self, kind: str, name: str) -> None:
        self.faults.setdefault(kind, []).append(name)

    def findings(self) -> list[Finding]:
        """Say what is wrong, a sentence for each kind."""
        return [
            Finding(kind, severity, f"{counted(len(names), 'row')} {text}",
                    tuple(dict.fromkeys(names)))
            for kind, severity, text in _KINDS
            if (names := self.faults.get(kind))
        ] + self.more  # fmt: skip


@dataclass(frozen=True)
class Sounding:
    """How sounds beside clips are heard: `samples` at `rate` hertz, 0 for what most have."""

    samples: int
    rate: int = 0


def open_clip_table(spec: str | Path, sampling: Sampling, sounding: Sounding) -> Source:
    """List the clips of a table (.csv, .tsv, .parquet, .jsonl) with their sounds and sentences.

    A folder may be given that holds one table. Raises DataError, also where PyAV is missing.
    """
    path = Path(spec).expanduser()
    try:
        table = _table(path)
        cells = lines_of(table) if table.suffix.lower() == LINES else read_cells(table)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    found = _listed(table, cells)
    keys = sorted(found.texts)
    if not keys:
        first = next((f" ({one.message})" for one in found.findings()), "")
        raise DataError(f"{path} names no clip{first}: give a table with the column clip")
    require_av()
    named = all(key in found.labels for key in keys)
    classes = sorted_classes(set(found.labels.values())) if named else ()
    classes = classes if len(classes) > 1 else (ALL,)
    index = {name: at for at, name in enumerate(classes)}
    items = tuple(
        Item(key, index.get(found.labels.get(key, ALL), 0), held(found.parts[key])) for key in keys
    )
    return Source(
        table.resolve().stem, classes, items, str(path), tuple(found.findings()), table.parent,
        captions=Captions([tuple(dict.fromkeys(found.texts[key])) for key in keys]),
        tracks=Tracks(tuple(found.sounds[key] for key in keys), sounding.samples, sounding.rate),
        clips=sampling,
    )  # fmt: skip


def _table(path: Path) -> Path:
    """Return the table that is meant. Raises DataError."""
    kinds = (*TABLES, LINES)
    if path.is_dir():
        inside = [p for p in sorted(path.iterdir()) if p.suffix.lower() in kinds and p.is_file()]
        if len(inside) == 1:
            return inside[0]
        raise DataError(
            f"{path} holds {counted(len(inside), 'table')}: give the one of clip, sound and "
            "sentence"
        )
    if not path.is_file():
        raise DataError(f"{path} does not exist: give a table of clip, sound and sentence")
    if path.suffix.lower() not in kinds:
        raise DataError(
            f"{path} is a file of another kind: give a .csv, .tsv, .parquet or .jsonl of clip, "
            "sound and sentence"
        )
    return path


def _listed(table: Path, cells: Cells) -> _Listed:
    names = ["".join(c for c in name.casefold() if c.isalnum()) for name in cells.names]
    at = {
        kind: next((names.index(name) for name in wanted if name in names), None)
        for kind, wanted in (
            ("clip", CLIPS), ("sound", SOUNDS), ("text", TEXTS), ("label", LABELS),
        )
    }  # fmt: skip
    if at["clip"] is None or (at["sound"] is None and at["text"] is None):
        shown = ", ".join(shortened(name, 40) for name in cells.names[:20]) or "none"
        raise DataError(f"{table} has the columns {shown}: {_EXPECTED}")
    places, found = Whereabouts(table.parent), _Listed()
    parts = part_columns(table, cells, at.values())
    for line, row in cells.rows:
        cell = {kind: "" if place is None else row[place] for kind, place in at.items()}
        _add(found, places, cell, f"row {line}", parts.of(row))
    found.more = unused(cells, filled(cells, {*at.values(), *parts.columns}))
    bare = [key for key, some in found.texts.items() if not some and found.sounds[key] is None]
    for key in bare:
        found.fault("nothing beside", key)
    return found


def _add(
    found: _Listed, places: Whereabouts, cell: dict[str, Cell], line: str, part: PartName | None
) -> None:
    """Take over one row."""
    clip, sound = text_of(cell["clip"]), text_of(cell["sound"])
    if not clip:
        return found.fault("no clip", line)
    key = places.key(clip)
    if key is None:
        return found.fault("clip missing", clip)
    known = key in found.texts
    label = text_of(cell["label"])
    if known and label not in ("", found.labels.get(key, "")):
        found.fault("other label", key)
    elif not known and label:
        found.labels[key] = label
    # What is left empty behind the first row of a clip says nothing else.
    if known and part and found.parts[key] - {part, None}:
        found.fault("two parts", key)
    found.parts.setdefault(key, set()).add(part)
    heard = places.key(sound) if sound else None
    if sound and heard is None:
        found.fault("sound missing", sound)
    if heard and found.sounds.get(key) not in (None, heard):
        found.fault("several sounds", key)
    elif heard or not known:
        found.sounds[key] = heard or found.sounds.get(key)
    texts = (cell["text"],) if isinstance(cell["text"], str) else cell["text"]
    own = [" ".join(one.split()) for one in texts]
    found.texts.setdefault(key, []).extend(one for one in own if one)
    return None
