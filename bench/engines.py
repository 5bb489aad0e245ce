"""Deployed inference: every engine against ours and a peer's in eager torch, at batch 1.

    python bench/engines.py [--threads 2] [--steps 60] [--max-drop 0.5] [--engine openvino]
                            [--json FILE] [variant ...]

Each model first learns Fashion-MNIST's bundled sample at its own image size for a few dozen steps,
so that the accuracy that int8 may lose means something. Then all take turns: the fastest peer of
timm, transformers and torchvision in float32 (same architecture, 1,000 classes), ours as it is and
folded, ONNX Runtime in float and int8, OpenVINO in float and int8. Prints medians in ms, how many
times as fast as the peer each is, and the geometric mean over models.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

# As the command line does: on a busy machine, threads that spin while they wait cost torch most.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import vitrail
from vitrail.bench import peers
from vitrail.config import to_json
from vitrail.data.cache import pixels
from vitrail.data.gate import inspect
from vitrail.data.labels import Labels
from vitrail.data.opening import open_source
from vitrail.data.parallel import bar
from vitrail.data.split import Part, divide
from vitrail.engines import ENGINES, engine
from vitrail.engines import onnx as export
from vitrail.errors import ExportError
from vitrail.layers.fold import deploy
from vitrail.measure.latency import summary, threads_set, turns
from vitrail.measure.machine import machine
from vitrail.models import config_json, resolve
from vitrail.run.deploy import export_engine
from vitrail.run.folder import RunFolder

DATA = "fashion-sample"
MODELS = ("deit_tiny", "vit_ti16", "cvt_13", "levit_128s", "swin_tiny", "resnet_50")
MEAN, STD = (0.5,) * 3, (0.25,) * 3
BATCH = 32
COLUMNS = ("ours", "folded", *(f"{name} {kind}" for name in ENGINES for kind in ("float", "int8")))


def learned(name: str, steps: int, folder: Path) -> RunFolder:
    """A run folder of the variant after `steps` steps, with its ONNX file."""
    split = divide(inspect(open_source(DATA)))
    config = resolve(name, classes=len(split.classes))
    labels = Labels(split.classes, tuple(config.image), config.channels, MEAN, STD)
    part, most = split.train, BATCH * steps
    few = Part(part.source, part.rows[:most], part.digests[:most])
    images = pixels(few, labels.image, labels.channels)
    torch.manual_seed(0)
    model = vitrail.create(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    with bar(f"{name} learns", steps, shown=sys.stderr.isatty()) as advance:
        for step in range(steps):
            rows = np.arange(step * BATCH, (step + 1) * BATCH) % len(images)
            found = model(labels.normalised(images.take(rows)))
            parts = found if isinstance(found, tuple) else (found,)
            targets = torch.from_numpy(images.labels[rows])
            loss = sum(torch.nn.functional.cross_entropy(part, targets) for part in parts)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            advance(1)
    data = {"spec": DATA, "image": list(labels.image), "channels": labels.channels}
    steps_json = {"total": steps, "batch": BATCH}
    with RunFolder.create(folder) as run:
        recipe = {"model": to_json(config_json(config)), "data": data, "steps": steps_json}
        run.save_model(model.eval(), recipe, labels)
        held = images.take(np.arange(min(64, len(images))))
        export.export_onnx(model, labels, run.onnx, images=held)
    return run


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Medians in seconds by contestant, and what int8 lost in each engine."""
    threads, lost = options.threads, {}
    with tempfile.TemporaryDirectory() as folder:
        run = learned(name, options.steps, Path(folder) / "run")
        model, _, labels = run.load_model()
        random = np.random.default_rng(0)
        image = random.integers(0, 256, (1, *labels.image, labels.channels), dtype=np.uint8)
        x = labels.normalised(image)
        eager = {"ours": model, "folded": deploy(model)}
        eager |= {who: peers.build(who, make) for who, make in peers.known(name).items()}
        calls: dict[str, Any] = {who: lambda other=other: other(x) for who, other in eager.items()}
        for engine_name in options.engine or ENGINES:
            shared = {"threads": threads, "progress": sys.stderr.isatty()}
            try:
                made = export_engine(
                    run.path, engine_name, int8=True, max_drop=options.max_drop, **shared
                )
                lost[engine_name] = asdict(made.int8)
            except ExportError as error:
                lost[engine_name] = str(error)
                export_engine(run.path, engine_name, **shared)
            chosen = engine(engine_name)
            for kind, file in (("float", chosen.file), ("int8", chosen.int8_file)):
                if (run.path / file).is_file():
                    answer = chosen.open(run.path / file, labels, threads=threads, single=True)
                    calls[f"{engine_name} {kind}"] = lambda answer=answer: answer(image)
        with torch.inference_mode(), threads_set(threads):
            found = turns(list(calls.values()), seconds=options.seconds)
    seconds = {who: summary(times).p50_s for who, times in zip(calls, found, strict=True)}
    return {"variant": name, "seconds": seconds, "rounds": len(found[0]), "int8": lost}


def gains(row: dict[str, Any]) -> dict[str, float]:
    """How many times as fast as the fastest peer each of ours is."""
    best = min(row["seconds"][who] for who in peers.LIBRARIES if who in row["seconds"])
    return {who: best / row["seconds"][who] for who in COLUMNS if who in row["seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variants", nargs="*", default=list(MODELS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--max-drop", type=float, default=0.5)
    parser.add_argument("--engine", action="append", choices=ENGINES, help="only this one")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    console = Console(width=180)
    table = Table(box=None, header_style="bold")
    for title in ("variant", "peer ms", *COLUMNS, "int8 in float", "points lost"):
        table.add_column(title, justify="left" if title == "variant" else "right")
    rows: list[dict[str, Any]] = []
    facts = machine() | {name: engine(name).version for name in ENGINES}
    for name in options.variants:
        row = measured(name, options)
        row["times_as_fast"] = gains(row)
        rows.append(row)
        table.add_row(*cells(row))
        console.print("  ".join(cells(row)), style="dim")
        if options.json:
            told = {"machine": facts, "threads": options.threads, "rows": rows}
            text = json.dumps(told | {"geometric_mean": means(rows)}, indent=1)
            options.json.write_text(text + "\n")
    found = means(rows)
    figures = [f"{found[who]:.2f}x" if who in found else "" for who in COLUMNS]
    table.add_row("geometric mean", "", *figures, "", "", style="bold")
    console.print(table)
    console.print(facts)


def means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The geometric mean over models, of those that every model could be measured in."""
    return {
        who: statistics.geometric_mean([row["times_as_fast"][who] for row in rows])
        for who in COLUMNS
        if all(who in row["times_as_fast"] for row in rows)
    }


def cells(row: dict[str, Any]) -> list[str]:
    """What the table says of a row; of int8, ONNX Runtime's figure, then OpenVINO's."""
    best = min(row["seconds"][who] for who in peers.LIBRARIES if who in row["seconds"])
    timed = [
        f"{row['seconds'][who] * 1e3:.1f} {gain:.2f}x" if gain else "-"
        for who in COLUMNS
        for gain in [row["times_as_fast"].get(who)]
    ]
    int8 = list(row["int8"].values())
    kept = [f"{len(i['kept'])} of {i['nodes']}" if isinstance(i, dict) else "all" for i in int8]
    lost = [
        f"{100 * (i['float_score'] - i['score']):.2f}" if isinstance(i, dict) else "-" for i in int8
    ]
    return [row["variant"], f"{best * 1e3:.1f}", *timed, ", ".join(kept), ", ".join(lost)]


if __name__ == "__main__":
    main()
