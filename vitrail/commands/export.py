"""`vitrail export`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

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
    dial: Annotated[
        bool,
        typer.Option(
            "--dial", help="Write a file for each setting of the run's dial; they share weights."
        ),
    ] = False,
    latency: Annotated[
        str | None,
        typer.Option(
            help="Write the file of the best setting of the run's dial that takes no longer, e.g. "
            "5ms."
        ),
    ] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Write files of a run for deployment, and check them against its weights."""
    if not (onnx or engine or triton or dial or latency):
        raise ConfigError(
            "nothing to export is named: add --onnx, --triton FOLDER, --engine onnxruntime or "
            "openvino, --dial, or --latency"
        )
    if dial and latency:
        raise ConfigError(
            "--dial writes every setting and --latency one of them: ask for one of the two"
        )
    if (dial or latency) and (onnx or engine or triton):
        raise ConfigError(
            f"--{'dial' if dial else 'latency'} writes files of the dial, --onnx, --triton and "
            "--engine those of the setting where the run stands: ask for one of them at a time"
        )
    if not engine and int8:
        raise ConfigError("--int8 needs an engine: add --engine onnxruntime or openvino")
    if max_drop is not None and not int8:
        raise ConfigError("--max-drop limits what --int8 may lose: add --int8")
    if threads is not None and threads < 1:
        raise ConfigError(f"--threads is {threads}: give at least 1")
    if dial or latency:
        _export_dial(run, latency, as_json)
    if onnx:
        from vitrail.jobs.export import export_run

        made = export_run(run)
        if not as_json:
            say(_told(made))
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


def _export_dial(run: Path, latency: str | None, as_json: bool) -> None:
    """Write all settings of a dial, or the best one under a limit."""
    from vitrail.run.dial_files import export_dial, export_setting
    from vitrail.run.turn import turn

    shown = sys.stderr.isatty()
    wish = turn({"latency": latency})
    if wish is None:
        made = export_dial(run, progress=shown)
        say(json.dumps(vars(made) | {"folder": str(made.folder)}) if as_json else made.said())
        return
    one = export_setting(run, wish, progress=shown)
    say(json.dumps(vars(one) | {"path": str(one.path)}) if as_json else _told(one))


def _told(made: Any) -> str:
    """Say what was written, and how it compares with the weights."""
    return (
        f"{made.path}: {made.size_bytes / 1e6:.2f} MB; the same class on all {made.n} "
        f"{made.images}, logits differ by at most {made.max_logit_difference:.1e}"
    )
