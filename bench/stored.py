"""Further kinds of files: checkpoints of other containers, what lies beside them, tar files of
images, and what vitrail keeps between runs."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mutate
import numpy as np
import torch
from kind import Kind
from PIL import Image
from senses import _pixels, _written

import vitrail
from vitrail import digests, models
from vitrail.config import to_json
from vitrail.data import store
from vitrail.data.gate import inspect
from vitrail.data.opening import open_source
from vitrail.errors import RunError
from vitrail.models.trunk.catalog import config_in
from vitrail.run.features import kept
from vitrail.run.normalisation import _beside
from vitrail.runs import Run
from vitrail.study.scaling import Sweep


def _config() -> Any:
    return next(models.small_configs("resnet", image=(28, 28), channels=1, classes=3))


def _state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return vitrail.create(_config()).state_dict()


def _legacy(folder: Path) -> list[Path]:
    torch.save(
        {"model": _state(), "epoch": 3}, folder / "old.pth", _use_new_zipfile_serialization=False
    )
    return [folder / "old.pth"]


def _pickled(folder: Path) -> list[Path]:
    arrays = {name: value.numpy() for name, value in _state().items()}
    (folder / "arrays.pkl").write_bytes(pickle.dumps({"params": arrays}))
    return [folder / "arrays.pkl"]


def _packed(folder: Path) -> list[Path]:
    import msgpack

    def packed(value: np.ndarray) -> Any:
        told = value.shape, value.dtype.name, value.tobytes()
        return msgpack.ExtType(1, msgpack.packb(told) or b"")

    arrays = {name: packed(value.numpy()) for name, value in _state().items()}
    (folder / "flax.msgpack").write_bytes(msgpack.packb(arrays) or b"")
    return [folder / "flax.msgpack"]


def _sharded(folder: Path) -> list[Path]:
    from safetensors.torch import save_file

    state = list(_state().items())
    halves = {"a.safetensors": dict(state[::2]), "b.safetensors": dict(state[1::2])}
    for name, half in halves.items():
        save_file({n: v.contiguous() for n, v in half.items()}, folder / name)
    places = {name: file for file, half in halves.items() for name in half}
    return _written(folder / "model.safetensors.index.json", json.dumps({"weight_map": places}))


def _loaded(file: Path, _: Path) -> Any:
    return digests.of_tensors(vitrail.load(_config(), file).state_dict())


def _record(folder: Path) -> list[Path]:
    (folder / "model.safetensors").touch()
    told = {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}}
    return _written(folder / "config.json", json.dumps(told))


def _normal(_: Path, folder: Path) -> Any:
    return list(_beside(str(folder / "model.safetensors")))


def _tar(folder: Path) -> list[Path]:
    with tarfile.open(folder / "train-0.tar", "w") as tar:
        for number in range(12):
            picture = io.BytesIO()
            Image.fromarray(_pixels(number)).save(picture, "PNG")
            for name, data in (("png", picture.getvalue()), ("cls", b"01"[number % 2 :][:1])):
                member = tarfile.TarInfo(f"{number:03d}.{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return [folder / "train-0.tar"]


def _untarred(file: Path, _: Path) -> Any:
    found = inspect(open_source(file), progress=False)
    return found.classes, found.digests.tobytes(), found.labels.tolist()


def _array(folder: Path) -> list[Path]:
    path = folder / "kept.npy"
    store.write_array(path, (8, 40), [np.arange(320, dtype=np.uint8).reshape(8, 40)])
    return [path]


def _opened(file: Path, folder: Path) -> Any:
    # A process compares a file's sums once.
    fresh = file.rename(folder / "kept.npy")
    found = kept(fresh, (8, 40))
    if found is None:
        raise RunError("it is made again")
    return found.tobytes()


def _found(folder: Path) -> list[Path]:
    told = {"model": to_json(models.config_json(_config())), "search": {"space": "vitas"}}
    return _written(folder / "found.json", json.dumps(told))


def _result(folder: Path) -> list[Path]:
    told = {"test": {"name": "accuracy", "accuracy": 0.9}, "latency": {"p50_s": 0.1}}
    return _written(folder / "result.json", json.dumps(told))


def _figures(_: Path, folder: Path) -> Any:
    run = Run(folder)
    return run.accuracy, run.score, run.latency_s


def _points(folder: Path) -> list[Path]:
    point = {"sizes": {"dim": 32, "depth": 2}, "compute": 1e9, "error": 0.5, "images": 100}
    return _written(folder / "points.jsonl", "\n".join([json.dumps(point)] * 5))


def _scaled(file: Path, _: Path) -> Any:
    known = SimpleNamespace(file=file)
    return list(Sweep._known(known))  # pyright: ignore[reportArgumentType]


def _class_of(make: Callable[[Path], list[Path]]) -> Callable[[Path], list[Path]]:
    """The names of classes beside tar files."""

    def made(folder: Path) -> list[Path]:
        make(folder)
        return _written(folder / "classes.txt", "cat\ndog\n")

    return made


def _named(_: Path, folder: Path) -> Any:
    return open_source(folder).classes


JSON, WORDS, HEAD = (mutate.in_json,), (mutate.in_words,), (mutate.in_head,)
KINDS: Sequence[Kind] = (
    Kind("legacy", _legacy, _loaded, HEAD),
    Kind("pickle", _pickled, _loaded, HEAD),
    Kind("msgpack", _packed, _loaded, HEAD),
    Kind("index", _sharded, _loaded, JSON),
    Kind("normalisation", _record, _normal, JSON),
    Kind("tar", _tar, _untarred, HEAD),
    Kind("tar-classes", _class_of(_tar), _named, WORDS),
    Kind("cache", _array, _opened, HEAD, strict=True),
    Kind("found", _found, lambda file, _: config_in(file), JSON),
    Kind("result", _result, _figures, JSON),
    Kind("points", _points, _scaled, (mutate.in_lines,)),
)
