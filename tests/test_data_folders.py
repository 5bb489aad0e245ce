"""Folders as people leave them: parts without labels, thumbnails, runs, loops, spellings."""

import errno
import os
import unicodedata
from pathlib import Path

import pytest
from support.pictures import photo, write_classes

from vitrail.data.gate import inspect
from vitrail.data.names import few, one_spelling
from vitrail.data.opening import open_source
from vitrail.data.source import part_of
from vitrail.data.split import divide
from vitrail.data.told import told
from vitrail.errors import DataError


def kinds(source) -> dict[str, tuple[str, ...]]:
    return {finding.kind: finding.keys for finding in source.findings}


def counts(source) -> dict[str, int]:
    return {
        name: sum(i.label == at for i in source.items) for at, name in enumerate(source.classes)
    }


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("Train", "train"), ("training_set", "train"), ("train2017", "train"), ("TRAIN", "train"),
        ("val", "val"), ("Validation images", "val"), ("dev", "val"), ("test1", "test"),
        ("Test set", "test"), ("hold-out", "test"), ("eval", "test"), ("bus", None),
        ("trainer", None), ("testimony", None), ("valve", None), ("set", None), ("7", None),
    ],
)  # fmt: skip
def test_names_of_parts(name, part):
    assert part_of(name) == part


@pytest.mark.parametrize("test", [{"test": 5}, {"test/unknown": 5}, {"test/images": 3, "val": 2}])
def test_parts_without_labels_stay_out_and_are_told(tmp_path, test):
    write_classes(tmp_path, {"train/leaf": 3, "train/root": 3, **test})
    source = open_source(tmp_path)
    assert counts(source) == {"leaf": 3, "root": 3}
    assert {item.part for item in source.items} == {"train"}
    (finding,) = [f for f in source.findings if f.kind == "unlabelled"]
    assert finding.severity == "warning"
    assert set(finding.keys) == {f"{name.split('/')[0]}/" for name in test}


def test_parts_without_any_classes_are_refused(tmp_path):
    write_classes(tmp_path, {"train": 3, "test": 3})
    with pytest.raises(DataError, match="has test/ and train/ without class folders in them: give"):
        open_source(tmp_path)


def test_what_systems_leave_is_passed_over_at_every_depth(tmp_path):
    write_classes(tmp_path, {"crack": 3, "dent": 3})
    for name in ("@eaDir", "__MACOSX", ".thumbnails", "#recycle", "$RECYCLE.BIN", "lost+found"):
        for folder in (tmp_path, tmp_path / "crack", tmp_path / "dent"):
            write_classes(folder, {f"{name}/x": 1})
    (tmp_path / "dent" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "dent" / "._000.png").write_bytes(b"x")
    source = open_source(tmp_path)
    assert counts(source) == {"crack": 3, "dent": 3}
    (hidden,) = [f for f in source.findings if f.kind == "hidden"]
    assert hidden.message.startswith("20 hidden or system entries passed over")


@pytest.mark.parametrize(
    "files", [["fit.json", ".lock"], ["recipe.json", "labels.json"], ["fit.json"]]
)
def test_runs_in_the_data_are_passed_over_and_told(tmp_path, files):
    write_classes(tmp_path, {"x": 3, "y": 3, "y/deep": 1})
    for run in (tmp_path / "photos-run", tmp_path / "y" / "deep" / "run"):
        run.mkdir(parents=True)
        if len(files) > 1:
            write_classes(run, {"pictures": 2})
        for name in files:
            (run / name).write_text("{}")
    source = open_source(tmp_path)
    assert counts(source) == {"x": 3, "y": 4}
    assert kinds(source)["run folder"] == ("photos-run", "y/deep/run")


def test_a_class_with_a_recipe_is_no_run(tmp_path):
    write_classes(tmp_path, {"cake": 3, "bread": 3})
    (tmp_path / "cake" / "recipe.json").write_text('{"flour": 500}')
    source = open_source(tmp_path)
    assert counts(source) == {"bread": 3, "cake": 4}
    assert "run folder" not in kinds(source)


def test_a_link_to_itself_is_told_like_a_broken_file(tmp_path):
    write_classes(tmp_path, {"a": 3, "b": 3})
    for place in (tmp_path, tmp_path / "a", tmp_path / "b"):
        (place / "loop").symlink_to("loop")
    source = open_source(tmp_path)
    assert counts(source) == {"a": 3, "b": 3}
    (finding,) = [f for f in source.findings if f.kind == "unreadable entry"]
    assert finding.keys == ("loop", "a/loop", "b/loop")
    assert finding.severity == "error"
    assert "3 entries that cannot be read left out (first 'loop': Too many" in finding.message


@pytest.mark.parametrize("code", [errno.EACCES, errno.ESTALE, errno.ENAMETOOLONG, errno.EIO])
def test_a_folder_that_cannot_be_listed_is_told(tmp_path, monkeypatch, code):
    write_classes(tmp_path, {"a": 3, "b": 3, "c": 3, "a/deep": 2})
    scan = os.scandir

    def refuse(path):
        if Path(path).name in ("deep", "c"):
            raise OSError(code, os.strerror(code), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    source = open_source(tmp_path)
    assert counts(source) == {"a": 3, "b": 3}
    assert kinds(source)["unreadable entry"] == ("a/deep", "c")


def test_one_level_too_high(tmp_path):
    write_classes(tmp_path / "one" / "archive" / "archive", {"leaf": 3, "root": 3})
    (tmp_path / "one" / "README.txt").write_text("x")
    source = open_source(tmp_path / "one")
    assert counts(source) == {"leaf": 3, "root": 3}
    assert source.items[0].key == "archive/archive/leaf/000.png"
    assert source.read(source.items[0])
    assert "one level down" in kinds(source)
    write_classes(tmp_path / "two" / "data", {"train/a": 3, "train/b": 3, "test/a": 1, "test/b": 1})
    source = open_source(tmp_path / "two")
    assert {item.part for item in source.items} == {"train", "test"}
    write_classes(tmp_path / "three", {"a": 2, "a/deep": 2})
    with pytest.raises(DataError, match="has only the class 'a'"):
        open_source(tmp_path / "three")


def test_a_table_beside_flat_images_is_read(tmp_path):
    write_classes(tmp_path, {"images": 6})
    rows = "".join(f"{i:03d},{'ab'[i % 2]}\n" for i in range(6))
    (tmp_path / "labels.csv").write_text("id,breed\n" + rows)
    source = open_source(tmp_path)
    assert counts(source) == {"a": 3, "b": 3}
    assert [item.key for item in source.items][:2] == ["images/000.png", "images/001.png"]
    assert "table" in kinds(source)
    (tmp_path / "sample.csv").write_text("id,breed\n")
    with pytest.raises(
        DataError, match=r"only the class 'images'.*or one of its tables \('.*labels"
    ):
        open_source(tmp_path)


def test_spellings_of_one_class_are_one_class(tmp_path):
    composed, taken_apart = (unicodedata.normalize(form, "Öl") for form in ("NFC", "NFD"))
    write_classes(tmp_path, {"train/Cat": 4, f"train/{composed}": 3, "test/cat": 2})
    write_classes(tmp_path, {f"test/{taken_apart}": 2})
    source = open_source(tmp_path)
    assert counts(source) == {"Cat": 6, composed: 5}
    assert kinds(source)["case"] == ("Cat = cat",)
    assert all(source.read(item) for item in source.items)


def test_letters_of_an_alphabet_remain_apart():
    rows = [("train", "a"), ("train", "A"), ("train", "dog"), ("test", "Dog")]
    meant, findings = one_spelling(rows)
    assert meant == {"a": "a", "A": "A", "dog": "dog", "Dog": "dog"}
    assert [(f.severity, f.keys) for f in findings] == [
        ("warning", ("dog = Dog",)), ("info", ("A = a",)),
    ]  # fmt: skip
    assert one_spelling([("train", "a"), ("test", "A")])[0] == {"a": "a", "A": "a"}


def test_all_classes_with_too_few_images_are_told_at_once(tmp_path):
    write_classes(tmp_path, {"common": 5, **{f"rare {i}": 1 for i in range(12)}, "pair": 2})
    with pytest.raises(DataError) as caught:
        inspect(open_source(tmp_path), progress=False)
    text = str(caught.value)
    assert text.startswith("13 of 14 classes of ")
    assert "('pair' 2, 'rare 0' 1, 'rare 1' 1" in text
    assert " and 3 more): give each at least three" in text


def test_a_long_name_does_not_make_a_long_sentence(tmp_path):
    name = "x" * 250
    write_classes(tmp_path, {name: 1, "b": 3})
    with pytest.raises(DataError) as caught:
        inspect(open_source(tmp_path), progress=False)
    assert len(str(caught.value)) - len(str(tmp_path)) < 330
    assert few([name, "b"], 1) == f"{('x' * 28 + '...' + 'x' * 28)!r} and 1 more"


def test_what_is_told_on_a_terminal(tmp_path):
    write_classes(tmp_path, {"a": 5, "b\x1b]0;pwn\x07": 5}, lambda seed: photo(seed, 90, 120))
    (tmp_path / "a" / "bad.png").write_bytes(b"no")
    photo(0, 90, 120).save(tmp_path / "a" / "again.jpg", quality=80)
    (tmp_path / ".hidden").write_text("x")
    inspection = inspect(open_source(tmp_path), progress=False)
    lines = told(inspection, divide(inspection).findings)
    assert lines[0] == r"11 images of 2 classes: a 6, b\x1b]0;pwn\x07 5"
    assert lines[1] == "error: 1 file is not readable as an image, left out (first 'a/bad.png')"
    assert lines[2] == "warning: 2 of 2 classes have fewer than 20 images"
    assert lines[-1] == "2 further findings in the report"
    assert len(lines) == 4
    assert told(inspection, most=1)[1:] == [lines[1], "3 further findings in the report"]


def test_classes_of_one_size_are_told_as_that(tmp_path):
    names = [f"class {n}" for n in range(9)]
    write_classes(tmp_path, dict.fromkeys(names, 3))
    assert (
        told(inspect(open_source(tmp_path), progress=False))[0]
        == "27 images of 9 classes, 3 of each"
    )
    for extra in range(3, 5):
        photo(extra + 90, 40, 40).save(tmp_path / names[2] / f"{extra}.png")
    first = told(inspect(open_source(tmp_path), progress=False))[0]
    assert first == "29 images of 9 classes: 3 (class 0) to 5 (class 2) each"
