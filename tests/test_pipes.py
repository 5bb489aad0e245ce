"""Pipes, sockets and devices where a file is expected: told in a sentence, never waited for."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from support import boxed_scenes, composites
from support.pictures import write_classes
from test_cli import refused, run

import vitrail
from vitrail import checkpoint, digests, files
from vitrail.data import class_names, part_lists, uea
from vitrail.data.cells import read_cells
from vitrail.data.coco import loaded
from vitrail.data.decode import read_file
from vitrail.data.film_sounds import read_track
from vitrail.data.formats import looks_like_image
from vitrail.data.gate import inspect
from vitrail.data.lidar.reading import BrokenScan, read_labels, read_scan
from vitrail.data.masks import Fault, MaskFiles, look
from vitrail.data.opening import open_boxes, open_masks, open_source
from vitrail.data.series import is_series
from vitrail.data.shards import read_shards
from vitrail.data.videos import file_digest, frames_of
from vitrail.data.voc import voc_files
from vitrail.data.words import opened
from vitrail.errors import CheckpointError, ConfigError, DataError, RunError
from vitrail.models.trunk.catalog import config_in
from vitrail.recipes.recipe import read as read_recipe
from vitrail.run import normalisation
from vitrail.training import snapshot

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes by name"),
    pytest.mark.timeout(60),
]

STRANGE = ("pipe", "socket", "device", "folder")


def put(path: Path, kind: str) -> Path:
    """Put something that is not a file at a path, in place of what is there."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            here = Path.cwd()
            os.chdir(path.parent)  # a socket's path has 108 bytes at most
            made.bind(path.name)
            os.chdir(here)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    return path


# ---- single files ------------------------------------------------------------------------

READERS = {
    "a.bytes": (files.read, OSError),
    "a.digest": (digests.of_file, OSError),
    "a.jpg": (read_file, Exception),
    "a.csv": (read_cells, OSError),
    "a.parquet": (read_cells, OSError),
    "a.ts": (uea.read_parts, DataError),
    "tokenizer.json": (lambda path: opened(path, 8), DataError),
    "classes.json": (lambda path: loaded(path), DataError),
    "a.bin": (read_scan, (BrokenScan, OSError)),
    "a.label": (read_labels, (BrokenScan, OSError)),
    "a.wav": (read_track, Exception),
    "a.mp4": (lambda path: frames_of(path, (8, 8)), Exception),
    "b.mp4": (file_digest, OSError),
    "a.safetensors": (checkpoint.read, CheckpointError),
    "a.pth": (checkpoint.read, CheckpointError),
    "a.npz": (checkpoint.read, CheckpointError),
    "a.msgpack": (checkpoint.read, CheckpointError),
    "step-1.safetensors": (snapshot.read, CheckpointError),
    "found.json": (config_in, ConfigError),
    "recipe.json": (read_recipe, RunError),
}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("name", READERS)
def test_what_is_not_a_file_is_refused_at_once(name, kind, tmp_path):
    read, error = READERS[name]
    if name == "a.parquet":
        pytest.importorskip("pyarrow")
    if name.endswith((".mp4", ".wav")):
        pytest.importorskip("av")
    with pytest.raises(error):
        read(put(tmp_path / name, kind))


@pytest.mark.parametrize("kind", STRANGE)
def test_what_only_looks_at_files_passes_over_them(kind, tmp_path):
    assert not looks_like_image(put(tmp_path / "a.jpg", kind))
    assert not is_series(put(tmp_path / "a.ts", kind))
    put(tmp_path / "classes.txt", kind)
    assert class_names.named(tmp_path) is None


# ---- inside of data ----------------------------------------------------------------------


@pytest.fixture
def pipe(tmp_path):
    """A pipe outside of the data, to which links in it may lead: those are not hidden from lists
    of files, as pipes themselves are."""
    return put(tmp_path / "pipe", "pipe")


def linked(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def test_a_mask_and_a_picture_of_a_segmentation(pipe, tmp_path):
    root = composites.write(tmp_path / "shapes", 8)
    first = sorted((root / "masks").iterdir())[0]
    linked(first, pipe)
    seen = look(MaskFiles(root / "masks", (first.name,)), workers=1).seen[0]
    assert seen == Fault("mask unreadable", "cannot be read (it is not a regular file)")
    second = sorted((root / "images").iterdir())[1]
    linked(second, pipe)
    found = inspect(open_masks(root), progress=False)
    told = {key for one in found.findings if one.severity != "info" for key in one.keys}
    assert {first.name, second.name} <= {Path(key).name for key in told}


def test_annotations_of_boxes(pipe, tmp_path):
    root = boxed_scenes.write(tmp_path / "shapes", 12)
    first = sorted((root / "Annotations").iterdir())[1]
    linked(first, pipe)
    found = inspect(open_boxes(root), progress=False)
    assert any(first.stem in key for one in found.findings for key in one.keys)
    for one in (root / "Annotations").iterdir():
        linked(one, pipe)
    assert not voc_files(root)


def test_a_list_of_a_part(pipe, tmp_path):
    linked(tmp_path / "train.txt", pipe)
    with pytest.raises(OSError, match="not a regular file"):
        part_lists.part_lists(tmp_path, ["train.txt"], ["a.png"])


def test_a_shard_and_the_names_beside_it(pipe, tmp_path):
    import tarfile

    write_classes(tmp_path / "photos", {"0": 3, "1": 3})
    root = tmp_path / "shards"
    root.mkdir()
    with tarfile.open(root / "train-0.tar", "w") as tar:
        for name in ("0", "1"):
            tar.add(tmp_path / "photos" / name, name)
    linked(root / "classes.txt", pipe)
    source = read_shards(root)
    assert source.classes == ("0", "1")
    linked(root / "train-1.tar", pipe)
    told = {one.kind: one.keys for one in open_source(root).findings}
    assert told["broken shard"] == ("train-1.tar",)
    linked(root / "train-0.tar", pipe)
    with pytest.raises(DataError, match=r"'train-0\.tar', 'train-1\.tar' cut off, damaged or "):
        open_source(root)
    with pytest.raises(OSError, match="not a regular file"):
        source.read(source.items[0])


def test_a_picture_that_a_table_names(pipe, tmp_path):
    write_classes(tmp_path, {"a": 6, "b": 6})
    linked(tmp_path / "a" / "001.png", pipe)
    rows = [f"{p.relative_to(tmp_path)},{p.parent.name}" for p in sorted(tmp_path.glob("*/*.png"))]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows]))
    found = inspect(open_source(tmp_path / "labels.csv"), progress=False)
    assert {one.key: one.kind for one in found.broken} == {"a/001.png": "unreadable"}


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_record_beside_weights(name, pipe, tmp_path):
    from vitrail.models import identify

    model = vitrail.create("resnet_18", classes=3)
    checkpoint.save(tmp_path / "model.safetensors", model.state_dict(), metadata={})
    linked(tmp_path / name, pipe)
    with pytest.raises(CheckpointError, match=f"{name} cannot be read .*not a regular file"):
        normalisation.normalisation(tmp_path, identify(tmp_path / "model.safetensors"))


def test_an_index_and_a_shard_of_weights(pipe, tmp_path):
    checkpoint.save(tmp_path / "a.safetensors", {"w": torch.ones(2)}, metadata={})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "a.safetensors"}}))
    assert list(checkpoint.read(index)) == ["w"]
    linked(tmp_path / "a.safetensors", pipe)
    with pytest.raises(CheckpointError, match=r"names the file a\.safetensors"):
        checkpoint.read(index)
    linked(index, pipe)
    with pytest.raises(CheckpointError, match="not a regular file"):
        checkpoint.read(index)


# ---- commands ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["check", "pipe"],
        ["check", "pipe", "--task", "detection"],
        ["check", "pipe", "--task", "series"],
        ["load", "pipe"],
        ["detect", "pipe", "--for", "a", "--weights", "pipe"],
        ["train", "--set", "model=pipe", "--set", "data=fashion-sample"],
        ["fit", "pipe"],
        ["adapt", "pipe", "fashion-sample"],
        ["pretrain", "pipe"],
        ["predict", "pipe", "pipe"],
        ["compare", "pipe", "resnet_18"],
        ["weights", "mobilenet_v2_100", "--shelf", "pipe"],
    ],
    ids=" ".join,
)
def test_commands_say_so(words, pipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "pipe" in refused(capsys, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


# ---- hidden files ------------------------------------------------------------------------


def test_hidden_scans_are_left_out(tmp_path):
    """Finder and copies from it leave ._x.bin beside x.bin."""
    from vitrail.jobs.scans import ScanPredictor

    np.zeros(8, np.float32).tofile(tmp_path / "x.bin")
    for name in ("._x.bin", ".DS_Store", ".hidden.ply"):
        (tmp_path / name).write_bytes(b"Mac OS X")
    put(tmp_path / "y.bin", "socket")
    linked(tmp_path / "z.bin", tmp_path / "nowhere")
    found = ScanPredictor.collect(object.__new__(ScanPredictor), [str(tmp_path)])
    assert found == [str(tmp_path / "x.bin")]


def test_sockets_and_broken_links_in_a_folder_of_pictures(tmp_path):
    root = write_classes(tmp_path / "photos", {"a": 8, "b": 8})
    put(root / "a" / "socket.png", "socket")
    linked(root / "b" / "gone.png", tmp_path / "nowhere")
    shutil.copy(root / "a" / "000.png", root / "a" / "._000.png")
    found = inspect(open_source(root), progress=False)
    assert {one.key: one.kind for one in found.broken} == {"b/gone.png": "unreadable"}
    assert len(found.source) == 17  # the socket and the hidden picture are none of it


# ---- closed folders ----------------------------------------------------------------------


@pytest.fixture
def closed(tmp_path, monkeypatch):
    """Pictures in two classes, and a folder that is closed, for an administrator as well."""
    root = write_classes(tmp_path / "photos", {"a": 8, "b": 8})
    (root / "c").mkdir()

    inside = (root / "c" / "fit.json", root / "c" / "recipe.json", root / "c" / "asked.json",
              root / "c" / ".vitrail-answers")  # fmt: skip
    real, listed = os.stat, os.scandir

    def stat(path, *more, **options):
        if isinstance(path, str | os.PathLike) and Path(path) in inside:
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path, *more, **options)

    def scandir(path="."):
        if Path(path) == root / "c":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return listed(path)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "scandir", scandir)
    return root


def test_a_closed_folder_is_told_and_the_others_are_read(closed, capsys):
    assert run("check", str(closed)) == 0
    said = capsys.readouterr().out
    assert "16 images" in said and "no read permission" in said


def test_what_the_system_says_of_a_path_is_a_sentence(monkeypatch, capsys):
    def broken(*_, **__):
        raise PermissionError(13, "Permission denied", "/closed/\x1b]0;x")

    monkeypatch.setattr("vitrail.jobs.check.task_of_data", broken)
    said = refused(capsys, "check", "photos")
    assert "/closed/" in said and "cannot be used (Permission denied)" in said
    assert "\x1b" not in said
