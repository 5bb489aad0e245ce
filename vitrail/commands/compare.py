"""`vitrail compare`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from vitrail.commands.options import Json, console, say, size, some


def compare(
    a: Annotated[
        str, typer.Argument(help="A variant, a file of weights, NAME=FILE, or a run folder.")
    ],
    b: Annotated[str, typer.Argument(help="Another of these, to compare it with.")],
    image: Annotated[
        str | None, typer.Option(help="Size of the image to compare on, e.g. 224x224.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="Largest relative difference of a layer that counts as equal.")
    ] = 1e-6,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Show every layer, not only those around the first deviation."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Find the first layer at which two models deviate; exits with 1 if there is one."""
    from vitrail.jobs.compare import compare as run

    found = run(a, b, image=size(image), tolerance=tolerance)
    layers = [*found.layers, found.logits]
    if as_json:
        facts = {"equal": found.first is None, "paired_by": found.paired, "said": found.said()}
        told = {"first": found.first and _facts(found.first), "alone": found.alone}
        told["layers"] = [_facts(layer) for layer in layers]
        told["parameters"] = [_facts(entry) for entry in found.parameters]
        print(json.dumps(facts | told))
    else:
        say(found.said())
        console().print(_layer_table(layers, found.first, everything))
        for which, names in zip(("first", "second"), found.alone, strict=True):
            if names:
                say(f"only the {which} has {some(names)}")
        if found.parameters:
            say(f"parameters differ: {some([entry.name for entry in found.parameters])}")
    if found.first is not None:
        raise typer.Exit(1)


def _facts(entry: Any) -> dict[str, Any]:
    """Return the fields of a layer or a parameter; None for infinity, which JSON lacks."""
    return {k: None if v == float("inf") else v for k, v in vars(entry).items()}


def _layer_table(layers: list[Any], first: Any, everything: bool) -> Any:
    """Make a table of the layers around the first deviation, or of all of them."""
    from rich.table import Table
    from rich.text import Text

    from vitrail.report.text import plain

    at = layers.index(first) if first in layers else len(layers) - 1
    shown = layers if everything else layers[max(0, at - 4) : at + 5]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("layer", "shape", "largest difference", "relative"):
        table.add_column(name, justify="left" if name in ("layer", "shape") else "right")
    for layer in shown:
        figures = f"{layer.difference:.2g}", f"{layer.relative:.1e}"
        style = "bold red" if layer is first else ""
        table.add_row(
            Text(plain(layer.said())), "x".join(map(str, layer.shape)), *figures, style=style
        )
    return table
