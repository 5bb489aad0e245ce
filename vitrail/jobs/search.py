"""`vitrail search`: a published search on your images, from a shared network to a trained find.

source -> data gate -> split -> space -> shared network -> search, chance -> full training -> report
"""

from __future__ import annotations

import time as clock
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from rich.console import Console

from vitrail.config import to_json
from vitrail.data.opening import open_source
from vitrail.engines.apart import Apart
from vitrail.errors import ConfigError, RunError
from vitrail.jobs.hunting import Searching
from vitrail.jobs.searched import SearchWords, Wanted, want
from vitrail.jobs.stages import Ready
from vitrail.run.budget import Budget
from vitrail.run.folder import RunFolder, free_name
from vitrail.run.reading import Read, pictured, read
from vitrail.run.state import State, here, require_same, resumed
from vitrail.run.stopping import interruptible
from vitrail.run.storage import check_reachable, completed
from vitrail.run.view import View
from vitrail.runs import Run
from vitrail.search.costs import Meter, check_within, fitted
from vitrail.search.found import genes_of
from vitrail.search.latency_table import Deviation
from vitrail.search.space import image_sizes
from vitrail.search.spaces import space_of
from vitrail.search.spaces.images import Images
from vitrail.search.spaces.space import Space
from vitrail.search.timing import held
from vitrail.training.crew import require_alone
from vitrail.units import percent

# The largest side that a search trains at unless --image says otherwise.
SIDE_ON_CPU, SIDE = 96, 224


def search(
    name: str,
    data: str | Path,
    *,
    settings: Sequence[str] = (),
    out: str | Path | None = None,
    resume: bool = False,
    console: Console | None = None,
    **options: Unpack[SearchWords],
) -> Run:
    """Search a space of networks on your images, and train, test and export what was found.

    `name` is that of the search, such as "vitas"; `data` as for `fit`. `macs`, `params` and
    `latency` limit the network, `time` is for everything. `alone` networks are trained by
    themselves as well, to tell how well inherited weights rank them; `start` is a found.json
    to begin with, `enforce` how limits are kept while candidates are looked for ("reject", or with
    a multiplier: "raise" or "dual"), `storage` the URL of a database in which machines search
    together. `settings` change the recipe, like `augment.flip=0`, the space, like
    `space.sharing=cyclic`, the evolution, like `evolve.population=20`, and the growth of cells,
    like `grow.beam=16`. With `resume` the search in `out` goes on.

    The run folder is as that of a fit, with found.json: what `create`, `train` and `fit` take.
    Raises VitrailError.

        from vitrail.jobs.search import search
        run = search("vitas", "photos", macs="20M", time="30m", out="searched")
        model = vitrail.create("searched/found.json")
    """
    require_alone("a search")
    view = View(console)
    if resume:
        _require_unchanged(options, settings)
        return Run(
            resumed(
                out,
                view,
                lambda run, state: _again(name, data, options, run, state, view),
                check=lambda run, state: _require_same(run, state, data),
            )
        )
    wanted = _reached(want(name, data, options, settings, out))
    return Run(_searched(wanted, Path(out) if out else _free(wanted), view))


def _searched(wanted: Wanted, folder: Path, view: View) -> Path:
    """Search in a new folder; returns the folder."""
    limits = wanted.limits
    RunFolder.check_free(folder)
    began = clock.monotonic()
    view.until(began + limits.time_s)
    images = read(limits.wish.data, limits.hardware, view, limits.wish.task)
    ready = _ready(wanted, images, view)
    with RunFolder.create(folder) as run:
        spent = clock.monotonic() - began
        state = State.new(
            run.path / "fit.json",
            search=to_json(wanted.public),
            images=images.digest,
            engine=ready.meter.engine,
            spent_s=spent,
            seconds={"data": images.seconds, "space": spent - images.seconds},
        )
        with interruptible(wanted.again(run.path)):
            return Searching(ready, run, state, view, images).run()


def _require_unchanged(options: SearchWords, settings: Sequence[str]) -> None:
    """Raise ConfigError for anything but another database, which is all that may change."""
    given = [
        f"--{key.replace('_', '-')}"
        for key, one in options.items()
        if one is not None and key != "storage"
    ]
    if fixed := [*given, *(f"--set {setting}" for setting in settings)]:
        raise ConfigError(
            f"{fixed[0]} cannot change while a search goes on: resume it without, or start a "
            "new one"
        )


def _free(wanted: Wanted) -> Path:
    """Return a folder that is not there yet, called after the data and the search."""
    limits = wanted.limits
    return free_name(
        f"{open_source(limits.data, several=limits.wish.task.several).name}-{wanted.name}"
    )


def _reached(wanted: Wanted) -> Wanted:
    """Return what is wanted. Raises RunError where a database that was named cannot be reached."""
    if wanted.limits.storage is not None:
        check_reachable(wanted.limits.storage)
    return wanted


def _require_same(run: RunFolder, state: State, data: str | Path) -> None:
    """Raise ConfigError for other data than those of the search."""
    if "search" in state.values:
        kept = state.get(Wanted, "search")
        require_same(run, {"data": str(data)}, {"data": kept.limits.data})


def _again(
    name: str, data: str | Path, words: SearchWords, run: RunFolder, state: State, view: View
) -> Path:
    """Go on with a stopped search, by its own arguments."""
    if "search" not in state.values:
        raise RunError(f"{run.path} was not made by `vitrail search`: go on with its own command")
    wanted = state.get(Wanted, "search")
    if wanted.name != name:
        raise ConfigError(f"{run.path} is a search of {wanted.name}, not of {name}: name that one")
    stored = completed(wanted.limits.storage, words.get("storage"))
    where = here(wanted.limits.data, data)
    wanted = _reached(replace(wanted, limits=replace(wanted.limits, data=where, storage=stored)))
    limits = wanted.limits
    with interruptible(wanted.again(run.path)):
        view.until(state.deadline(limits.time_s))
        images = read(limits.wish.data, limits.hardware, view, limits.wish.task)
        state.require_images(images.digest)
        ready = _ready(wanted, images, view, engine=state.get(float, "engine"))
        return Searching(ready, run, state, view, images).run()


def _ready(wanted: Wanted, data: Read, view: View, engine: float | None = None) -> Ready:
    """Return the space, fitted to the budget, and who measures its candidates; nothing is trained
    yet.

    Raises BudgetError and ConfigError.
    """
    limits, split = wanted.limits, data.workshop.split
    size = data.inspection.size
    channels, classes = split.channels, len(split.classes)
    plain = _space(wanted, data, channels, classes)
    image = tuple(plain.config(plain.ends[0]).image)
    budget = pictured(limits.budget, data, limits.input)
    budget: Budget = held(budget, [image], channels)
    start = ()
    if wanted.start is not None:
        start = (genes_of(Path(wanted.start), plain, image),)
    view.phase(f"measuring the space of {plain.title} for {size[1]}x{size[0]} images")
    space = fitted(plain, budget, limits.seed)
    if loose := check_within(space, budget):
        view.say(loose)
    meter, off = Meter(space, budget).tabled(limits.seed)
    if off is not None:
        view.say(_predicted(off, used=meter.table is not None))
    if engine is not None:
        meter = replace(meter, engine=engine)
    else:
        with Apart() as apart:
            meter = meter.calibrated(apart, limits.seed)
    return Ready(wanted, plain, meter, start)


def _predicted(off: Deviation, *, used: bool) -> str:
    """Say how good a latency table is, and whether it is used."""
    how = (
        f"for {off.networks} random networks that were measured whole it is off by "
        f"{percent(off.mean)} on average, {percent(off.largest)} at most"
    )
    if used:
        return f"latencies are predicted from a table of operations: {how}"
    return f"networks are measured whole, not predicted from a table of operations: {how}"


def _space(wanted: Wanted, data: Read, channels: int, classes: int) -> Space:
    """Return the space at the image size that was asked for, or at the first that fits it."""
    sizes = [wanted.image] if wanted.image is not None else _sizes(data)
    for number, size in enumerate(sizes, 1):
        try:
            return wanted.tuned(space_of(wanted.name, Images(size, channels, classes)))
        except ConfigError:
            if number == len(sizes):
                raise
    raise ConfigError(f"there is no size of images to search {wanted.name} at: give --image")


def _sizes(data: Read) -> list[tuple[int, int]]:
    """Return the sizes to try: small images as they are, photographs at the
    largest size that is affordable.
    """
    sizes = image_sizes(data.inspection.size)
    if max(data.inspection.size) <= 48:
        return sizes
    most = SIDE_ON_CPU if data.workshop.device == "cpu" else SIDE
    return sorted((s for s in sizes if max(s) <= most), reverse=True) or sizes[:1]
