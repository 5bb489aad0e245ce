"""`vitrail export`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from vitrail.commands.options import Json
from vitrail.errors import ConfigError


def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Write the ONNX file again.")] = False,
    engine: Annotated[
        str | None, typer.Option(help="Make and time files for onnxruntime or openvino.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Also in integers of 8 bits.")] = False,
    max_drop: Annotated[
        float | None, typer.Option(help="Points of top-1 that int8 may lose; 0.5 if not given.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Images for --int8, where the run's own are gone.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of the latency.")] = None,
    as_json: Json = False,
) -> None:
    """Write a run's file for deployment, and check it against the weights."""
    if not (onnx or engine):
        raise ConfigError(
            "no format is named: `vitrail export RUN --onnx`, or --engine onnxruntime or openvino"
        )
    if not engine and int8:
        raise ConfigError("--int8 needs an engine: add --engine onnxruntime or openvino")
    if max_drop is not None and not int8:
        raise ConfigError("--max-drop is about int8: add --int8")
    if threads is not None and threads < 1:
        raise ConfigError(f"--threads is {threads}: give one at least")
    if onnx:
        from vitrail.export import export_run

        made = export_run(run)
        told = f"{made.path}: {made.size_bytes / 1e6:.2f} MB; top-1 agrees on all {made.n} "
        told += f"{made.images}, logits differ by at most {made.max_logit_difference:.1e}"
        if not as_json:
            print(told)
        elif not engine:
            print(json.dumps(vars(made) | {"path": str(made.path)}))
    if engine:
        from dataclasses import asdict

        from vitrail.run.deploy import MAX_DROP, export_engine

        allowed = MAX_DROP if max_drop is None else max_drop
        deployed = export_engine(
            run, engine, int8=int8, max_drop=allowed, data=data, threads=threads,
            progress=sys.stderr.isatty(),
        )  # fmt: skip
        print(json.dumps(asdict(deployed), indent=1) if as_json else deployed.said(run))
