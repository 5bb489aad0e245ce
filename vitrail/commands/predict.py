"""`vitrail predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitrail.commands.options import Json, console, work


def predict(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    images: Annotated[list[str], typer.Argument(help="Image files or folders of them.")],
    top: Annotated[int, typer.Option(help="So many classes an image.")] = 3,
    as_json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    engine: Annotated[
        str | None, typer.Option(help="Answer by what `vitrail export --engine` made.")
    ] = None,
) -> None:
    """Classify images with a finished run."""
    from vitrail.predict import as_csv, as_table, predict
    from vitrail.predict import as_json as in_json

    work()
    found = predict(run, images, top=top, engine=engine)
    if as_json:
        print(in_json(found))
    elif csv:
        print(as_csv(found), end="")
    else:
        console().print(as_table(found))
    if all(p.error for p in found):
        raise typer.Exit(2)
