"""`vitrail pretrain`."""

from __future__ import annotations

from typing import Annotated

import typer

from vitrail.commands.options import Device, Out, work


def pretrain(
    pictures: Annotated[
        str,
        typer.Argument(help="Folder of pictures at any depth, table, or built-in name."),
    ],
    method: Annotated[
        str | None,
        typer.Option(
            help="How to learn without labels: sit, attmask, dino, ibot or mae. Default: attmask."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Published variant to train, e.g. deit_tiny; by default a small DeiT."),
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="Time for everything, e.g. 10m or 2h. Default: 10m.")
    ] = None,
    labels: Annotated[
        bool | None,
        typer.Option(
            "--labels/--no-labels",
            help="Hold back a part of class folders to tell how good features are; no label is "
            "learned from either way. Default: hold back.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the split, the initial weights and the views.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A field of the recipe, e.g. objective.crops.number=4."),
    ] = None,
    out: Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the pretraining in --out.")
    ] = False,
    device: Device = "auto",
    devices: Annotated[
        int, typer.Option(help="Number of processes that train together. Default: 1.")
    ] = 1,
) -> None:
    """Pretrain a backbone on pictures without labels, and show what its features know."""
    from vitrail.jobs.pretrain import pretrain as run

    work()
    run(
        pictures, method=method, model=model, time=time, labels=labels, seed=seed,
        settings=settings or (), out=out, resume=resume, device=device, devices=devices,
    )  # fmt: skip
