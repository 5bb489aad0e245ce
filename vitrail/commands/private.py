"""`vitrail private`."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Annotated

import typer

from vitrail.commands.options import Json, say
from vitrail.errors import ConfigError, RunError


def private(
    run: Annotated[
        Path | None, typer.Argument(help="Folder of a finished run of a ViT or DeiT.")
    ] = None,
    image: Annotated[Path | None, typer.Argument(help="Image that only the client sees.")] = None,
    weights: Annotated[
        str,
        typer.Option(help="Who knows the weights: shared (the server alone) or public (both)."),
    ] = "shared",
    protocol: Annotated[
        str,
        typer.Option(
            help="Arithmetic between the two: semi2k, in which the client deals random numbers, or "
            "cheetah, in which nobody does."
        ),
    ] = "semi2k",
    bandwidth: Annotated[
        float, typer.Option(help="Mbit a second of the network that the prediction is for.")
    ] = 1000,
    round_trip: Annotated[
        float, typer.Option(help="Milliseconds there and back in that network.")
    ] = 1,
    out: Annotated[Path | None, typer.Option("--out", help="File of the page to write.")] = None,
    install: Annotated[
        bool, typer.Option("--install", help="Download SPU, the engine, and do nothing else.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Answer for an image by two parties, neither of which sees what is the other's."""
    if install:
        from vitrail.private.environment import install as make

        say(f"SPU is in {make()}")
        return
    if run is None or image is None:
        raise ConfigError("the run and the image are wanted: vitrail private RUN image.jpg")
    for name, value in (("--bandwidth", bandwidth), ("--round-trip", round_trip)):
        if not (value > 0 if name == "--bandwidth" else value >= 0) or math.isinf(value):
            raise ConfigError(f"{name} is {value:g}: give a number of what a network does")
    from vitrail.jobs.private import private as answer
    from vitrail.methods.private_cost import Network
    from vitrail.report.private import render_private
    from vitrail.run.folder import RunFolder

    if out is not None:
        if out.exists():
            raise RunError(f"{out} exists and is not overwritten: name another file by --out")
        RunFolder.check_writable(out.parent, "the page in")
    facts = answer(
        run, image, weights=weights, protocol=protocol, shown=sys.stderr.isatty(),
        network=Network(bandwidth / 8 * 1e6, round_trip / 1e3),
    )  # fmt: skip
    if out is not None:
        from vitrail import files

        try:
            files.write(out, render_private(facts))
        except OSError as error:
            raise RunError(
                f"{out} cannot be written ({files.reason(error)}): name another file by --out"
            ) from error
    if as_json:
        print(json.dumps(facts.to_json(), indent=1))
        return
    say(facts.sentence)
    if out is not None:
        say(f"page: {out}")
