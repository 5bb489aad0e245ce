"""`vitrail detect`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vitrail.commands.options import Json, say, show, work
from vitrail.errors import ConfigError, DataError

HUB = "hf-hub:google/owlvit-base-patch32"


def detect(
    images: Annotated[list[str], typer.Argument(help="Image files or folders of them.")],
    sentences: Annotated[
        list[str] | None,
        typer.Option("--for", help="What to look for, e.g. 'a sleeve'; again for more."),
    ] = None,
    like: Annotated[
        str | None, typer.Option("--like", help="Picture of what to look for, in place of words.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Weights of OWL-ViT or OWLv2: a run that was trained with task=open_vocabulary, a "
            "file under the names of the authors, of transformers or of vitrail, or a reference "
            "such as " + HUB + "."
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="The weights' tokenizer.json. Default: the one in their folder."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Least score of what is shown: for words that which a run found best, or 0.1; for "
            "a picture a share of the best score, 0.6."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for pictures with boxes. Default: detections."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find objects by words or by a picture, and draw boxes around them."""
    from vitrail.data.listing import collect
    from vitrail.jobs.detect import Asked, Detector, free_folder
    from vitrail.jobs.detect import as_json as in_json
    from vitrail.jobs.detect import detect as looked_for
    from vitrail.report.text import plain

    asked = Asked(tuple(sentences or ()), like, threshold)
    if weights is None:
        raise ConfigError(
            f"no weights are given: add --weights FILE of an OWL-ViT or OWLv2, or a run of it, or "
            f"--weights {HUB}, which is fetched once"
        )
    work()
    paths = collect(images, lambda text: print(plain(text), file=sys.stderr))
    if not paths:
        raise DataError("no image is given: name image files or folders of them")
    if out is None and not as_json:
        out = free_folder()
    found = looked_for(Detector(weights, tokenizer), paths, asked, out=out)
    if as_json:
        print(in_json(found))
    elif len(found) == 1 and found[0].error:
        raise DataError(found[0].error)
    else:
        rows = [
            (one.path, box.name, f"{box.score:.1%}", " ".join(f"{v:.0f}" for v in box.corners))
            for one in found
            for box in one.boxes
        ]
        show(("image", "found", "score", "x0 y0 x1 y1"), rows, left=("image", "found"))
        for one in found:
            if one.error or not one.boxes:
                say(one.error or f"{one.path}: nothing found; a lower --threshold shows more")
        say(f"pictures with boxes are in {out}")
    if all(one.error for one in found):
        raise typer.Exit(2)
