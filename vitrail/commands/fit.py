"""`vitrail fit`."""

from __future__ import annotations

from typing import Annotated

import typer

from vitrail.commands.options import Out, work


def fit(
    data: Annotated[
        str, typer.Argument(help="Folder with one subfolder per class, table, or built-in name.")
    ],
    latency: Annotated[
        str | None,
        typer.Option(
            help="Longest time for one picture as exported, its resize included, e.g. 20ms."
        ),
    ] = None,
    input: Annotated[
        str | None,
        typer.Option(
            "--input",
            help="Width and height of the pictures that the latency is for, e.g. 1920x1080. "
            "Default: the median of the data.",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="Runtime whose latency must meet the limit: onnxruntime, openvino, or auto for "
            "whichever is faster here. Default: onnxruntime."
        ),
    ] = None,
    macs: Annotated[
        str | None, typer.Option(help="Most multiply-adds for one image, e.g. 50M.")
    ] = None,
    params: Annotated[str | None, typer.Option(help="Most parameters, e.g. 2M.")] = None,
    time: Annotated[
        str | None, typer.Option(help="Time for everything, e.g. 10m or 1h30m. Default: 10m.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Device to train on: auto, cpu, cuda or mps. Default: auto.")
    ] = None,
    devices: Annotated[
        int | None, typer.Option(help="Number of processes that train together. Default: 1.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads to use when measuring latency. Default: all.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of the split, the initial weights and the batch order."),
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(help="Also fine-tune weights: a folder of them, a run, or hub to download."),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Learn from a trained model too: a run, a file of weights or a published variant."
        ),
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(
            help="JSON file whose model races as well, e.g. found.json of a search (repeatable)."
        ),
    ] = None,
    pretrain: Annotated[
        str | None,
        typer.Option(
            help="Pictures without labels to pretrain on first, with a third of the time, e.g. the "
            "folder itself."
        ),
    ] = None,
    against_scratch: Annotated[
        bool,
        typer.Option(
            "--against-scratch",
            help="Once the best network is trained from a pretraining, train it from scratch too, "
            "beyond --time, for as long as pretraining and training took, and tell both.",
        ),
    ] = False,
    group_by: Annotated[
        str | None,
        typer.Option(help="Regular expression on paths: images of one group stay on one side."),
    ] = None,
    duplicates: Annotated[
        str | None,
        typer.Option(
            help="What becomes of copies of one picture: group them on one side of the split "
            "(default), keep them anywhere, or drop all but one."
        ),
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Database URL that several machines share for one race.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="What to learn: classification, multilabel for several labels per image, "
            "segmentation for masks, detection for boxes, instances for boxes and outlines, "
            "series for time series, video for clips, audio for sounds, or lidar for scans. "
            "Default: what the data are for."
        ),
    ] = None,
    flexible: Annotated[
        bool,
        typer.Option(
            "--flexible",
            help="Learn many patch sizes in one set of weights: the run gets a dial of costs.",
        ),
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A field of every recipe, e.g. augment.flip=0 (repeatable)."),
    ] = None,
    out: Out = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the run in --out; --time and limits may change."),
    ] = False,
) -> None:
    """Find, train, test and export the best model for your images within a budget."""
    from vitrail.jobs.fit import fit as run

    work()
    run(
        data, latency=latency, input=input, engine=engine, macs=macs, params=params, time=time,
        device=device, devices=devices, threads=threads, seed=seed, pretrained=pretrained,
        teacher=teacher, group_by=group_by, duplicates=duplicates, storage=storage, task=task,
        flexible=flexible or None, add=add, pretrain=pretrain,
        against_scratch=against_scratch or None,
        settings=settings or (), out=out, resume=resume,
    )  # fmt: skip
