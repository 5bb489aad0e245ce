"""`vitrail train`."""

from __future__ import annotations

from typing import Annotated

import typer

from vitrail.commands.options import Out, work


def train(
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A field of the recipe: model=cvt_13, optimizer.lr=3e-4 ..."),
    ] = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    device: Annotated[str, typer.Option(help="Trains on auto, cpu, cuda or mps.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads of the latency.")] = None,
) -> None:
    """Train one recipe without a race, with the same test, export and report."""
    from vitrail.run.single import train_recipe

    work()
    train_recipe(settings or [], out=out, resume=resume, device=device, threads=threads)
