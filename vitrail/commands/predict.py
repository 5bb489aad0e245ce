"""`vitrail predict`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitrail.commands.options import Json, console, work
from vitrail.errors import ConfigError, DataError

if TYPE_CHECKING:
    from vitrail.jobs.predict import Predictor


def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    images: Annotated[
        list[str],
        typer.Argument(help="Files of images, or of whatever the run learned, or folders of them."),
    ],
    top: Annotated[int, typer.Option(help="Number of classes to show for each file.")] = 3,
    threshold: Annotated[
        float | None,
        typer.Option(
            help='Probability below which the answer is "none of these", e.g. 0.8; in a run of '
            "several labels that of every label."
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Classes in words, separated by commas, for a run of images or clips with "
            "sentences: 'a shirt,a bag'."
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="Sentences for the classes, separated by commas, {} being the name: 'a photo of a "
            "{},a drawing of a {}'. Default: those of the run."
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
            help="Answer each file in this time, its reading included, at the best setting for "
            "which there is time, e.g. 20ms."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for the masks or boxes of a run that gives them, or labels of points, and "
            "for pictures of these. Default: masks-of-RUN, boxes-of-RUN or labels-of-RUN.",
        ),
    ] = None,
) -> None:
    """Classify images, pixels or points of lidar scans, or find objects, with a finished run."""
    from vitrail.data.listing import collect
    from vitrail.jobs.predict import Predictor, answering
    from vitrail.jobs.scans import ScanPredictor
    from vitrail.report.predictions import as_csv, show
    from vitrail.report.predictions import as_json as in_json
    from vitrail.report.text import plain

    if as_json and csv:
        raise ConfigError("--json and --csv are two forms of one answer: ask for one of them")
    work()
    if classes is None and prompts is not None:
        raise ConfigError("--prompts are sentences for classes: give --classes 'a shirt,a bag' too")
    if classes is None:
        predictor = answering(
            run, engine=engine, threshold=threshold, latency=latency, dial=dial, deadline=deadline
        )
    else:
        asked = {"--engine": engine, "--latency": latency, "--dial": dial, "--deadline": deadline}
        predictor = _in_words(run, classes, prompts, threshold, asked)
    of_scans = isinstance(predictor, ScanPredictor)
    paths = images
    if isinstance(predictor, ScanPredictor):
        paths = predictor.collect(images)
    elif predictor.labels.takes in ("images", "waves"):
        noun = predictor.labels.item
        paths = collect(images, lambda text: print(plain(text), file=sys.stderr), noun=noun)
    if out is None and (
        isinstance(predictor, ScanPredictor)
        or (isinstance(predictor, Predictor) and predictor.writes)
    ):
        out = predictor.free_folder()
    words = ("scan", "scans") if of_scans else (predictor.labels.item, predictor.labels.items)
    found = predictor.predict(paths, top=len(predictor.labels.classes) if out else top, out=out)
    if turned := predictor.said(found):
        print(turned, file=sys.stderr)
    if as_json:
        print(in_json(found))
    elif csv:
        print(as_csv(found), end="")
    elif len(found) == 1 and found[0].error:
        remedy = "" if ":" in found[0].error else f": give another {words[0]}"
        raise DataError(f"{plain(found[0].path)} {found[0].error}{remedy}")
    else:
        show([replace(one, ranked=one.ranked[:top]) for one in found], console(), words)
        if out:
            of_maps = predictor.labels.maps
            what = "labels of points" if of_scans else "masks" if of_maps else "boxes"
            print(f"{what}, and pictures of them, are in {plain(str(out))}")
    if all(p.error for p in found):
        raise typer.Exit(2)


def _in_words(
    run: Path,
    classes: str,
    prompts: str | None,
    threshold: float | None,
    others: Mapping[str, object],
) -> Predictor:
    """Open a run that is asked for classes in words. Raises VitrailError."""
    from vitrail.jobs.zero_shot import ZeroShot, classes_in

    if given := [name for name, value in others.items() if value is not None]:
        raise ConfigError(f"{given[0]} is for files of a run, and --classes asks the weights")
    sentences = [one.strip() for one in (prompts or "").split(",") if one.strip()]
    return ZeroShot(run, classes_in(classes), prompts=sentences, threshold=threshold)
