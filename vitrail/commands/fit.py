"""`vitrail fit`."""

from __future__ import annotations

from typing import Annotated

import typer

from vitrail.commands.options import Out, work


def fit(
    data: Annotated[str, typer.Argument(help="Folder, CSV or Parquet table, or built-in name.")],
    latency: Annotated[str | None, typer.Option(help="Of the exported model, as 20ms.")] = None,
    engine: Annotated[
        str, typer.Option(help="Of the latency: onnxruntime, openvino, or auto for the faster.")
    ] = "onnxruntime",
    macs: Annotated[str | None, typer.Option(help="Multiply-adds an image, as 50M.")] = None,
    params: Annotated[str | None, typer.Option(help="Parameters, as 2M.")] = None,
    time: Annotated[str, typer.Option(help="For everything, as 10m or 1h30m.")] = "10m",
    device: Annotated[str, typer.Option(help="Trains on auto, cpu, cuda or mps.")] = "auto",
    devices: Annotated[int, typer.Option(help="Processes that train together.")] = 1,
    threads: Annotated[int | None, typer.Option(help="CPU threads of the latency.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split, the weights and the batches.")] = 0,
    pretrained: Annotated[
        str | None,
        typer.Option(help="Also fine-tune published weights: of this folder, or downloaded."),
    ] = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    storage: Annotated[
        str | None, typer.Option(help="Database URL, to race on several machines.")
    ] = None,
    group_by: Annotated[
        str | None, typer.Option(help="Regular expression: one subject stays on one side.")
    ] = None,
) -> None:
    """Find, train, judge and export the best model for your images within a budget."""
    from vitrail.fit import fit as run

    work()
    run(
        data,
        latency=latency,
        engine=engine,
        macs=macs,
        params=params,
        time=time,
        device=device,
        devices=devices,
        threads=threads,
        seed=seed,
        pretrained=pretrained,
        out=out,
        resume=resume,
        storage=storage,
        group_by=group_by,
    )
