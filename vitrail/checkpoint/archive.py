"""Zip archives read with their checksums, and no further than their file lets expect."""

from __future__ import annotations

import zipfile
from pathlib import Path
from types import TracebackType

FREE = 256 * 2**20  # bytes that any archive may unpack to
RATIO = 16  # beyond these, times its file; weights hardly pack at all


class Archive:
    """The entries of a zip file by name; `sizes` are those of their contents, in bytes.

    Raises ValueError where the entries would unpack to much more than the file, BadZipFile and
    what else zipfile raises for a damaged one. Reading an entry checks its CRC.
    """

    def __init__(self, path: Path) -> None:
        self._file = zipfile.ZipFile(path)
        entries = self._file.infolist()
        self.sizes = {entry.filename: entry.file_size for entry in entries}
        total, packed = sum(entry.file_size for entry in entries), path.stat().st_size
        if total > FREE + RATIO * packed:
            self._file.close()
            raise ValueError(f"its {packed} bytes would unpack to {total}")

    def read(self, name: str) -> bytearray:
        """Return an entry's content after comparing its checksum."""
        data, have = bytearray(self.sizes[name]), 0
        with self._file.open(name) as stream, memoryview(data) as view:
            read = stream.readinto  # pyright: ignore[reportAttributeAccessIssue]
            while have < len(data) and (count := read(view[have:])):
                have += count
            more = stream.read(1)
        if have != len(data) or more:
            raise ValueError(f"{name} is not of the {len(data)} bytes that it should have")
        return data

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
