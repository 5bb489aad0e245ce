"""What a kind of file is to the fuzzer: how sound ones are made, and what reading them gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mutate import Mutation


@dataclass(frozen=True)
class Kind:
    """A kind of file: `make` gives sound ones, `read` what a program makes of one, to compare.

    `ways` are mutations that know the format; those in `forges` renew the digest as well. Where a
    kind is `strict`, an answer that differs must have been refused.
    """

    name: str
    make: Callable[[Path], list[Path]]
    read: Callable[[Path, Path], Any]
    ways: Sequence[Mutation] = ()
    forges: Sequence[Mutation] = ()
    strict: bool = False
