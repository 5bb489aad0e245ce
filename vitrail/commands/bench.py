"""`vitrail bench`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vitrail.commands.options import Json, console, size, whole
from vitrail.errors import ConfigError


def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Variants, or families for their smallest; none for all families."),
    ] = None,
    training: Annotated[
        bool, typer.Option("--training", help="Time a training step, not inference.")
    ] = False,
    batch: Annotated[str, typer.Option(help="Batch sizes, as 1,8.")] = "1,8",
    against: Annotated[
        str, typer.Option(help="Peers to compare with, or none.")
    ] = "timm,transformers,torchvision",
    dtype: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Also time what torch.compile makes of each.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: all.")] = None,
    image: Annotated[str | None, typer.Option(help="Another image size, as 256x256.")] = None,
    seconds: Annotated[float, typer.Option(help="Of measurement for each contestant.")] = 2.0,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for figures and page.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the comparison in --out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Time models side by side with timm, transformers and torchvision, same weights."""
    from vitrail import bench as benching
    from vitrail.report.speed import (
        COMPILED_HEAD,
        HEAD,
        answer,
        cells,
        compiled_answer,
        compiled_cells,
        figures,
        remarks,
    )

    if dtype not in ("fp32", "bf16"):
        raise ConfigError(f"--dtype is {dtype!r}: expected fp32 or bf16")
    settings = benching.Settings(
        mode="training" if training else "inference",
        batches=whole(batch, "--batch"),
        against=() if against == "none" else tuple(who.strip() for who in against.split(",")),
        dtype="bf16" if dtype == "bf16" else "fp32",
        compiled=compiled,
        device=device,
        threads=threads,
        seconds=seconds,
        image=size(image),
    )
    facts = benching.bench(
        names or [],
        settings,
        out=out,
        resume=resume,
        on_row=lambda row: print(figures(row), file=sys.stderr),
    )
    if as_json:
        print(benching.dumped(facts), end="")
        return
    from rich.table import Table

    print(answer(facts))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in HEAD:
        table.add_column(title, justify="left" if title == "variant" else "right")
    for row in facts.rows:
        table.add_row(*cells(row))
    console().print(table)
    if compiled:
        print(compiled_answer(facts))
        table = Table(box=None, header_style="bold", pad_edge=False)
        for title in COMPILED_HEAD:
            table.add_column(title, justify="left" if title == "variant" else "right")
        for row in facts.rows:
            if row.compiled:
                table.add_row(*compiled_cells(row))
        console().print(table)
    for variant, note in remarks(facts):
        print(f"{variant}: {note}")
    if out is not None:
        print(f"{out}/bench.html shows it")
