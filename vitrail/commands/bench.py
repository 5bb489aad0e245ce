"""`vitrail bench`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vitrail.commands.options import Json, Names, say, show, size, whole
from vitrail.errors import ConfigError


def bench(
    names: Names = None,
    training: Annotated[
        bool, typer.Option("--training", help="Time a training step instead of inference.")
    ] = False,
    batch: Annotated[str, typer.Option(help="Batch sizes to measure, e.g. 1,8.")] = "1,8",
    against: Annotated[
        str, typer.Option(help="Libraries to compare with, or none to measure alone.")
    ] = "timm,transformers,torchvision",
    dtype: Annotated[
        str, typer.Option(help="Precision of weights and images: fp32 or bf16.")
    ] = "fp32",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Also time each model compiled by torch.compile.")
    ] = False,
    device: Annotated[str, typer.Option(help="Device to measure on: cpu, cuda or mps.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads to compute with; all cores by default.")
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="Image size instead of the published one, e.g. 256x256.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="Seconds of measurement for each contestant.")
    ] = 2.0,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write the figures and the page to.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the comparison in --out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Time models side by side with timm, transformers and torchvision on the same weights."""
    from vitrail import bench as benching
    from vitrail.report.speed import (
        COMPILED_HEAD,
        HEAD,
        answer,
        cells,
        compiled_answer,
        compiled_cells,
        figures,
        remarks,
    )

    if dtype not in ("fp32", "bf16"):
        raise ConfigError(f"--dtype is {dtype!r}: expected fp32 or bf16")
    settings = benching.Settings(
        mode="training" if training else "inference",
        batches=whole(batch, "--batch"),
        against=() if against == "none" else tuple(who.strip() for who in against.split(",")),
        dtype="bf16" if dtype == "bf16" else "fp32",
        compiled=compiled,
        device=device,
        threads=threads,
        seconds=seconds,
        image=size(image),
    )
    facts = benching.bench(
        names or [],
        settings,
        out=out,
        resume=resume,
        on_row=lambda row: print(figures(row), file=sys.stderr),
    )
    if as_json:
        print(benching.dumped(facts), end="")
        return
    say(answer(facts))
    show(HEAD, map(cells, facts.rows), left=HEAD[:1])
    if compiled:
        say(compiled_answer(facts))
        rows = [compiled_cells(row) for row in facts.rows if row.compiled]
        show(COMPILED_HEAD, rows, left=COMPILED_HEAD[:1])
    for variant, note in remarks(facts):
        say(f"{variant}: {note}")
    if out is not None:
        say(f"page: {out}/bench.html")
