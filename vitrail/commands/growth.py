"""`vitrail growth`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from vitrail.commands.options import Json, Names, say, show, whole


def growth(
    names: Names = None,
    sides: Annotated[
        str, typer.Option(help="Sides of the images, in pixels.")
    ] = "64,128,256,512,1024",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads to compute with; all cores by default.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write the figures and the page to.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the measurement in --out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show how time and memory of models grow with the image, the batch and the depth."""
    from dataclasses import asdict

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
    say(answer(facts))
    show(HEAD, map(cells, facts.rows), left=[title for title in HEAD if "," not in title])
    if out is not None:
        say(f"page: {out}/growth.html")
