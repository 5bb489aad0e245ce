"""`vitrail weights`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vitrail.commands.options import Json, show
from vitrail.errors import ConfigError


def weights(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Variants whose published weights to fetch; none to list them."),
    ] = None,
    shelf: Annotated[
        Path | None,
        typer.Option(help="Folder to put the files into, for `fit --pretrained FOLDER`."),
    ] = None,
    family: Annotated[
        str | None, typer.Option(help="List only weights of this family, e.g. mobilenet_v2.")
    ] = None,
    max_macs: Annotated[
        str | None,
        typer.Option(help="List only models with at most this many multiply-adds, e.g. 5G."),
    ] = None,
    max_params: Annotated[
        str | None, typer.Option(help="List only models with at most this many parameters.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List published weights for a budget, or fetch some into a shelf that works offline."""
    from vitrail.jobs import weights as job
    from vitrail.units import parse_count, size

    if names:
        if shelf is None:
            raise ConfigError(
                "--shelf is not given: name the folder for the weights of these models"
            )
        found = job.fetch(names, shelf, lambda text: print(text, file=sys.stderr))
        if as_json:
            print(json.dumps([asdict(one) for one in found], indent=1))
        else:
            rows = [(f.name, f.path, size(f.size_bytes), f.licence) for f in found]
            show(("variant", "file", "size", "licence"), rows, left=("variant", "file", "licence"))
        return
    if shelf is not None:
        raise ConfigError("--shelf is for weights that are fetched: name their variants as well")
    listed = job.published(
        family=family,
        macs=parse_count(max_macs) if max_macs else float("inf"),
        params=parse_count(max_params) if max_params else float("inf"),
    )
    if as_json:
        print(json.dumps([asdict(one) for one in listed], indent=1))
        return
    head = ("variant", "MACs G", "params M", "size", "top-1 %", "here", "reference")
    rows = [
        (
            one.name, f"{one.macs / 1e9:.3g}", f"{one.params / 1e6:.3g}", size(one.size_bytes),
            "-" if one.top1 is None else f"{one.top1:g}", "yes" if one.kept else "-", one.reference,
        )
        for one in listed
    ]  # fmt: skip
    show(head, rows, left=("variant", "reference"))
    print(f"{len(listed)} published weights; `vitrail weights NAME --shelf FOLDER` fetches some")
