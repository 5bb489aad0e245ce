"""`vitrail check`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from vitrail.commands.options import GroupBy, Json, say


def check(
    data: Annotated[
        str,
        typer.Argument(
            help="Folder of class folders, of images and masks or boxes, table, or built-in name."
        ),
    ],
    task: Annotated[
        str | None,
        typer.Option(
            help="What it is for: classification, multilabel, segmentation, detection, series, "
            "video or audio. Default: what the data tell."
        ),
    ] = None,
    group_by: GroupBy = None,
    duplicates: Annotated[
        str, typer.Option(help="What becomes of copies of one picture: group, keep or drop.")
    ] = "group",
    as_json: Json = False,
) -> None:
    """Say what is wrong with data before any time is spent on it."""
    from vitrail.jobs.check import Rules
    from vitrail.jobs.check import check as run
    from vitrail.report.predictions import shown_json

    rules = Rules(group_by, duplicates)  # pyright: ignore[reportArgumentType]
    found = run(data, task, rules, progress=sys.stderr.isatty())
    if as_json:
        print(shown_json(found.to_json()))
    else:
        say("\n".join(found.lines()))
