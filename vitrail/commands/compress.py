"""`vitrail compress`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vitrail.commands.options import Device, Json, Out, Threads, work


def compress(
    run: Annotated[Path | None, typer.Argument(help="Folder of a finished run.")] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="How to choose what stays: up (how far answers move without a channel), uvc "
            "(learned with the weights), magnitude or random; int8 keeps all and makes a file in "
            "8-bit integers; privit keeps all and learns which GELUs and softmaxes "
            "stay, for `vitrail private`. Default: up."
        ),
    ] = None,
    macs: Annotated[
        str | None, typer.Option(help="Most multiply-adds for one image: 50% of them, or 3M.")
    ] = None,
    params: Annotated[
        str | None, typer.Option(help="Most parameters: 50% of them, or 300k.")
    ] = None,
    latency: Annotated[
        str | None, typer.Option(help="Longest time for one image as exported: 50%, or 5ms.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="Runtime whose latency counts: onnxruntime, openvino, or auto for whichever is "
            "faster here; the page tells all that are installed. Default: onnxruntime."
        ),
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option(
            help="Passes over the training images afterwards; by default as many as the run had."
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Percentage points of the score that int8 may lose; 0.5 by default."),
    ] = None,
    gelus: Annotated[
        str | None,
        typer.Option(
            help="Most tokens whose GELU privit keeps, over all blocks: 25% of them, or "
            "500; by default all."
        ),
    ] = None,
    softmaxes: Annotated[
        str | None,
        typer.Option(
            help="Most rows of softmax that privit keeps, over all heads: 25% of them, or "
            "500; by default all."
        ),
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(
            help="File of weights that tells the classes of --data, in place of a run: it is "
            "judged as it is, in a run folder of its own, and then made smaller."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Where the run's images are, where they have moved; the labelled images for "
            "--pretrained."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of all that is random. Default: 0.")
    ] = None,
    out: Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue what was interrupted in --out.")
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Make a finished run's model smaller, and tune, test and export what is left."""
    from vitrail.jobs.compress import compress as make

    work()
    made = make(
        run, out=out, resume=resume, method=method, macs=macs, params=params, latency=latency,
        epochs=epochs, max_drop=max_drop, gelus=gelus, softmaxes=softmaxes,
        data=data, seed=seed, pretrained=pretrained, engine=engine, device=device, threads=threads,
    )  # fmt: skip
    if as_json:
        print(json.dumps(made.result["compressed"] | {"run": str(made.path)}, indent=1))
