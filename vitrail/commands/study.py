"""`vitrail study`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vitrail.commands.options import Json, Out, console, work


def study(
    name: Annotated[str, typer.Argument(help="What to compare: attention-modules.")],
    data: Annotated[
        str, typer.Option(help="Folder, CSV or Parquet table, or built-in name.")
    ] = "fashion-sample",
    seeds: Annotated[int, typer.Option(help="Trainings of each arm.")] = 3,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 8,
    only: Annotated[str | None, typer.Option(help="These arms alone, as SE,CBAM.")] = None,
    device: Annotated[str, typer.Option(help="Trains on auto, cpu, cuda or mps.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads of the latency.")] = None,
    group_by: Annotated[
        str | None, typer.Option(help="Regular expression: one subject stays on one side.")
    ] = None,
    out: Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the study in --out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train one host with every arm of a study, and tell what differs beyond noise."""
    from vitrail.study import study as run

    work()
    folder, facts = run(
        name,
        data,
        seeds=seeds,
        epochs=epochs,
        only=[arm.strip() for arm in only.split(",")] if only else (),
        device=device,
        threads=threads,
        group_by=group_by,
        out=out,
        resume=resume,
    )
    if as_json:
        print((folder / "study.json").read_text())
        return
    from vitrail.report.study import answer

    print(answer(facts))
    console().print(_arm_table(facts))
    print(f"{folder}/study.html shows it")


def _arm_table(facts: Any) -> Any:
    """The arms of a study, the baseline first, then the best."""
    from rich.table import Table

    from vitrail.units import count, points, seconds

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("arm", "accuracy", "difference", "95 % interval", "MACs", "latency"):
        table.add_column(title, justify="left" if title == "arm" else "right")
    for arm in [facts.base, *facts.compared]:
        interval = "" if arm.low is None else f"{points(arm.low)} to {points(arm.high)}"
        gap = "" if arm.difference is None else points(arm.difference)
        figures = f"{arm.accuracy:.2%}", gap, interval, count(arm.macs), seconds(arm.latency_s)
        table.add_row(arm.name, *figures, style="bold" if arm.clear else "")
    return table
