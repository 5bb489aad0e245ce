"""`vitrail evaluate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vitrail.commands.options import Json, show, work


def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    data: Annotated[
        str | None,
        typer.Argument(
            help="Labelled data of the run's kind: folder of class folders, table or name; by "
            "default the run's own test part."
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="Runtime to answer with, for which `vitrail export` made a file."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the evaluation; by default that of the data.")
    ] = None,
    attack: Annotated[
        str | None,
        typer.Option(help="Attack pixels within a norm and a radius: linf:4/255, l2:0.5."),
    ] = None,
    autoattack: Annotated[
        bool,
        typer.Option(
            "--autoattack",
            help="Attack by AutoAttack as well, within the same radius (extra autoattack).",
        ),
    ] = False,
    corruptions: Annotated[
        bool,
        typer.Option("--corruptions", help="Judge by fifteen corruptions at five severities."),
    ] = False,
    images: Annotated[
        int, typer.Option(help="Most images to attack and corrupt, a fair sample.")
    ] = 1000,
    as_json: Json = False,
) -> None:
    """Judge a finished run by labelled images, with the same page; attack and corrupt them."""
    from vitrail.jobs.evaluate import evaluate as judge
    from vitrail.jobs.stress import Stress

    work()
    stress = Stress(attack, corruptions, images, autoattack)
    shown = sys.stderr.isatty()
    found = judge(run, data, engine=engine, name=name, stress=stress, progress=shown)
    if as_json:
        print(json.dumps({"n": found.n, **found.figures}, indent=1))
        return
    print(found.sentence)
    _show_stress(found.figures)
    print(f"report: {found.report}")


def _show_stress(figures: dict[str, Any]) -> None:
    """Print what attacks and corruptions left."""
    from vitrail.units import percent

    if (found := figures.get("attack")) is not None:
        rows = [
            (
                row["name"],
                percent(row["accuracy"]),
                f"{percent(row['low'])} to {percent(row['high'])}",
            )
            for row in found["rows"]
        ]
        head = f"attack, {found['n']} images"
        show((head, "right", "95 % interval"), rows, left=(head,))
    if (found := figures.get("corruptions")) is not None:
        rows = [(name, *map(percent, row)) for name, row in found["rows"].items()]
        head = f"{found['score']} at severity"
        show((head, *"12345"), rows, left=(head,))
        print(f"{percent(found['clean'])} as they are, {percent(found['mean'])} in the mean of all")
