"""`vitrail predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitrail.commands.options import Json, console, work


def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    images: Annotated[list[str], typer.Argument(help="Image files or folders of them.")],
    top: Annotated[int, typer.Option(help="Number of classes to show for each image.")] = 3,
    as_json: Json = False,
    csv: Annotated[
        bool, typer.Option("--csv", help="Print comma-separated values, for spreadsheets.")
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option(help="Runtime to answer with, for which `vitrail export` made a file."),
    ] = None,
) -> None:
    """Classify images with a finished run."""
    from vitrail import predict as predicting

    work()
    found = predicting.Predictor(run, engine=engine).predict(predicting.collect(images), top=top)
    if as_json:
        print(predicting.as_json(found))
    elif csv:
        print(predicting.as_csv(found), end="")
    else:
        console().print(predicting.as_table(found))
    if all(p.error for p in found):
        raise typer.Exit(2)
