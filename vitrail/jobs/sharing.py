"""The studies of a search: in its run folder, or in a database where machines search together.

What is told apart by machine, such as how many steps there is time for, is agreed on: the first to
say it is followed by all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vitrail.config import to_json
from vitrail.jobs.arguments import Arguments
from vitrail.jobs.searched import Wanted
from vitrail.run.folder import RunFolder
from vitrail.run.state import State
from vitrail.run.storage import open_storage
from vitrail.search.board import Board
from vitrail.search.hunt import Hunt

STUDY = "study.sqlite"


@dataclass(frozen=True, eq=False)
class Sharing:
    """Where studies are, what their names begin with, and who works here."""

    where: Path | str
    title: str = ""
    owner: str = ""

    @property
    def alone(self) -> bool:
        """Whether this machine searches by itself."""
        return isinstance(self.where, Path)

    @cached_property
    def storage(self) -> Any:
        """Return the storage, opened at the first use. Raises RunError."""
        return open_storage(self.where)

    @cached_property
    def board(self) -> Board:
        """Return what the machines agree on."""
        return Board(self.where, f"{self.title}decisions", self.owner, storage=self.storage)

    def hunt(self, name: str) -> Hunt:
        """Return the search `name` of this run."""
        return Hunt(self.where, self.title + name, self.owner, storage=self.storage)

    def agreed(self, what: str, value: Any) -> Any:
        """Return what all machines do: `value` where this one is the first to say."""
        return value if self.alone else self.board.once(what, lambda: value)

    @contextmanager
    def taking(self, what: str) -> Iterator[bool]:
        """Tell inside whether this machine does it, as no other has done or does."""
        if self.alone:
            yield True
            return
        with self.board.take(what) as taken:
            yield taken is not None
            if taken is not None:
                taken.finish(True)


def sharing(wanted: Wanted, run: RunFolder, state: State) -> Sharing:
    """Return where a search keeps its studies: machines share those of the same wish and images."""
    url = wanted.limits.storage
    if url is None:
        return Sharing(run.path / STUDY)
    plain = Arguments(data="", settings=wanted.limits.settings, seed=wanted.limits.seed)
    same = {
        name: getattr(wanted.limits, name) for name in ("latency_s", "macs", "params", "time_s")
    }
    told = json.dumps([to_json(replace(wanted, limits=plain)), same], sort_keys=True)
    kind = hashlib.sha256(told.encode()).hexdigest()[:12]
    images = str(state.values["images"])[:12]
    return Sharing(url, f"vitrail search {wanted.name} {images} {kind} ", state.owner)
