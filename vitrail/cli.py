"""The command line: `vitrail fit photos/ --latency 20ms`, and what belongs to it.

Every mistake of the user ends in one sentence and exit code 2. Torch and all that is heavy
are imported inside the commands, so that `--help` is instant.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vitrail import __version__
from vitrail.errors import ConfigError, VitrailError

app = typer.Typer(
    name="vitrail",
    help="Vision backbones under one roof, and the best of them for your images and budget.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Out = Annotated[Path | None, typer.Option("--out", help="Run folder to make.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script to read.")]


@app.command("list")
def list_variants(
    family: Annotated[str | None, typer.Option(help="Only this family, such as swin.")] = None,
    max_macs: Annotated[str | None, typer.Option(help="At most so many, such as 5G.")] = None,
    max_params: Annotated[str | None, typer.Option(help="At most so many, such as 30M.")] = None,
    as_json: Json = False,
) -> None:
    """The catalog: every published variant with its figures."""
    from vitrail.fit.budget import parse_count
    from vitrail.models import catalog, families
    from vitrail.models.backbone import input_shape

    if family is not None and family not in families():
        raise ConfigError(f"--family is {family!r}: known are {', '.join(families())}")
    macs = parse_count(max_macs) / 1e9 if max_macs else float("inf")
    params = parse_count(max_params) / 1e6 if max_params else float("inf")
    chosen = [
        v
        for v in catalog().values()
        if (family is None or v.family == family)
        and (max_params is None or _known(v, "params_m") <= params)
        and (max_macs is None or _known(v, "flops_g") <= macs)
    ]
    if as_json:
        print(json.dumps([_variant_json(v) for v in chosen], indent=1))
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("family", "variant"):
        table.add_column(name)
    for name in ("params M", "MACs G", "top-1 %", "image"):
        table.add_column(name, justify="right")
    for v in chosen:
        figures = [_figure(v.params_m), _figure(v.flops_g), _figure(v.top1)]
        table.add_row(v.family, v.name, *figures, "x".join(map(str, input_shape(v.config)[1:])))
    _console().print(table)
    print(f"{len(chosen)} of {len(catalog())} variants; top-1 is the published one, ImageNet-1k")


def _known(v: Any, figure: str) -> float:
    """A published figure, or our own count where there is none."""
    if getattr(v, figure) is not None:
        return getattr(v, figure)
    import torch

    from vitrail.measure.counts import counts
    from vitrail.models import create
    from vitrail.models.backbone import input_shape

    with torch.device("meta"):
        model = create(v.config)
    if figure == "params_m":
        return sum(p.numel() for p in model.parameters()) / 1e6
    return counts(model, input_shape(v.config)[1:], v.config.channels).macs / 1e9


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _variant_json(v: Any) -> dict[str, Any]:
    from vitrail.models import config_json

    figures = {"params_m": v.params_m, "flops_g": v.flops_g, "top1": v.top1}
    return {"name": v.name, **figures, "config": config_json(v.config), "hub": dict(v.hub)}


@app.command()
def fit(
    data: Annotated[str, typer.Argument(help="Folder, CSV or Parquet table, or built-in name.")],
    latency: Annotated[str | None, typer.Option(help="Of the exported model, as 20ms.")] = None,
    engine: Annotated[
        str, typer.Option(help="Of the latency: onnxruntime, openvino, or auto for the faster.")
    ] = "onnxruntime",
    macs: Annotated[str | None, typer.Option(help="Multiply-adds an image, as 50M.")] = None,
    params: Annotated[str | None, typer.Option(help="Parameters, as 2M.")] = None,
    time: Annotated[str, typer.Option(help="For everything, as 10m or 1h30m.")] = "10m",
    device: Annotated[str, typer.Option(help="Trains on auto, cpu, cuda or mps.")] = "auto",
    devices: Annotated[int, typer.Option(help="Processes that train together.")] = 1,
    threads: Annotated[int | None, typer.Option(help="CPU threads of the latency.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split, the weights and the batches.")] = 0,
    pretrained: Annotated[
        str | None,
        typer.Option(help="Also fine-tune published weights: of this folder, or downloaded."),
    ] = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    storage: Annotated[
        str | None, typer.Option(help="Database URL, to race on several machines.")
    ] = None,
    group_by: Annotated[
        str | None, typer.Option(help="Regular expression: one subject stays on one side.")
    ] = None,
) -> None:
    """Find, train, judge and export the best model for your images within a budget."""
    from vitrail.fit import fit as run

    _work()
    run(
        data,
        latency=latency,
        engine=engine,
        macs=macs,
        params=params,
        time=time,
        device=device,
        devices=devices,
        threads=threads,
        seed=seed,
        pretrained=pretrained,
        out=out,
        resume=resume,
        storage=storage,
        group_by=group_by,
    )


@app.command()
def train(
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A field of the recipe: model=cvt_13, optimizer.lr=3e-4 ..."),
    ] = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    device: Annotated[str, typer.Option(help="Trains on auto, cpu, cuda or mps.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads of the latency.")] = None,
) -> None:
    """Train one recipe without a race, with the same test, export and report."""
    from vitrail.fit.single import train_recipe

    _work()
    train_recipe(settings or [], out=out, resume=resume, device=device, threads=threads)


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="What to compare: attention-modules.")],
    data: Annotated[
        str, typer.Option(help="Folder, CSV or Parquet table, or built-in name.")
    ] = "fashion-sample",
    seeds: Annotated[int, typer.Option(help="Trainings of each arm.")] = 3,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 8,
    only: Annotated[str | None, typer.Option(help="These arms alone, as SE,CBAM.")] = None,
    device: Annotated[str, typer.Option(help="Trains on auto, cpu, cuda or mps.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads of the latency.")] = None,
    group_by: Annotated[
        str | None, typer.Option(help="Regular expression: one subject stays on one side.")
    ] = None,
    out: Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the study in --out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train one host with every arm of a study, and tell what differs beyond noise."""
    from vitrail.study import study as run

    _work()
    folder, facts = run(
        name,
        data,
        seeds=seeds,
        epochs=epochs,
        only=[arm.strip() for arm in only.split(",")] if only else (),
        device=device,
        threads=threads,
        group_by=group_by,
        out=out,
        resume=resume,
    )
    if as_json:
        print((folder / "study.json").read_text())
        return
    from vitrail.report.study import answer

    print(answer(facts))
    _console().print(_arm_table(facts))
    print(f"{folder}/study.html shows it")


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    images: Annotated[list[str], typer.Argument(help="Image files or folders of them.")],
    top: Annotated[int, typer.Option(help="So many classes an image.")] = 3,
    as_json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    engine: Annotated[
        str | None, typer.Option(help="Answer by what `vitrail export --engine` made.")
    ] = None,
) -> None:
    """Classify images with a finished run."""
    from vitrail import predict as predicting

    _work()
    found = predicting.Predictor(run, engine=engine).predict(predicting.collect(images), top=top)
    if as_json:
        print(predicting.as_json(found))
    elif csv:
        print(predicting.as_csv(found), end="")
    else:
        _console().print(predicting.as_table(found))
    if all(p.error for p in found):
        raise typer.Exit(2)


@app.command()
def explain(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    images: Annotated[list[str], typer.Argument(help="Image files.")],
    method: Annotated[
        str, typer.Option(help="auto, rollout, class-attention, gradient or occlusion.")
    ] = "auto",
    about: Annotated[str | None, typer.Option("--class", help="Ask about this class.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The picture, of one image.")] = None,
    as_json: Json = False,
) -> None:
    """Draw what a finished run looked at in an image, beside the image."""
    from vitrail.explain import ASKED, explain_files

    found = explain_files(run, images, method=method, about=about, out=out)
    if as_json:
        print(json.dumps([vars(one) for one in found], indent=1))
        return
    for one in found:
        print(
            f"{one.path}: {one.guess} ({one.confidence:.0%}); {one.picture} shows {one.method} for "
            f"{one.asked}, {ASKED[one.method]}"
        )


@app.command()
def load(
    file: Annotated[str, typer.Argument(help="A checkpoint, or hf-hub:owner/name to fetch it.")],
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Say what a published checkpoint is, and make it a run folder with --out."""
    from vitrail.models import config_json, identify
    from vitrail.models import load as load_weights
    from vitrail.models.backbone import input_shape

    found = identify(file)
    model = load_weights(found.config, file, source=found.source)
    params = sum(p.numel() for p in model.parameters())
    if out is not None:
        from vitrail.run_folder import adopt

        adopt(out, model, source=file)
    if as_json:
        facts = {"name": found.name, "source": found.source, "params": params}
        facts["same_tensors"] = list(found.same)
        print(json.dumps({**facts, "config": config_json(found.config)}))
        return
    sides = input_shape(found.config)[1:]
    print(
        f"{file} is {found.name} in {found.source} names: {params / 1e6:.1f} M parameters, "
        f"{found.config.classes} classes, {'x'.join(map(str, sides))} "
        f"{'clips' if len(sides) == 3 else 'images'}"
    )
    if found.same:
        print(f"(or {', '.join(found.same)}: these have the same tensors)")
    if out is not None:
        print(f"made the run folder {out}: `vitrail predict {out} image.jpg`")


@app.command()
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

        from vitrail.engines.deploy import MAX_DROP, export_engine

        allowed = MAX_DROP if max_drop is None else max_drop
        deployed = export_engine(
            run, engine, int8=int8, max_drop=allowed, data=data, threads=threads,
            progress=sys.stderr.isatty(),
        )  # fmt: skip
        print(json.dumps(asdict(deployed), indent=1) if as_json else deployed.said(run))


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="A variant, a file of weights, NAME=FILE, or a run.")],
    b: Annotated[str, typer.Argument(help="Another.")],
    image: Annotated[str | None, typer.Option(help="Size of the image, as 224x224.")] = None,
    tolerance: Annotated[
        float, typer.Option(help="What a layer may differ by, relatively.")
    ] = 1e-6,
    everything: Annotated[bool, typer.Option("--all", help="Show every layer.")] = False,
    as_json: Json = False,
) -> None:
    """Find the first layer at which two models deviate; exit code 1 if there is one."""
    from vitrail.compare import compare as run

    found = run(a, b, image=_size(image), tolerance=tolerance)
    layers = [*found.layers, found.logits]
    if as_json:
        facts = {"equal": found.first is None, "paired_by": found.paired, "said": found.said()}
        told = {"first": found.first and _facts(found.first), "alone": found.alone}
        told["layers"] = [_facts(layer) for layer in layers]
        told["parameters"] = [_facts(entry) for entry in found.parameters]
        print(json.dumps(facts | told))
    else:
        print(found.said())
        _console().print(_layer_table(layers, found.first, everything))
        for which, names in zip(("first", "second"), found.alone, strict=True):
            if names:
                print(f"only the {which} has {_some(names)}")
        if found.parameters:
            print(f"parameters differ: {_some([entry.name for entry in found.parameters])}")
    if found.first is not None:
        raise typer.Exit(1)


@app.command()
def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Variants, or families for their smallest; none for all families."),
    ] = None,
    training: Annotated[
        bool, typer.Option("--training", help="Time a training step, not inference.")
    ] = False,
    batch: Annotated[str, typer.Option(help="Batch sizes, as 1,8.")] = "1,8",
    against: Annotated[
        str, typer.Option(help="Peers to compare with, or none.")
    ] = "timm,transformers,torchvision",
    dtype: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Also time what torch.compile makes of each.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: all.")] = None,
    image: Annotated[str | None, typer.Option(help="Another image size, as 256x256.")] = None,
    seconds: Annotated[float, typer.Option(help="Of measurement for each contestant.")] = 2.0,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for figures and page.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the comparison in --out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Time models side by side with timm, transformers and torchvision, same weights."""
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
        batches=_whole(batch, "--batch"),
        against=() if against == "none" else tuple(who.strip() for who in against.split(",")),
        dtype="bf16" if dtype == "bf16" else "fp32",
        compiled=compiled,
        device=device,
        threads=threads,
        seconds=seconds,
        image=_size(image),
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
    from rich.table import Table

    print(answer(facts))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in HEAD:
        table.add_column(title, justify="left" if title == "variant" else "right")
    for row in facts.rows:
        table.add_row(*cells(row))
    _console().print(table)
    if compiled:
        print(compiled_answer(facts))
        table = Table(box=None, header_style="bold", pad_edge=False)
        for title in COMPILED_HEAD:
            table.add_column(title, justify="left" if title == "variant" else "right")
        for row in facts.rows:
            if row.compiled:
                table.add_row(*compiled_cells(row))
        _console().print(table)
    for variant, note in remarks(facts):
        print(f"{variant}: {note}")
    if out is not None:
        print(f"{out}/bench.html shows it")


@app.command()
def growth(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Variants, or families for their smallest; none for all families."),
    ] = None,
    sides: Annotated[str, typer.Option(help="Sides of the images.")] = "64,128,256,512,1024",
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: all.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for figures and page.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the figures in --out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show how time and memory of models grow with the image, the batch and the depth."""
    from dataclasses import asdict

    from rich.table import Table

    from vitrail.bench import chosen
    from vitrail.bench import growth as growing
    from vitrail.report.growth import HEAD, answer, cells

    facts = growing.growth(
        chosen(names or []),
        threads=threads,
        sides=_whole(sides, "--sides"),
        out=out,
        resume=resume,
        on_row=lambda row: print(f"{row.variant}: {row.why}", file=sys.stderr),
    )
    if as_json:
        print(json.dumps(asdict(facts), indent=1))
        return
    print(answer(facts))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in HEAD:
        table.add_column(title, justify="right" if "," in title else "left")
    for row in facts.rows:
        table.add_row(*cells(row))
    _console().print(table)
    if out is not None:
        print(f"{out}/growth.html shows it")


def _whole(text: str, option: str) -> tuple[int, ...]:
    """1,8 as (1, 8). Raises ConfigError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(f"{option} is {text!r}: expected whole numbers, as 1,8")
    return tuple(map(int, parts))


def _size(text: str | None) -> tuple[int, int] | None:
    """224x160 as (224, 160). Raises ConfigError."""
    if text is None:
        return None
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise ConfigError(f"--image is {text!r}: expected height x width, as 224x224")
    return int(sides[0]), int(sides[1])


def _facts(entry: Any) -> dict[str, Any]:
    """The fields of a layer or a parameter; JSON has no infinity."""
    return {k: None if v == float("inf") else v for k, v in vars(entry).items()}


def _some(names: Sequence[str]) -> str:
    """The first three and how many more."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _arm_table(facts: Any) -> Any:
    """The arms of a study, the baseline first, then the best."""
    from rich.table import Table

    from vitrail.report.page import count, points, seconds

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("arm", "accuracy", "difference", "95 % interval", "MACs", "latency"):
        table.add_column(title, justify="left" if title == "arm" else "right")
    for arm in [facts.base, *facts.compared]:
        interval = "" if arm.low is None else f"{points(arm.low)} to {points(arm.high)}"
        gap = "" if arm.difference is None else points(arm.difference)
        figures = f"{arm.accuracy:.2%}", gap, interval, count(arm.macs), seconds(arm.latency_s)
        table.add_row(arm.name, *figures, style="bold" if arm.clear else "")
    return table


def _layer_table(layers: list[Any], first: Any, everything: bool) -> Any:
    """The layers around the first deviation, or all of them."""
    from rich.table import Table

    at = layers.index(first) if first in layers else len(layers) - 1
    shown = layers if everything else layers[max(0, at - 4) : at + 5]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("layer", "shape", "largest difference", "relative"):
        table.add_column(name, justify="left" if name in ("layer", "shape") else "right")
    for layer in shown:
        figures = f"{layer.difference:.2g}", f"{layer.relative:.1e}"
        style = "bold red" if layer is first else ""
        table.add_row(layer.said(), "x".join(map(str, layer.shape)), *figures, style=style)
    return table


def _version(asked: bool) -> None:
    if asked:
        print(f"vitrail {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="And leave.")
    ] = False,
) -> None:
    """Options before a command."""


def _work() -> None:
    """Before a command that computes for long in torch."""
    from vitrail import heap

    heap.keep()


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: runs a command and turns a VitrailError into one sentence and exit 2."""
    # Threads that spin while they wait make a training on a busy machine several times slower,
    # and one on a quiet machine no faster; read when torch loads its OpenMP.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _complete(arguments)
    try:
        app(arguments, prog_name="vitrail")
    except VitrailError as error:
        print(f"vitrail: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        print("vitrail: stopped", file=sys.stderr)
        raise SystemExit(130) from None


def _complete(arguments: list[str]) -> None:
    """`--pretrained` may stand alone: then weights come from the Hub."""
    for position, argument in enumerate(arguments):
        following = arguments[position + 1 : position + 2]
        if argument == "--pretrained" and (not following or following[0].startswith("-")):
            arguments[position] = "--pretrained=hub"


if __name__ == "__main__":
    main()
