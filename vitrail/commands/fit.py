"""`vitrail fit`."""

from __future__ import annotations

from typing import Annotated

import typer

from vitrail.commands.options import Device, GroupBy, Out, Threads, work


def fit(
    data: Annotated[
        str, typer.Argument(help="Folder of class folders, CSV or Parquet table, or built-in name.")
    ],
    latency: Annotated[
        str | None, typer.Option(help="Limit for one image through the exported model, e.g. 20ms.")
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="Runtime whose latency must meet the limit: onnxruntime, openvino, or auto for "
            "whichever is faster here."
        ),
    ] = "onnxruntime",
    macs: Annotated[
        str | None, typer.Option(help="Limit for multiply-adds of one image, e.g. 50M.")
    ] = None,
    params: Annotated[
        str | None, typer.Option(help="Limit for the number of parameters, e.g. 2M.")
    ] = None,
    time: Annotated[str, typer.Option(help="Time for the whole fit, e.g. 10m or 1h30m.")] = "10m",
    device: Device = "auto",
    devices: Annotated[int, typer.Option(help="Number of devices to train on together.")] = 1,
    threads: Threads = None,
    seed: Annotated[
        int,
        typer.Option(help="Random seed for the split, the initial weights and the batch order."),
    ] = 0,
    pretrained: Annotated[
        str | None,
        typer.Option(
            help="Also fine-tune published weights: those in this folder, or downloaded from the "
            "Hugging Face Hub if no folder is given."
        ),
    ] = None,
    out: Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the interrupted run in --out.")
    ] = False,
    storage: Annotated[
        str | None, typer.Option(help="URL of a database, to race on several machines at once.")
    ] = None,
    group_by: GroupBy = None,
) -> None:
    """Find, train, test and export the best model for your images within a budget."""
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
