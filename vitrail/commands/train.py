"""`vitrail train`."""

from __future__ import annotations

from typing import Annotated

import typer

from vitrail.commands.options import Device, Out, Threads, work


def train(
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Field of the recipe and its value, e.g. model=cvt_13 or optimizer.lr=3e-4.",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Published recipe to train by, scaled to the data, e.g. deit; `vitrail recipes` "
            "lists them.",
        ),
    ] = None,
    out: Out = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue the interrupted run in --out; with --set steps.total=N also a finished "
            "one, or up to another step.",
        ),
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Train one recipe without a race, with the same test, export and report."""
    from vitrail.jobs.train import train_recipe

    work()
    settings = [*([f"recipe={recipe}"] if recipe else []), *(settings or [])]
    train_recipe(settings, out=out, resume=resume, device=device, threads=threads)
