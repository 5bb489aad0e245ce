"""`vitrail explain`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vitrail.commands.options import Json, say


def explain(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    images: Annotated[list[str], typer.Argument(help="Image files to explain.")],
    method: Annotated[
        str,
        typer.Option(
            help="Way to ask: rollout, class-attention, gradient, occlusion, or auto for the one "
            "that suits the model."
        ),
    ] = "auto",
    about: Annotated[
        str | None,
        typer.Option("--class", help="Class to ask about instead of the model's answer."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Name of the picture; for a single image only.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw what a finished run looked at in an image, beside the image."""
    from vitrail.attribution import ASKED
    from vitrail.jobs.explain import explain_files

    found = explain_files(run, images, method=method, about=about, out=out)
    if as_json:
        print(json.dumps([vars(one) for one in found], indent=1))
        return
    for one in found:
        say(
            f"{one.path}: {one.guess} ({one.confidence:.0%}); {one.picture} shows {one.method} for "
            f"{one.asked}, {ASKED[one.method]}"
        )
