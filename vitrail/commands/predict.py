"""`vitrail predict`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vitrail.commands.options import Json, console, work
from vitrail.errors import ConfigError, DataError


def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    images: Annotated[list[str], typer.Argument(help="Image files or folders of them.")],
    top: Annotated[int, typer.Option(help="Number of classes to show for each image.")] = 3,
    threshold: Annotated[
        float | None,
        typer.Option(
            help='Probability below which the answer is "none of these", e.g. 0.8; in a run of '
            "several labels that of every label."
        ),
    ] = None,
    as_json: Json = False,
    csv: Annotated[
        bool, typer.Option("--csv", help="Print comma-separated values, for spreadsheets.")
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option(help="Runtime to answer with, for which `vitrail export` made a file."),
    ] = None,
    latency: Annotated[
        str | None,
        typer.Option(
            help="Answer at the best setting of the run's dial that takes no longer, e.g. 5ms."
        ),
    ] = None,
    dial: Annotated[
        float | None,
        typer.Option(
            "--dial", help="Place on the run's dial: 0 is the fastest setting, 1 the most accurate."
        ),
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(
            help="Answer each image in this time, its reading included, at the best setting for "
            "which there is time, e.g. 20ms."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for the masks or boxes of a run that gives them, and for pictures of "
            "these. Default: masks-of-RUN or boxes-of-RUN.",
        ),
    ] = None,
) -> None:
    """Classify images or their pixels, or find objects, with a finished run."""
    from vitrail.jobs.predict import Predictor, answering, as_csv, collect, show
    from vitrail.jobs.predict import as_json as in_json
    from vitrail.report.text import plain

    if as_json and csv:
        raise ConfigError("--json and --csv are two forms of one answer: ask for one of them")
    work()
    predictor = answering(
        run, engine=engine, threshold=threshold, latency=latency, dial=dial, deadline=deadline
    )
    paths = images
    if predictor.labels.takes == "images":
        noun = "image" if predictor.labels.hearing is None else "sound"
        paths = collect(images, lambda text: print(plain(text), file=sys.stderr), noun=noun)
    if isinstance(predictor, Predictor) and predictor.writes and out is None:
        out = predictor.free_folder()
    found = predictor.predict(paths, top=len(predictor.labels.classes) if out else top, out=out)
    if turned := predictor.said(found):
        print(turned, file=sys.stderr)
    if as_json:
        print(in_json(found))
    elif csv:
        print(as_csv(found), end="")
    elif len(found) == 1 and found[0].error:
        remedy = "" if ":" in found[0].error else ": give another image"
        raise DataError(f"{plain(found[0].path)} {found[0].error}{remedy}")
    else:
        show([replace(one, ranked=one.ranked[:top]) for one in found], console())
        if out:
            what = "masks" if predictor.labels.maps else "boxes"
            print(f"{what}, and pictures of them, are in {plain(str(out))}")
    if all(p.error for p in found):
        raise typer.Exit(2)
