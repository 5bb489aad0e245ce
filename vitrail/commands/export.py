"""`vitrail export`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from vitrail.commands.options import Json, Threads, say
from vitrail.errors import ConfigError


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Write and check the ONNX file again.")
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option(help="Runtime to make and time files for: onnxruntime or openvino."),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Also make a file in 8-bit integers.")
    ] = False,
    triton: Annotated[
        Path | None,
        typer.Option(help="Folder for a model repository that Triton Inference Server serves."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Percentage points of the score that --int8 may lose; 0.5 by default."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Images to calibrate --int8 with, where the run's own are gone."),
    ] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Write files of a run for deployment, and check them against its weights."""
    if not (onnx or engine or triton):
        raise ConfigError(
            "nothing to export is named: add --onnx, --triton FOLDER, or --engine onnxruntime or "
            "openvino"
        )
    if not engine and int8:
        raise ConfigError("--int8 needs an engine: add --engine onnxruntime or openvino")
    if max_drop is not None and not int8:
        raise ConfigError("--max-drop limits what --int8 may lose: add --int8")
    if threads is not None and threads < 1:
        raise ConfigError(f"--threads is {threads}: give at least 1")
    if onnx:
        from vitrail.jobs.export import export_run

        made = export_run(run)
        told = f"{made.path}: {made.size_bytes / 1e6:.2f} MB; the same class on all {made.n} "
        told += f"{made.images}, logits differ by at most {made.max_logit_difference:.1e}"
        if not as_json:
            say(told)
        elif not engine:
            print(json.dumps(vars(made) | {"path": str(made.path)}))
    if triton is not None:
        from vitrail.jobs.export import export_triton

        made_there = export_triton(run, triton)
        if as_json and not (onnx or engine):
            print(json.dumps({"path": str(made_there)}))
        elif not as_json:
            say(f"{made_there}: start Triton with --model-repository={triton}")
    if engine:
        from dataclasses import asdict

        from vitrail.run.deploy import MAX_DROP, export_engine

        allowed = MAX_DROP if max_drop is None else max_drop
        deployed = export_engine(
            run, engine, int8=int8, max_drop=allowed, data=data, threads=threads,
            progress=sys.stderr.isatty(),
        )  # fmt: skip
        if as_json:
            print(json.dumps(asdict(deployed), indent=1))
        else:
            say(deployed.said(run))
