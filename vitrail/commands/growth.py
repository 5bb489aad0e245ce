"""`vitrail growth`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from vitrail.commands.options import Json, console, whole


def growth(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Variants, or families for their smallest; none for all families."),
    ] = None,
    sides: Annotated[str, typer.Option(help="Sides of the images.")] = "64,128,256,512,1024",
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: all.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for figures and page.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the figures in --out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show how time and memory of models grow with the image, the batch and the depth."""
    from dataclasses import asdict

    from rich.table import Table

    from vitrail.bench import chosen
    from vitrail.bench import growth as growing
    from vitrail.report.growth import HEAD, answer, cells

    facts = growing.growth(
        chosen(names or []),
        threads=threads,
        sides=whole(sides, "--sides"),
        out=out,
        resume=resume,
        on_row=lambda row: print(f"{row.variant}: {row.why}", file=sys.stderr),
    )
    if as_json:
        print(json.dumps(asdict(facts), indent=1))
        return
    print(answer(facts))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in HEAD:
        table.add_column(title, justify="right" if "," in title else "left")
    for row in facts.rows:
        table.add_row(*cells(row))
    console().print(table)
    if out is not None:
        print(f"{out}/growth.html shows it")
