"""`vitrail evaluate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from vitrail.commands.options import Json, work


def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    data: Annotated[
        str, typer.Argument(help="Labelled images: folder of class folders, table or name.")
    ],
    engine: Annotated[
        str | None,
        typer.Option(help="Runtime to answer with, for which `vitrail export` made a file."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the evaluation; by default that of the data.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Judge a finished run by other labelled images, with the same page."""
    from vitrail.jobs.evaluate import evaluate as judge

    work()
    found = judge(run, data, engine=engine, name=name, progress=sys.stderr.isatty())
    if as_json:
        print(json.dumps({"n": found.n, **found.figures}, indent=1))
        return
    print(found.sentence)
    print(f"report: {found.report}")
