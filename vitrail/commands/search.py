"""`vitrail search`."""

from __future__ import annotations

from typing import Annotated

import typer

from vitrail.commands.options import Json, Out, work


def search(
    name: Annotated[
        str, typer.Argument(help="Name of the search: vitas, autoformer, glit, pnas or bats.")
    ],
    data: Annotated[
        str, typer.Argument(help="Folder with one subfolder per class, table, or built-in name.")
    ],
    macs: Annotated[
        str | None, typer.Option(help="Most multiply-adds for one image, e.g. 20M.")
    ] = None,
    params: Annotated[str | None, typer.Option(help="Most parameters, e.g. 2M.")] = None,
    latency: Annotated[
        str | None,
        typer.Option(help="Longest time for one picture as exported, e.g. 20ms."),
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="Time for everything, e.g. 30m or 2h. Default: 10m.")
    ] = None,
    alone: Annotated[
        int | None,
        typer.Option(
            help="Number of networks to train by themselves as well, to tell how well inherited "
            "weights rank them; takes a quarter of the time."
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(help="File found.json of an earlier search, whose network comes first."),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="What looks among candidates that share weights: evolve, nsga (a front of score "
            "against multiply-adds) or random. Default: evolve."
        ),
    ] = None,
    enforce: Annotated[
        str | None,
        typer.Option(
            help="How limits are kept while candidates are looked for: reject (nothing over them "
            "is looked at), raise (what is over them pays by a factor that grows until they are "
            "met) or dual (a factor that follows how far they are missed, back to 0 where there is "
            "room; of bats dual alone). What is found keeps them always. Default: reject."
        ),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            help="Width and height to train at, e.g. 32x32. Default: what suits the data."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Device to train on: auto, cpu, cuda or mps. Default: auto.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads to use when measuring latency. Default: all.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the split, the search, the weights and the batches.")
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(help="Regular expression on paths: images of one group stay on one side."),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(help="Database URL that several machines share for one search."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="What to learn: classification, or multilabel for several labels per image. "
            "Default: classification."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A field of the recipe, the space or the evolution, e.g. space.sharing=cyclic or "
            "evolve.population=20, grow.beam=16 (repeatable).",
        ),
    ] = None,
    out: Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the interrupted search in --out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Search a published space of networks for one within a budget, and train and test it."""
    from vitrail.jobs.search import search as run

    work()
    found = run(
        name, data, latency=latency, macs=macs, params=params, time=time, device=device,
        threads=threads, seed=seed, group_by=group_by, task=task, alone=alone, start=start,
        strategy=strategy, enforce=enforce, image=image, storage=storage, settings=settings or (),
        out=out, resume=resume,
    )  # fmt: skip
    if as_json:
        print((found / "found.json").read_text())
