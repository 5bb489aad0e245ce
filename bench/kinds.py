"""The kinds of files that vitrail reads: how to make sound ones, and what reading them gives."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import answering
import mutate
import numpy as np
import senses
import stored
import torch
from kind import Kind
from PIL import Image

import vitrail
from vitrail import digests, models
from vitrail.config import to_json
from vitrail.data.decode import BrokenImage, decode
from vitrail.data.gate import inspect
from vitrail.data.labels import Labels
from vitrail.data.opening import open_source
from vitrail.engines import engine, sealed
from vitrail.engines.onnx import export_onnx, synthetic
from vitrail.errors import RunError
from vitrail.jobs.arguments import Arguments
from vitrail.jobs.predict import Predictor
from vitrail.measure import latency
from vitrail.recipes.recipe import Data, Recipe
from vitrail.recipes.recipe import read as read_recipe
from vitrail.run import facts, record
from vitrail.run.folder import RunFolder
from vitrail.run.state import State
from vitrail.search.candidate import candidate
from vitrail.search.race import Race
from vitrail.search.rungs import Runner
from vitrail.search.shortlist import Shortlist
from vitrail.study import run as study
from vitrail.training import snapshot
from vitrail.training.journal import Journal
from vitrail.training.optimizer import Sgd
from vitrail.training.steps import Steps

# ---- run folders -----------------------------------------------------------------------


def _config() -> Any:
    return next(models.small_configs("resnet", image=(28, 28), channels=1, classes=3))


def _recipe() -> Recipe:
    data = Data("photos", image=(28, 28), channels=1, mean=(0.3,), std=(0.4,))
    return Recipe(to_json(models.config_json(_config())), data, Steps(20, 8), optimizer=Sgd())


def _run(folder: Path) -> RunFolder:
    torch.manual_seed(0)
    model, path = vitrail.create(_config()).eval(), folder / "run"
    labels = Labels(("a", "b", "c"), (28, 28), 1, (0.3,), (0.4,), 1.5)
    with RunFolder.create(path) as run:
        run.save_model(model, to_json(_recipe()), labels)
        export_onnx(model, labels, run.onnx, images=synthetic(labels)[:8])
        one = candidate(_config(), params=1000, macs=2000)
        state = State.new(
            path / "fit.json",
            arguments=to_json(Arguments("photos", latency_s=0.02, command="vitrail fit photos")),
            images="abc",
            shortlist=to_json(Shortlist((one,), (one,), 7)),
            seconds={"data": 1.0, "shortlist": 2.0},
            race_s=3.0,
            train_s=9.0,
            misses={"other": 0.5},
        )
        state.decide(one.name, {"hold": 3, "total": 9, "pace": 1.5, "fixed": False})
        for step in range(1, 8):
            Journal(run.metrics).write(step, epoch=step / 4, loss=1 / step, lr=0.1)
        Journal(run.metrics).write(7, val_score=0.5, val_loss=0.7)
        record.write(run, engine("onnxruntime"), {"use": run.onnx.name, "largest": 1e-6})
    Image.fromarray(np.arange(784).reshape(28, 28).astype(np.uint8)).save(folder / "image.png")
    return run


def _predicted(folder: Path, *, engine: str | None = None) -> Any:
    found = Predictor(folder / "run", engine=engine).predict([folder / "image.png"])
    return found[0].ranked, found[0].error


def _weights(_: Path, folder: Path) -> Any:
    model, _, labels = RunFolder.open(folder / "run").load_model()
    images = np.arange(784, dtype=np.uint8).reshape(1, 28, 28, 1)
    with torch.inference_mode():
        return model(labels.normalised(images)).tolist()


def _of_run(name: str) -> Callable[[Path], list[Path]]:
    return lambda folder: [_run(folder).path / name]


def _labels(file: Path, folder: Path) -> Any:
    return _predicted(folder), _weights(file, folder)


def _state(file: Path, folder: Path) -> Any:
    state = State.read(file)
    asked = state.get(Arguments, "arguments")
    known = state.get(Shortlist, "shortlist")
    for plan in state.finals.values():
        range(int(plan.get("hold", 0)))
    state.put(misses=state.values.get("misses", {}))
    return asked, known, asked.budget, state.deadline(1.0) > 0, asked.again(folder)


def _journal(file: Path, folder: Path) -> Any:
    journal = Journal(file)
    journal.truncate(5)
    journal.write(6, loss=0.5)
    return facts.curve_points(journal.read())


# ---- trainings and races ---------------------------------------------------------------


def _snapshots(folder: Path) -> list[Path]:
    tensors = {"model.a": torch.arange(64.0), "model.b": torch.ones(3, 4, dtype=torch.bfloat16)}
    state = {"step": 5, "loss": 0.5, "caution": 1.0, "settings": {"batch": 8, "seed": 0}}
    return [snapshot.write(folder / "checkpoint", tensors, state)]


def _snapshot(file: Path, folder: Path) -> Any:
    found = snapshot.newest(file.parent)
    if found is None:
        raise RunError("there is none")
    done, caution, settings = (found.state[name] for name in ("step", "caution", "settings"))
    return done + 1, caution / 2, dict(settings), {k: v.tolist() for k, v in found.tensors.items()}


def _in_state(random: Any, data: bytes) -> bytes:
    """A snapshot whose state is changed and whose digest is right."""
    from safetensors.torch import load, save

    tensors = load(data)
    state = {"step": 5, "loss": 0.5, "caution": 1.0, "settings": {"batch": 8, "seed": 0}}
    text = mutate.in_json(random, json.dumps(state).encode()).decode("utf-8", "replace")
    digest = digests.of_tensors(tensors, text)
    metadata = {"format": snapshot.FORMAT, "state": text, "sha256": digest}
    return save(tensors, metadata)


def _race(folder: Path) -> list[Path]:
    one = candidate(_config(), params=1000, macs=2000)
    race = Race(folder, name="race", owner="me")
    race.enter([Runner(one, _recipe(), (5, 10))])
    claimed = race._claim([one.name], lambda r: r)
    assert claimed is not None
    trial = race._trial(claimed.trial)
    trial.set_user_attr("rung0", {"loss": 0.5, "rate": 100.0})
    trial.report(0.5, 0)
    race.study._storage.remove_session()
    return [folder / "study.sqlite"]


def _raced(file: Path, folder: Path) -> Any:
    race = Race(folder, name="race", owner="me")
    if not race.entered:
        raise RunError("nobody is in it")
    return race.study.user_attrs["candidates"], sorted(
        (r.order, r.done, r.candidate.name, r.recipe.steps.total) for r in race._mine(lambda r: r)
    )


def _trials(folder: Path) -> list[Path]:
    trials = study._trials(folder / "study.sqlite", "depth", [("a", 0), ("b", 0)])
    for trial in trials.values():
        for name, value in (("seconds", 1.0), ("images", 9), ("accuracy", 0.5)):
            trial.set_user_attr(name, value)
    trial.study._storage.remove_session()
    return [folder / "study.sqlite"]


def _tried(file: Path, folder: Path) -> Any:
    found = study._trials(file, "depth", [("a", 0), ("b", 0)])
    return {pair: trial.user_attrs.get("accuracy") for pair, trial in found.items()}


def _asked(folder: Path) -> list[Path]:
    asked = study.Asked("attention-modules", "photos", 3, 8, (), "cpu", 1)
    (folder / "asked.json").write_text(json.dumps(to_json(asked)))
    return [folder / "asked.json"]


def _latencies(folder: Path) -> list[Path]:
    import os

    os.environ["VITRAIL_CACHE"] = str(folder / "cache")
    latency.remembered({"config": 1}, lambda: latency.Latency(0.1, 0.2, 9, 0.3))
    return [*(folder / "cache" / "latency").iterdir()]


# ---- what users bring ------------------------------------------------------------------


def _pictures(folder: Path) -> list[Path]:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    colour, files = Image.fromarray(pixels).resize((90, 120)), []
    made = {"jpeg": colour, "png": colour, "gif": colour, "webp": colour, "tiff": colour,
            "bmp": colour, "ppm": colour, "ico": colour}  # fmt: skip
    for kind, image in made.items():
        files.append(folder / f"image.{kind}")
        image.save(files[-1])
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 200).save(folder / "deep.png")
    return [*files, folder / "deep.png"]


def _picture(file: Path, folder: Path) -> Any:
    try:
        return decode(file.read_bytes(), (28, 28), 3).tobytes()
    except BrokenImage as error:
        raise RunError(error.reason) from error


def _table(suffix: str) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        rows = []
        for row in range(24):
            pixels = np.random.default_rng(row).integers(0, 256, (12, 12, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{row}.png")
            rows.append((f"{row}.png", "ab"[row % 2], ("train", "val", "test")[row % 3]))
        path = folder / f"table.{suffix}"
        if suffix == "parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            paths, labels, parts = (list(column) for column in zip(*rows, strict=True))
            pq.write_table(pa.table({"path": paths, "label": labels, "split": parts}), path)
        else:
            mark = "\t" if suffix == "tsv" else ","
            lines = [mark.join(row) for row in [("path", "label", "split"), *rows]]
            path.write_text("\n".join(lines) + "\n")
        return [path]

    return make


def _tabled(file: Path, folder: Path) -> Any:
    found = inspect(open_source(str(file)), progress=False)
    return found.size, len(found.source)


def _checkpoint(suffix: str) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        torch.manual_seed(0)
        state, path = vitrail.create(_config()).state_dict(), folder / f"weights.{suffix}"
        if suffix == "pth":
            torch.save({"model": state, "epoch": 3}, path)
        elif suffix == "npz":
            np.savez(path, **{name: value.numpy() for name, value in state.items()})
        else:
            from safetensors.torch import save_file

            whole = {name: value.contiguous() for name, value in state.items()}
            save_file(whole, path, {"vitrail": json.dumps({"config": _recipe().model})})
        return [path]

    return make


def _identified(file: Path, folder: Path) -> Any:
    model = vitrail.load(_config(), file)
    if file.suffix == ".safetensors":
        models.identify(file)
    return digests.of_tensors(model.state_dict())


def _resealed(random: Any, data: bytes) -> bytes:
    """An ONNX file damaged inside, with a digest that is right."""
    body = mutate.in_bytes(random, data[: -len(sealed._HEAD) - 64])
    found = io.BytesIO()
    sealed.write(_Into(found), body)
    return found.getvalue()


class _Into:
    def __init__(self, file: io.BytesIO) -> None:
        self.write_bytes = file.write


JSON, TENSORS = (mutate.in_json,), (mutate.in_safetensors,)
KINDS = {
    one.name: one
    for one in (
        *senses.KINDS,
        *stored.KINDS,
        *answering.KINDS,
        Kind("labels", _of_run("labels.json"), _labels, JSON, strict=True),
        Kind("recipe", _of_run("recipe.json"), lambda f, d: (_weights(f, d), read_recipe(f)), JSON),
        Kind("fit", _of_run("fit.json"), _state, JSON),
        Kind("journal", _of_run("metrics.jsonl"), _journal, (mutate.in_lines,)),
        Kind("engine", _of_run("engine.json"), lambda f, d: _predicted(d, engine="onnxruntime"),
             JSON, strict=True),
        Kind("onnx", _of_run("model.onnx"), lambda f, d: _predicted(d), (_resealed,), (_resealed,),
             strict=True),
        Kind("weights", _of_run("weights.safetensors"), _weights, TENSORS, strict=True),
        Kind("snapshot", _snapshots, _snapshot, (*TENSORS, _in_state), (_in_state,), strict=True),
        Kind("race", _race, _raced, (mutate.in_sqlite,)),
        Kind("study", _trials, _tried, (mutate.in_sqlite,)),
        Kind("asked", _asked, lambda f, d: study._asked(d), JSON),
        Kind("latency", _latencies, lambda f, d: latency.remembered({"config": 1},
             lambda: latency.Latency(1.0, 1.0, 1)), JSON),
        Kind("image", _pictures, _picture),
        *(Kind(name, _table(name), _tabled, (mutate.in_cells,)) for name in ("csv", "tsv")),
        Kind("parquet", _table("parquet"), _tabled),
        Kind("pth", _checkpoint("pth"), _identified, (mutate.in_zip,), (mutate.in_zip,),
             strict=True),
        Kind("npz", _checkpoint("npz"), _identified, (mutate.in_zip,), (mutate.in_zip,),
             strict=True),
        Kind("safetensors", _checkpoint("safetensors"), _identified, TENSORS),
    )
}  # fmt: skip

__all__ = ["KINDS"]
