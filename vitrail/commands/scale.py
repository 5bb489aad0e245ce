"""`vitrail scale`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from vitrail.commands.options import Device, Json, Out, whole, work


def scale(
    data: Annotated[
        str, typer.Argument(help="Labelled images: folder of class folders, table or name.")
    ],
    sizes: Annotated[
        str, typer.Option(help="Widths of the star, multiples of 16, e.g. 32,64,96,128.")
    ] = "32,64,96,128",
    time: Annotated[str, typer.Option(help="Time for all trainings, e.g. 30m or 2h.")] = "1h",
    seed: Annotated[int, typer.Option(help="Seed of the split, weights and batches.")] = 0,
    out: Out = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train a star of shapes and fit how errors fall with compute, and which shape is best."""
    from vitrail.study.scaling import scale as run
    from vitrail.study.scaling import summary

    work()
    found = run(data, sizes=whole(sizes, "--sizes"), time=time, seed=seed, out=out, device=device)
    if as_json:
        print(json.dumps(json.loads((found.folder / "result.json").read_text()), indent=1))
        return
    print(summary(found))
    print(f"report: {found.folder / 'report.html'}")
