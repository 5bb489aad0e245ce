"""Sources: folders, tables, built-in names, and one clear sentence for each that cannot be used."""

import hashlib
import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from support.pictures import photo, write_classes

from vitrail.data import builtin
from vitrail.data.opening import open_source
from vitrail.errors import DataError

ROOT = Path(__file__).parent.parent


def test_folder_of_classes(tmp_path):
    write_classes(tmp_path, {"dog": 2, "cat": 3})
    (tmp_path / "cat" / "deep").mkdir()
    photo(9).save(tmp_path / "cat" / "deep" / "x.png")
    (tmp_path / "cat" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("mine")
    source = open_source(tmp_path)
    assert source.classes == ("cat", "dog")
    assert [item.key for item in source.items] == [
        "cat/000.png", "cat/001.png", "cat/002.png", "cat/deep/x.png", "dog/000.png", "dog/001.png",
    ]  # fmt: skip
    assert {item.part for item in source.items} == {None}
    assert source.read(source.items[0]) == (tmp_path / "cat/000.png").read_bytes()
    kinds = {finding.kind: finding.keys for finding in source.findings}
    assert kinds == {"outside": ("notes.txt",), "hidden": ()}


def test_numbered_classes_are_in_numerical_order(tmp_path):
    assert open_source(write_classes(tmp_path, {"10": 1, "9": 1})).classes == ("9", "10")


def test_given_parts_are_kept(tmp_path):
    write_classes(
        tmp_path, {"train/a": 2, "train/b": 2, "Validation/a": 1, "test/b": 1, "extra/a": 1}
    )
    source = open_source(tmp_path)
    assert source.classes == ("a", "b")
    parts = {item.key: item.part for item in source.items}
    assert parts["train/a/000.png"] == "train"
    assert parts["Validation/a/000.png"] == "val"
    assert parts["test/b/000.png"] == "test"
    assert [f.keys for f in source.findings if f.kind == "outside"] == [("extra/",)]


def test_a_class_may_be_called_train(tmp_path):
    assert open_source(write_classes(tmp_path, {"train": 1, "bus": 1})).classes == ("bus", "train")


def test_circular_links_end(tmp_path):
    write_classes(tmp_path, {"a": 1, "b": 1})
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    assert len(open_source(tmp_path)) == 2


def test_csv_and_parquet_agree(tmp_path):
    import pyarrow
    from pyarrow import parquet

    write_classes(tmp_path, {"files": 4})
    rows = [(f"files/{i:03d}.png", "xy"[i % 2], "test" if i == 3 else "") for i in range(4)]
    text = "Path;label;split\n" + "".join(";".join(row) + "\n" for row in rows)
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    columns = dict(zip(("path", "label", "split"), map(list, zip(*rows, strict=True)), strict=True))
    parquet.write_table(pyarrow.table(columns), tmp_path / "labels.parquet")
    csv, table = open_source(tmp_path / "labels.csv"), open_source(tmp_path / "labels.parquet")
    assert csv.items == table.items
    assert csv.classes == table.classes == ("x", "y")
    assert [item.part for item in csv.items] == [None, None, None, "test"]
    assert csv.read(csv.items[0]) == (tmp_path / "files/000.png").read_bytes()


def test_rows_that_repeat_or_contradict(tmp_path):
    write_classes(tmp_path, {"f": 4})
    rows = [
        "f/000.png,x",
        "f/000.png,x",
        "f/001.png,x",
        "f/001.png,y",
        "f/002.png,y",
        "f/003.png,x",
    ]
    (tmp_path / "t.csv").write_text("path,label\n" + "\n".join(rows))
    source = open_source(tmp_path / "t.csv")
    assert [item.key for item in source.items] == ["f/000.png", "f/002.png", "f/003.png"]
    kinds = {finding.kind: finding.keys for finding in source.findings}
    assert kinds == {"contradiction": ("f/001.png",), "repeated row": ("f/000.png",)}


def _empty(path):
    path.mkdir()
    return path


def _loose(path):
    path.mkdir()
    photo(0).save(path / "a.png")
    return path


def _text(name, content):
    def make(path):
        write_classes(path, {"f": 2})
        (path / name).write_bytes(content)
        return path / name

    return make


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path, "does not exist: give a folder with one subfolder per class"),
        (_empty, "is empty: give one subfolder of images per class"),
        (_loose, "holds 1 file but no subfolders: give one subfolder"),
        (lambda path: write_classes(path, {"a": 0, "b": 0}), "has no files in its subfolders"),
        (lambda path: write_classes(path, {"a": 3}), "has only the class 'a': .* two classes"),
        (_text("x.txt", b"hello"), "is a file of another kind: give a folder"),
        (_text("x.csv", b""), "has the columns none: expected path and label"),
        (_text("x.csv", b"path,label\n"), "has no rows: expected one row"),
        (_text("x.csv", b"file,x,z\na,b,1\n"), "has the columns file, x, z: expected path"),
        (_text("x.csv", b"path,label\n\xff\xfe,b\n"), "is not UTF-8 text: save"),
        (_text("x.csv", b"path,label\nf/000.png,\n"), "row 2: .* label is '', fill both"),
        (_text("x.csv", b"path,label,split\nf/000.png,a,hold\n"), "split is 'hold' in 1 row "),
        (_text("x.csv", b"path,label\nf/000.png,a\nf/9.png,b\n"), "1 of 2 .* 'f/9.png' .row 3"),
        (_text("x.csv", b"path,label\nf/000.png,a\nf/001.png,a\n"), "has only the class 'a'"),
        (_text("x.parquet", b"PAR1 nothing"), "is not a readable Parquet file"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said_in_one_sentence(tmp_path, make, words):
    path = make(tmp_path / "data")
    with pytest.raises(DataError, match=words) as caught:
        open_source(path)
    assert "\n" not in str(caught.value)


def test_no_permission(tmp_path, monkeypatch):
    write_classes(tmp_path, {"a": 1, "b": 1})
    scan = os.scandir

    def refuse(path):
        # Root may read everything, so the refusal of the system is imitated.
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"/b cannot be read: no read permission, allow it"):
        open_source(tmp_path)


def test_the_sample_is_the_one_that_was_drawn():
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in builtin.SAMPLES.glob("*.png")
    }
    assert digests == {
        "fashion_test.png": "134736a868d416687bf027fd3d1adc3ef13ef9011c89446cd6d86ad0f4e36560",
        "fashion_train.png": "e2998accae8a84f4e130d9c822de945031f834f8fafdbed46a2c074c80d0ca83",
    }
    assert "Permission is hereby granted" in (builtin.SAMPLES / "NOTICE").read_text()
    source = open_source("fashion-sample")
    assert source.pixels.shape == (7000, 28, 28)
    for part, each in (("train", 600), ("test", 100)):
        labels = [item.label for item in source.items if item.part == part]
        assert np.bincount(labels).tolist() == [each] * 10


def _script():
    spec = importlib.util.spec_from_file_location("draw", ROOT / "scripts/draw_fashion_sample.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_drawing_the_sample_is_stratified_and_repeatable(tmp_path):
    images = np.random.RandomState(0).randint(0, 256, (400, 28, 28), np.uint8)
    labels = np.random.RandomState(1).randint(0, 10, 400)
    script = _script()
    for name in "ab":
        script.draw(images, labels, 10, 50).save(tmp_path / f"{name}.png", optimize=True)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    tiles, drawn = builtin.unpack_sheet(tmp_path / "a.png", 10)
    assert np.bincount(drawn).tolist() == [10] * 10
    known = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    assert len({tile.tobytes() for tile in tiles}) == 100
    assert [known[tile.tobytes()] for tile in tiles] == drawn.tolist()


def test_the_script_draws_the_bundled_pixels_where_the_full_set_is_installed():
    script = _script()
    for part, per_class in script.PER_CLASS.items():
        bundled, _ = builtin.unpack_sheet(builtin.SAMPLES / f"fashion_{part}.png", per_class)
        assert len(bundled) == 10 * per_class
        if builtin.DEBIAN.is_dir():
            pair = builtin.fashion_pair(builtin.DEBIAN, part)
            sheet = np.asarray(script.draw(*pair, per_class, script.COLUMNS[part]))
            tiles = sheet.reshape(-1, 28, sheet.shape[1] // 28, 28).swapaxes(1, 2)
            assert np.array_equal(tiles.reshape(-1, 28, 28), bundled)


def test_fashion_mnist_is_downloaded_only_when_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(builtin, "DEBIAN", tmp_path / "none")
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path))
    monkeypatch.delenv("VITRAIL_DOWNLOAD", raising=False)
    asked = []
    monkeypatch.setattr(builtin, "_download", lambda root: asked.append(root))
    with pytest.raises(DataError, match="apt install dataset-fashion-mnist, or set VITRAIL_DOWN"):
        open_source("fashion-mnist")
    assert not asked
    with pytest.raises(DataError, match="is not readable"):
        open_source("fashion-mnist", download=True)
    monkeypatch.setenv("VITRAIL_DOWNLOAD", "1")
    with pytest.raises(DataError, match="is not readable"):
        open_source("fashion-mnist")
    assert asked == [tmp_path / "downloads"] * 2


def test_fashion_mnist_reads_idx_files(tmp_path, monkeypatch):
    import gzip

    images = np.random.RandomState(0).randint(0, 256, (20, 28, 28), np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    for stem in ("train", "t10k"):
        with gzip.open(tmp_path / f"{stem}-images-idx3-ubyte.gz", "wb") as file:
            file.write(bytes(16) + images.tobytes())
        with gzip.open(tmp_path / f"{stem}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(bytes(8) + labels.tobytes())
    monkeypatch.setattr(builtin, "DEBIAN", tmp_path)
    source = open_source("fashion-mnist")
    assert np.array_equal(source.pixels[:20], images)
    assert [item.part for item in source.items] == ["train"] * 20 + ["test"] * 20
    assert [item.label for item in source.items[:20]] == labels.tolist()


def test_digits():
    source = open_source("digits")
    assert source.pixels.shape == (1797, 8, 8)
    assert (source.pixels.min(), source.pixels.max()) == (0, 255)
