"""`vitrail compress RUN --method up --macs 50%`: a smaller model out of a finished run.

run -> sizes within the budget -> what its channels are worth -> the cut -> tuning by what the model
was -> export -> judge -> report

What is left is an ordinary model: its own Config and its own run folder, which can be served,
exported and made smaller again.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

from rich.console import Console

from vitrail.config import nearest, to_json
from vitrail.engines import ENGINES
from vitrail.errors import ConfigError, RunError
from vitrail.jobs.as_given import as_given
from vitrail.jobs.cutting import INT8, PRIVIT, UVC, Asked, clock
from vitrail.jobs.integers import Integers
from vitrail.jobs.learned import require
from vitrail.jobs.limits import Limits, cheapest, read, sized
from vitrail.jobs.making import Making
from vitrail.jobs.smaller import Smaller
from vitrail.jobs.switched import Switched, wanted
from vitrail.measure.machine import cores
from vitrail.run.before import Before, before
from vitrail.run.folder import RunFolder, free_name
from vitrail.run.reading import Hardware, pictured
from vitrail.run.state import NAME, State, require_same, resumed
from vitrail.run.view import View
from vitrail.runs import Run


class Words(TypedDict, total=False):
    """The options of `vitrail compress` as they are given; None is not given.

    `method` says by what channels are chosen: "up" (how far answers move without them), "magnitude"
    or "random"; "uvc" learns under `macs` which heads, neurons and blocks go; "int8" keeps all and
    makes a file in integers, which may lose `max_drop` points; "privit" learns which GELUs and
    softmaxes stay where answers are computed on secrets, at most `gelus` tokens and `softmaxes`
    rows (numbers, or shares of all). `macs`, `params` and `latency` are limits, absolute ("3M",
    "5ms") or a share of what the model costs now ("50%"); `epochs` are passes over the training
    images afterwards, by default as many as the run had. `data` is where the images are now, `seed`
    draws what is random. `pretrained` is a file of weights in place of a run: it is judged on the
    images of `data` first. `engine` is the runtime whose latency counts, "openvino" or "auto" for
    the faster in place of "onnxruntime"; the page tells both models in all that are installed.
    """

    method: str | None
    macs: str | int | None
    params: str | int | None
    latency: str | float | None
    epochs: float | None
    data: str | Path | None
    seed: int | None
    max_drop: float | None
    gelus: str | int | None
    softmaxes: str | int | None
    device: str | None
    threads: int | None
    pretrained: str | Path | None
    engine: str | None


def compress(
    run: str | Path | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    console: Console | None = None,
    **options: Unpack[Words],
) -> Run:
    """Make a finished run's model smaller, tune, judge and export what is left; a run of its own.

    It uses the run's images, their parts and its recipe. Raises VitrailError for every mistake
    that a user can mend, before any time is spent.

    Examples:
        >>> smaller = compress("vit", macs="50%", epochs=1, out="smaller")
        >>> smaller.result["compressed"]["method"]
        'up'
    """
    view, site = View(console), _site(options)
    if resume:
        return _resumed(run, out, view, site, options)
    if options.get("pretrained") is not None:
        run = _judged(run, options, out, site, view)
        options = cast(Words, {**options, "pretrained": None, "data": None})
    if run is None:
        raise ConfigError(
            "no run is given: vitrail compress RUN --macs 50%, or --pretrained FILE --data DATA"
        )
    data = options.get("data")
    old = before(run, None if data is None else str(data))
    asked = _asked(old, run, options, out)
    if asked.method == UVC:
        require(old, asked)
    elif _cuts(asked):
        sized(old.cuttable.config, asked.limits)
    folder = Path(out) if out else free_name(f"{old.run.path.name}-smaller")
    RunFolder.check_free(folder)
    images = old.data(site[0], view)
    budget = pictured(asked.budget(site[0].device), images)
    decided = {"asked": to_json(asked)}
    if _cuts(asked) and asked.method != UVC:
        with clock(old, images.workshop, budget) as timed:
            if asked.latency_s is not None:
                view.phase("timing smaller models as exported")
            decided["shape"] = to_json(sized(old.cuttable.config, asked.limits, timed).shape)
    with RunFolder.create(folder) as made:
        state = State.new(
            made.path / NAME,
            compress=decided,
            images=images.digest,
            seconds={"data": images.seconds},
            spent_s=images.seconds,
        )
        return Run(_job(asked)(asked, old, images, made, state, view, budget).done())


def _resumed(
    run: str | Path | None, out: str | Path | None, view: View, site: tuple[Hardware, int],
    options: Words,
) -> Run:  # fmt: skip
    """Go on with what was begun in `out`, which has to be what is asked for again."""
    # What weights of a file were judged by is in the run that was made of them.
    data = None if options.get("pretrained") is not None else options.get("data")
    options = cast(Words, {**options, "data": data})
    given = {"data": data and str(data), "threads": options.get("threads")}
    return Run(
        resumed(
            out, view, lambda folder, state: _again(folder, state, view, site[0], given),
            check=lambda folder, state: _require_same(folder, state, run, options),
        )
    )  # fmt: skip


def _judged(
    run: str | Path | None, options: Words, out: str | Path | None, site: tuple[Hardware, int],
    view: View,
) -> Path:  # fmt: skip
    """Make a run of a file of weights, beside the one that is asked for.

    Raises BudgetError and ConfigError.
    """
    weights, data = options.get("pretrained"), options.get("data")
    assert weights is not None
    texts = [options.get(name) for name in ("macs", "params", "latency", "gelus", "softmaxes")]
    if options.get("method") != INT8 and all(text is None for text in texts):
        read(None, None, None, Limits())  # says that there is no budget
    if run is not None:
        raise ConfigError(
            f"{run} and --pretrained {weights} both say what is made smaller: leave one out"
        )
    if data is None:
        raise ConfigError(
            f"--pretrained {weights} comes without images: name labelled ones by --data, by which "
            "it is tuned and judged"
        )
    if out is not None:
        RunFolder.check_free(Path(out))
    whole = Path(f"{out}-whole") if out is not None else free_name(f"{Path(weights).stem}-whole")
    RunFolder.check_free(whole)
    return as_given(weights, data, whole, site, view)


def _cuts(asked: Asked) -> bool:
    """Return whether channels of the model go."""
    return asked.method != INT8 and not asked.switched


def _job(asked: Asked) -> type[Making]:
    """Return what makes the smaller run."""
    if asked.switched:
        return Switched
    return Integers if asked.method == INT8 else Smaller


def _asked(old: Before, run: str | Path, options: Words, out: str | Path | None) -> Asked:
    """Read and check what was asked for. Raises BudgetError and ConfigError."""
    texts = options.get("macs"), options.get("params"), options.get("latency")
    method, data = options.get("method") or "up", options.get("data")
    limits, kept = Limits(), (options.get("gelus"), options.get("softmaxes"))
    gelus, softmaxes = None, None
    if method == PRIVIT or kept != (None, None):
        gelus, softmaxes = wanted(old, *kept)
    if (method not in (INT8, PRIVIT) and gelus is None) or any(text is not None for text in texts):
        figures = old.subject
        costs = Limits(figures.macs, figures.params, old.result["latency"]["p50_s"])
        # UVC leaves embeddings as they are, so that its least is another one.
        told = method in (INT8, PRIVIT, UVC) or gelus is not None
        limits = read(*texts, costs, Limits if told else lambda: cheapest(old.cuttable.config))
    return Asked(
        str(run), method, limits.macs, limits.params, limits.latency_s, options.get("epochs"),
        options.get("seed") or 0, None if data is None else str(data),
        _command(run, options, out), options.get("max_drop"),
        gelus, softmaxes, options.get("engine") or ENGINES[0], options.get("threads"),
    )  # fmt: skip


def _site(options: Mapping[str, Any]) -> tuple[Hardware, int]:
    """Return where to compute, and with how many threads to measure. Raises ConfigError."""
    known = [*Words.__annotations__]
    for name in options:
        if name not in known:
            raise ConfigError(f"compress has no option {name!r}: {nearest(name, known)}")
    threads = options.get("threads")
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}: give 1 or more")
    return Hardware(options.get("device") or "auto"), threads or cores()


def _command(run: str | Path, options: Mapping[str, Any], out: str | Path | None) -> str:
    """Return the command as the user may give it again."""
    given = {name: value for name, value in options.items() if value is not None}
    given |= {} if out is None else {"out": out}
    words = [
        f"--{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in given.items()
    ]
    return " ".join(["vitrail compress", shlex.quote(str(run)), *words])


def _require_same(run: RunFolder, state: State, source: str | Path | None, options: Words) -> None:
    """Raise BudgetError and ConfigError for what was given and is not as it was begun."""
    if "compress" not in state.values:
        return
    kept = state.get(Asked, "compress.asked")
    # Whether images that have moved are the same is seen when they are read.
    settled = ("data",) if run.result.is_file() else ()
    given: dict[str, Any] = {
        name: options.get(name)
        for name in ("method", "epochs", "seed", "max_drop", "engine", *settled)
    }
    texts = options.get("macs"), options.get("params"), options.get("latency")
    counts = options.get("gelus"), options.get("softmaxes")
    given |= {} if source is None else {"run": str(source)}
    require_same(run, given, {"run": kept.run, **vars(kept)})
    data = options.get("data") or kept.data
    old = before(kept.run, data and str(data)) if {*texts, *counts} != {None} else None
    if old is not None and {*texts} != {None}:
        figures = old.subject
        now = Limits(figures.macs, figures.params, old.result["latency"]["p50_s"])
        require_same(run, vars(read(*texts, now)), vars(kept))
    if old is not None and {*counts} != {None}:
        require_same(
            run, dict(zip(("gelus", "softmaxes"), wanted(old, *counts), strict=True)), vars(kept)
        )


def _again(
    run: RunFolder, state: State, view: View, hardware: Hardware, given: Mapping[str, Any]
) -> Path:
    """Go on with what was begun, by its own arguments and those of them that are given anew."""
    if "compress" not in state.values:
        raise RunError(f"{run.path} was not made by `vitrail compress`: go on with the command "
                       "that made it")  # fmt: skip
    asked = state.get(Asked, "compress.asked")
    asked = replace(asked, **{name: one for name, one in given.items() if one is not None})
    old = before(asked.run, asked.data)
    images = old.data(hardware, view)
    state.require_images(images.digest)
    budget = pictured(asked.budget(hardware.device), images)
    return _job(asked)(asked, old, images, run, state, view, budget).done()
