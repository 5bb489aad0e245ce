"""What every way to make a smaller run begins with, and how it is stopped and gone on with."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from vitrail.engines.apart import Apart
from vitrail.jobs.cutting import Asked
from vitrail.jobs.kin import WHOLE, kin, way
from vitrail.report.chapter import Chapter
from vitrail.report.compression import Worth
from vitrail.report.facts import FindingFacts
from vitrail.report.kin import Kin
from vitrail.report.kin import chapter as siblings
from vitrail.run import finish
from vitrail.run.before import Before
from vitrail.run.budget import Budget
from vitrail.run.finish import Adds, Desk
from vitrail.run.folder import RunFolder
from vitrail.run.reading import Read
from vitrail.run.state import State
from vitrail.run.view import View
from vitrail.run.workshop import Workshop

ONE_SIDE = FindingFacts(
    "both sides", "info",
    "the run before answers by an image and its mirror image, and its accuracy, multiply-adds and "
    "latency are of that; the smaller one answers by the image alone",
)  # fmt: skip


@dataclass(eq=False)
class Making:
    """Makes a smaller run of the run `before` in `folder`.

    What is decided is in `state`, so that it goes on where it was stopped.
    """

    asked: Asked
    before: Before
    data: Read
    folder: RunFolder
    state: State
    view: View
    budget: Budget
    apart: Apart = field(default_factory=Apart)

    @property
    def workshop(self) -> Workshop:
        """Return where models are trained and judged."""
        return self.data.workshop

    @property
    def again(self) -> str:
        """Return the command that goes on with it."""
        source, path = (shlex.quote(str(p)) for p in (self.before.run.path, self.folder.path))
        return f"vitrail compress {source} --resume --out {path}"

    def among(self, now: Worth) -> list[Chapter]:
        """Return the chapter of what was made of the same model beside it, where there is any."""
        path, source = self.folder.path, self.before.run.path
        others = kin(path, source, now.n)
        if not others:
            return []
        ways = [w for w in (way(source), self.asked.method) if w != WHOLE]
        return [siblings([*others, Kin(path.name, " + ".join(ways), now)], path.name)]

    def desk(self, adds: Adds | None = None) -> Desk:
        """Return where the run is finished."""
        asked = finish.Asked(self.asked.command, self.budget, self.asked.seed)
        inspection = self.data.inspection
        notes = [ONE_SIDE] if self.before.both_sides else []
        return Desk(
            self.folder, self.workshop, inspection, self.state, asked, self.apart, notes, adds=adds
        )  # fmt: skip

    def done(self) -> Path:
        """Do all of it, and end what computes apart; returns the run folder."""
        with self.apart:
            return self.run()

    def run(self) -> Path:
        """Do all of it; returns the run folder. Raises VitrailError."""
        raise NotImplementedError
