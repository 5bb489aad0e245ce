"""`vitrail fit`: a folder of images in; the best model within the budget, and a report, out.

    source -> data gate -> split -> shortlist -> race -> full training -> export -> judge -> report

Each step is a file; this one passes the results on and keeps the clock.
"""

from __future__ import annotations

import shlex
import time as clock
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from rich.console import Console

from vitrail.config import to_json
from vitrail.data.opening import open_source
from vitrail.engines import rivals
from vitrail.errors import ConfigError, RunError
from vitrail.jobs.arguments import Arguments, Words, amended, ask, given
from vitrail.jobs.entrants import listed
from vitrail.jobs.fit_scans import again as fit_scans_again
from vitrail.jobs.fit_scans import fit_scans
from vitrail.jobs.fitting import Fitting
from vitrail.jobs.pretrain import pretrain
from vitrail.run.folder import RunFolder, free_name
from vitrail.run.reading import read
from vitrail.run.state import State, here, require_same, resumed
from vitrail.run.stopping import interruptible
from vitrail.run.storage import check_reachable, completed
from vitrail.run.view import View
from vitrail.runs import Run
from vitrail.search.shortlist import Shortlist
from vitrail.tasks import Lidar, Tasks
from vitrail.training.crew import require_alone

PRETRAIN_SHARE = 1 / 3


def fit(
    data: str | Path,
    *,
    settings: Sequence[str] = (),
    out: str | Path | None = None,
    resume: bool = False,
    console: Console | None = None,
    **options: Unpack[Words],
) -> Run:
    """Find, train, judge and export the best model for `data`.

    `data` is a folder of class folders, a CSV or Parquet table, a built-in name, or what its task
    reads: images beside masks, files of time series. `options` are
    limits and what else `fit.arguments.Words` tells. `settings` change the recipe of every
    candidate, like `augment.flip=0`. With `resume` the run in `out` goes on with its own
    arguments; new limits and more time are taken over.

    Raises VitrailError for every mistake that a user can mend; BudgetError after the report was
    written where no model keeps the latency.

    Examples:
        >>> best = vitrail.fit("photos", latency="50ms", time="30s", out="best")
        >>> best.result["test"]["n"], best.accuracy >= 0
        (12, True)
        >>> [found] = best.predict("photos/cat/000.png")
        >>> found.path
        'photos/cat/000.png'
    """
    view, words = View(console), options
    require_alone("a fit")
    if resume:
        path = resumed(
            out, view, lambda run, state: _again(run, state, data, words, settings, view),
            check=lambda run, state: _require_same(run, state, data, words, settings),
        )  # fmt: skip
        return Run(path)
    asked = ask(data, words, settings, out)
    _reached(asked)
    if (pictures := words.get("pretrain")) is not None:
        if out is not None:  # before a third of the time is spent
            RunFolder.check_free(out)
        asked = _pretrained_first(asked, str(pictures), words, out, console)
    task = asked.wish.task
    if isinstance(task, Lidar):
        return Run(fit_scans(asked, out, view))
    return Run(_fitted(asked, Path(out) if out else free_name(_called(data, task)), view))


def _fitted(asked: Arguments, folder: Path, view: View) -> Path:
    """Fit in a new folder what takes pixels; returns the folder."""
    RunFolder.check_free(folder)
    began = clock.monotonic()
    view.until(began + asked.time_s)
    images = read(asked.wish.data, asked.hardware, view, asked.wish.task)
    found, probes = listed(asked, view, images, began)
    with RunFolder.create(folder) as run:
        spent = clock.monotonic() - began
        state = State.new(
            run.path / "fit.json",
            arguments=to_json(asked.public),
            images=images.digest,
            shortlist=to_json(found),
            features=to_json(probes),
            spent_s=spent,
            seconds={"data": images.seconds, "shortlist": spent - images.seconds},
        )
        with interruptible(asked.again(run.path)):
            return Fitting(asked, run, state, view, images, found).run()


def _reached(asked: Arguments) -> None:
    """Raise RunError where the database that was named cannot be reached, before time is spent."""
    if asked.storage is not None:
        check_reachable(asked.storage)


def _called(data: str | Path, task: Tasks) -> str:
    """Return how the data are called, without reading what is slow to read."""
    if task.maps or task.boxes or task.takes != "images":
        return Path(data).resolve().stem
    return open_source(data, several=task.several).name


def _pretrained_first(
    asked: Arguments, pictures: str, words: Words, out: str | Path | None, console: Console | None
) -> Arguments:
    """Pretrain on pictures with a share of the time; returns what is left to do with the weights.

    The pretraining is a run of its own beside that of the fit, and is gone on with by its own
    command.
    """
    if asked.pretrained is not None:
        raise ConfigError(
            f"--pretrained {asked.pretrained} and --pretrain {pictures} both give weights to start "
            "from: leave one out"
        )
    began = clock.monotonic()
    beside = free_name("pretraining") if out is None else Path(f"{Path(out)}-pretraining")
    # The same seed holds back the same images for the test.
    made = pretrain(
        pictures, time=PRETRAIN_SHARE * asked.time_s, seed=asked.seed, out=beside,
        device=words.get("device") or "auto", devices=words.get("devices") or 1, console=console,
    )  # fmt: skip
    left = max(1.0, asked.time_s - (clock.monotonic() - began))
    return replace(asked, pretrained=str(made), time_s=left)


def _require_same(
    run: RunFolder, state: State, data: str | Path, words: Words, settings: Sequence[str]
) -> None:
    """Raise ConfigError for other data than the run's, and for any change of a finished one."""
    if "arguments" not in state.values:
        return
    asked = state.get(Arguments, "arguments")
    require_same(run, {"data": str(data)}, {"data": asked.data})
    if run.result.is_file() and (now := _settled(asked, words, settings)) != asked:
        changed = next(n for n in Arguments.__annotations__ if getattr(now, n) != getattr(asked, n))
        name = changed.removesuffix("_s").replace("_", "-")
        raise ConfigError(
            f"{run.path} is finished, so another --{name} changes nothing any more: fit again into "
            f"another folder, with --pretrained {shlex.quote(str(run.path))} to begin with its "
            "weights"
        )


def _again(
    run: RunFolder, state: State, data: str | Path, words: Words, settings: Sequence[str],
    view: View,
) -> Path:  # fmt: skip
    """Go on with a stopped run, under its own arguments, and new limits where they are given."""
    if "shortlist" not in state.values and "scans" not in state.values:
        maker = "pretrain" if "pretraining" in state.values else "train"
        raise RunError(f"{run.path} was made by `vitrail {maker}`: go on with that command")
    asked = state.get(Arguments, "arguments")
    stored = completed(asked.storage, words.get("storage"))
    asked = replace(asked, data=here(asked.data, data), storage=stored)
    asked = _changed(asked, words, settings, state, view)
    if "scans" in state.values:
        return fit_scans_again(asked, run, state, view)
    known = state.get(Shortlist, "shortlist")
    rivals(asked.engine)
    _reached(asked)
    with interruptible(asked.again(run.path)):
        view.until(state.deadline(asked.time_s))
        images = read(asked.wish.data, asked.hardware, view, asked.wish.task)
        state.require_images(images.digest)
        return Fitting(asked, run, state, view, images, known).run()


def _changed(
    asked: Arguments, words: Words, settings: Sequence[str], state: State, view: View
) -> Arguments:
    """Take over new limits; refuse what would make another run of it."""
    now = _settled(asked, words, settings)
    if now == asked:
        return asked
    if now.time_s != asked.time_s and any(plan["fixed"] for plan in state.finals.values()):
        raise ConfigError(
            "--time cannot change any more, as the last steps of the training are fixed: let it "
            "end, then fit again with --pretrained and this folder"
        )
    view.phase("going on with new limits")
    # Whoever missed the old latency may keep the new one, and the other way round.
    state.put(arguments=to_json(now.public), misses={})
    return now


def _settled(asked: Arguments, words: Words, settings: Sequence[str]) -> Arguments:
    """Return the arguments with new limits. Raises ConfigError for what cannot change."""
    settled = (
        "seed", "group-by", "duplicates", "pretrained", "pretrain", "task", "flexible", "teacher",
        "add", "against-scratch",
    )  # fmt: skip
    fixed = [name for name in given(words) if name in settled]
    if fixed or settings:
        raise ConfigError(
            f"--{fixed[0] if fixed else f'set {settings[0]}'} cannot change while a run goes on: "
            "resume it without, or start a new one"
        )
    return amended(asked, words)
