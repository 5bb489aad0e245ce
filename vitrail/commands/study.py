"""`vitrail study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vitrail.commands.options import Device, GroupBy, Json, Out, Threads, say, show, work


def study(
    name: Annotated[
        str,
        typer.Argument(
            help="Name of the study: attention-modules, local-feed-forward, compact-transformers, "
            "early-convolutions."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder of class folders, CSV or Parquet table, or built-in name. Default: "
            "fashion-sample."
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Number of trainings of each arm. Default: 3.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training images. Default: 8.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Arms to train instead of all, e.g. SE,CBAM.")
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    group_by: GroupBy = None,
    out: Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the interrupted study in --out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train one host with every arm of a study, and say which differ beyond noise."""
    from vitrail import study as studies
    from vitrail.measure.machine import cores

    work()
    given: dict[str, Any] = {
        "name": name, "data": data, "seeds": seeds, "epochs": epochs, "group_by": group_by,
        "only": tuple(arm.strip() for arm in only.split(",")) if only else None,
    }  # fmt: skip
    folder = out or Path(f"study-{name}")
    if resume:
        facts = studies.resume(folder, given=given)
    else:
        named = {word: value for word, value in given.items() if value is not None}
        asked = studies.Asked(**named, device=device, threads=threads or cores())
        facts = studies.study(asked, folder)
    if as_json:
        print((folder / "study.json").read_text())
        return
    from vitrail.report.study import answer

    say(answer(facts))
    _show_arms(facts)
    say(f"page: {folder}/study.html")


def _show_arms(facts: Any) -> None:
    """Print the arms of a study, the baseline first, then the best."""
    from vitrail.units import count, points, seconds

    arms = [facts.base, *facts.compared]
    rows = []
    for arm in arms:
        interval = "" if arm.low is None else f"{points(arm.low)} to {points(arm.high)}"
        gap = "" if arm.difference is None else points(arm.difference)
        figures = f"{arm.accuracy:.2%}", gap, interval, count(arm.macs), seconds(arm.latency_s)
        rows.append((arm.name, *figures))
    head = ("arm", "accuracy", "difference", "95 % interval", "MACs", "latency")
    show(head, rows, left=("arm",), bold=lambda number: arms[number].clear)
