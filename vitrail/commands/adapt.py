"""`vitrail adapt`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vitrail.commands.options import Device, GroupBy, Json, Out, Threads, say, show, work


def adapt(
    base: Annotated[
        str | None, typer.Argument(help="Run folder or file of weights of the trained backbone.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Argument(help="Folder with one subfolder per class, table, or built-in name."),
    ] = None,
    params: Annotated[
        str | None,
        typer.Option(help="Most parameters that may be trained: 50k, or 2% of the backbone's."),
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="Time for everything, e.g. 10m. Default: no limit.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Most passes over the training images. Default: 10.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Ways to try instead of all, e.g. linear,lora,vpt-deep.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of what begins at random and of batches. Default: 0.")
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    group_by: GroupBy = None,
    out: Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue what was interrupted in --out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Try the ways to adapt a trained backbone to your images, and keep the best."""
    from vitrail.errors import ConfigError, RunError
    from vitrail.jobs import adapt as job
    from vitrail.measure.machine import cores
    from vitrail.units import parse_duration

    work()
    given: dict[str, Any] = {
        "base": base, "data": data, "params": _most(params),
        "time_s": None if time is None else parse_duration(time), "epochs": epochs,
        "only": tuple(way.strip() for way in only.split(",")) if only else None,
        "seed": seed, "group_by": group_by,
    }  # fmt: skip
    if resume:
        if out is None:
            raise RunError("--resume needs the run folder to go on with: add --out RUN")
        run = job.resume(out, given=given)
    else:
        if base is None or data is None:
            raise ConfigError("base or data is not given: write `vitrail adapt BASE DATA`")
        named = {name: value for name, value in given.items() if value is not None}
        wanted = job.Wanted(**named, device=device, threads=threads or cores())
        run = job.adapt(wanted, out=out)
    _show(run.path / job.RESULT, as_json)


def _most(params: str | None) -> float | None:
    """Read 50k as a number, 2% as a share. Raises BudgetError and ConfigError."""
    from vitrail.errors import ConfigError
    from vitrail.units import parse_count

    if params is None or not params.strip().endswith("%"):
        return None if params is None else parse_count(params)
    try:
        share = float(params.strip().removesuffix("%")) / 100
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise ConfigError(f"--params is {params!r}: give a number such as 50k, or a share like 2%")
    return share


def _show(result: Path, as_json: bool) -> None:
    """Print the table of ways, the best first."""
    from vitrail.config import read_json
    from vitrail.report.adapt import HEAD, WayFacts, cells, ranked

    if as_json:
        print(result.read_text(), end="")
        return
    remedy = "adapt the base again, in a new folder"
    ways = ranked(read_json(result, list[WayFacts], remedy=remedy))
    show(HEAD, map(cells, ways), left=("way",), bold=lambda number: ways[number].won)
    say(f"page: {result.parent}/report.html")
