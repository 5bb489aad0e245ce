"""The parts that data give themselves, in every form and spelling: what was held back stays so."""

from __future__ import annotations

import csv
import json
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import boxed_scenes, composites

from vitrail.data.box_table import read_box_table
from vitrail.data.captioned import open_captions
from vitrail.data.clip_table import Sounding, open_clip_table
from vitrail.data.gate import inspect
from vitrail.data.masked import read_masked
from vitrail.data.opening import open_boxes, open_masks, open_source
from vitrail.data.series import open_series
from vitrail.data.source import Sampling
from vitrail.data.split import divide, unseal
from vitrail.errors import DataError
from vitrail.jobs.series import cases

N = 12


def _pictures(folder: Path, n: int = N) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    random, names = np.random.default_rng(0), [f"{number}.png" for number in range(n)]
    for name in names:
        pixels = random.integers(0, 256, (24, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return names


def _table(path: Path, head: list[str], rows: list[list[object]]) -> Path:
    with path.open("w") as file:
        csv.writer(file).writerows([head, *rows])
    return path


# ---- tables of all kinds: the fourth column says the part --------------------------------------


def _boxes(folder: Path, head: str, parts: list[object]):
    names = _pictures(folder)
    rows = [[name, 2, 2, 9, 9, "ab"[i % 2], parts[i]] for i, name in enumerate(names)]
    columns = ["image", "xmin", "ymin", "xmax", "ymax", "class", head]
    return read_box_table(_table(folder / "t.csv", columns, rows))


def _captions(folder: Path, head: str, parts: list[object]):
    names = _pictures(folder)
    rows = [[name, f"a picture of {i}", parts[i]] for i, name in enumerate(names)]
    return open_captions(_table(folder / "t.csv", ["image", "caption", head], rows))


def _clips(folder: Path, head: str, parts: list[object]):
    names = [f"{number}.mp4" for number in range(N)]
    for name in names:
        (folder / name).write_bytes(name.encode())
    rows = [[name, f"a clip of {i}", parts[i]] for i, name in enumerate(names)]
    table = _table(folder / "t.csv", ["clip", "sentence", head], rows)
    return open_clip_table(table, Sampling(4, 4), Sounding(512))


def _series(folder: Path, head: str, parts: list[object]):
    rows = [[i, t, t * (1 + i), "ab"[i % 2], parts[i]] for i in range(N) for t in range(3)]
    return open_series(_table(folder / "t.csv", ["case", "time", "x", "class", head], rows))


TABLES = {"boxes": _boxes, "captions": _captions, "clips": _clips, "series": _series}
HELD = {"split": "test", "Set": "Test set", "subset": "testing", "fold": "TEST", "Usage": "test",
        "is_test": "1", "istrain": "no"}  # fmt: skip


@pytest.mark.parametrize("head", HELD)
@pytest.mark.parametrize("kind", TABLES)
def test_parts_of_a_table_are_kept(kind, head, tmp_path):
    other = {"is_test": "0", "istrain": "yes"}.get(head, "train")
    source = TABLES[kind](tmp_path, head, [HELD[head] if i < 4 else other for i in range(N)])
    held = [item.key.removesuffix(".png").removesuffix(".mp4") for item in source.items
            if item.part == "test"]  # fmt: skip
    assert sorted(held) == ["0", "1", "2", "3"]
    assert not any(found.kind == "unused column" for found in source.findings)


@pytest.mark.parametrize("kind", TABLES)
def test_folds_are_named_and_never_learned_from(kind, tmp_path):
    source = TABLES[kind](tmp_path, "fold", [i % 5 for i in range(N)])
    told = [one for one in source.findings if one.kind == "unused column"]
    assert [(one.severity, one.keys) for one in told] == [("warning", ("fold",))]
    assert "write train, val or test there" in told[0].message
    assert {item.part for item in source.items} == {None}
    if kind == "series":
        assert source.series.features == ("x",) and source.series.values.shape[2] == 1


@pytest.mark.parametrize("kind", TABLES)
def test_half_a_column_of_parts_is_refused(kind, tmp_path):
    parts: list[object] = ["test" if i < 4 else "train" for i in range(N)]
    with pytest.raises(DataError, match=r"split is 'tets' in \d rows? \(first row \d+\)"):
        TABLES[kind](tmp_path, "split", [*parts[:-1], "tets"])


@pytest.mark.parametrize("order", [("train", "test"), ("test", "train")])
def test_an_image_with_sentences_in_two_parts_is_held_back(order, tmp_path):
    names = _pictures(tmp_path)
    rows = [[name, f"a picture of {i}", "train"] for i, name in enumerate(names)]
    rows += [[names[0], "another", part] for part in order]
    table = _table(tmp_path / "t.csv", ["image", "caption", "split"], rows)
    source = open_captions(table)
    assert [item.key for item in source.items if item.part == "test"] == [names[0]]
    assert [one.keys for one in source.findings if one.kind == "two parts"] == [(names[0],)]
    clips = [row[0].replace("png", "mp4") for row in rows]
    for name in clips:
        (tmp_path / name).write_bytes(name.encode())
    rows = [[name, *row[1:]] for name, row in zip(clips, rows, strict=True)]
    table = _table(tmp_path / "c.csv", ["clip", "sentence", "split"], rows)
    source = open_clip_table(table, Sampling(4, 4), Sounding(512))
    assert [item.key for item in source.items if item.part == "test"] == [clips[0]]
    assert [one.keys for one in source.findings if one.kind == "two parts"] == [(clips[0],)]


def test_a_fold_of_two_is_no_label(tmp_path):
    names = _pictures(tmp_path)
    rows = [[name, i % 2, i % 3 == 0, i % 2] for i, name in enumerate(names)]
    table = _table(tmp_path / "t.csv", ["path", "cat", "dog", "fold"], rows)
    source = open_source(table, several=True)
    assert source.classes == ("cat", "dog")
    assert [k for one in source.findings if one.kind == "unused column" for k in one.keys] == [
        "fold"
    ]


def test_labels_beside_sentences_may_be_missing_from_a_part(tmp_path):
    names = _pictures(tmp_path, 18)
    part = ("train", "val", "test")
    rows = [
        [name, f"{'abc'[i % 3]} {i}", "abc"[i % 3], part[i % 3]] for i, name in enumerate(names)
    ]
    table = _table(tmp_path / "t.csv", ["image", "caption", "label", "split"], rows)
    parts = divide(inspect(open_captions(table), progress=False))
    assert [len(parts.train), len(parts.val), len(parts.test)] == [6, 6, 6]
    told = [one.message for one in parts.findings if one.kind == "class not in part"]
    assert told[0] == "no training image shows 2 classes: 'b', 'c'"


# ---- series --------------------------------------------------------------------------------


def test_classes_of_series_are_compared_in_a_normal_form(tmp_path):
    decomposed = unicodedata.normalize("NFD", "grün")
    spelled = ["0", "0.0", "Up", "up", "up ", "grün", decomposed]
    rows = [[i, t, t * (1 + i), name] for i, name in enumerate(spelled * 2) for t in range(3)]
    source = open_series(_table(tmp_path / "t.csv", ["case", "time", "x", "class"], rows))
    assert source.classes == ("0", "grün", "up")
    assert [item.label for item in source.items] == [0, 0, 2, 2, 2, 1, 1] * 2
    assert [one.keys for one in source.findings if one.kind == "case"] == [("up = Up",)]


def test_features_are_known_by_their_names(tmp_path):
    rows = [[i, t, t + i, -t, "note", "ab"[i % 2]] for i in range(4) for t in range(3)]
    head = ["case", "time", "x", "y", "said", "class"]
    source = open_series(_table(tmp_path / "t.csv", head, rows))
    found = {one.kind: one for one in source.findings}
    assert found["features"].message == "learned from 2 columns of numbers: 'x', 'y'"
    assert found["unused column"].keys == ("said",)
    turned = [[row[0], row[1], row[3], 7, row[2]] for row in rows]
    other = _table(tmp_path / "o.csv", ["case", "time", "y", "temperature", "x"], turned)
    labels = type("Labels", (), {"channels": 2, "image": (3, 1), "features": ("x", "y")})()
    (_, asked), *_ = cases(other, labels)
    assert np.array_equal(asked, source.series.values[0])
    lacking = _table(tmp_path / "l.csv", ["case", "time", "x"], [row[:3] for row in rows])
    (_, reason), *_ = cases(lacking, labels)
    assert reason == "cannot be read (l has no column 'y': give the columns x, y, in any order)"


def test_a_sparse_column_of_numbers_is_learned_from(tmp_path):
    rows = [[i, t, t + i, t if t == 2 else "", "ab"[i % 2]] for i in range(4) for t in range(3)]
    source = open_series(_table(tmp_path / "t.csv", ["case", "time", "x", "rare", "class"], rows))
    assert source.series.features == ("x", "rare")


@pytest.mark.parametrize(
    ("times", "order"),
    [
        (("10", "9", "8.5"), [2, 1, 0]),
        (("2024-01-10", "2024-01-09", "2023-12-31"), [2, 1, 0]),
        (("2024-01-10T10:00:00+02:00", "2024-01-10T09:00:00+00:00", "2024-01-10"), None),
        (("2024-01-10T10:00:00+02:00", "2024-01-10T09:00:00+00:00"), [0, 1]),
        (("10/1/2024", "9/1/2024", "8/1/2024"), None),
        (("10", "2024-01-10", "9"), None),
    ],
)
def test_steps_are_in_the_order_of_their_times(times, order, tmp_path):
    rows = [[i, time, at, "ab"[i]] for i in range(2) for at, time in enumerate(times)]
    table = _table(tmp_path / "t.csv", ["case", "time", "x", "class"], rows)
    if order is None:
        with pytest.raises(DataError, match=r"row \d+: (the time|some times).* in one way"):
            open_series(table)
    else:
        assert open_series(table).series.values[0, :, 0].tolist() == order


# ---- folders -------------------------------------------------------------------------------


def _renamed(root: Path, folder: str, form: str, name: str = "blüte") -> None:
    for at, file in enumerate(sorted((root / folder).iterdir())):
        file.rename(file.with_name(unicodedata.normalize(form, f"{name} {at}") + file.suffix))


def test_masks_are_found_in_whatever_form_their_names_are(tmp_path):
    composites.write(tmp_path, 8)
    _renamed(tmp_path, "images", "NFD")
    _renamed(tmp_path, "masks", "NFC")
    assert len(read_masked(tmp_path)) == 8


def test_annotations_of_boxes_are_found_in_whatever_form_their_names_are(tmp_path):
    boxed_scenes.write(tmp_path, 24)
    shutil.rmtree(tmp_path / "ImageSets")
    _renamed(tmp_path, "JPEGImages", "NFD")
    _renamed(tmp_path, "Annotations", "NFC")
    source = open_boxes(tmp_path)
    assert len(source) == 24 and sum(len(one.labels) for one in source.boxes.truths) > 24
    assert "image without annotation" not in {one.kind for one in source.findings}


@pytest.mark.parametrize(
    "line", ["{}", "{} -1", "JPEGImages/{}.png", "{}.png", "./JPEGImages/{}.png"]
)
def test_lists_of_parts_name_images_in_many_ways(line, tmp_path):
    boxed_scenes.write(tmp_path, 24)
    _renamed(tmp_path, "JPEGImages", "NFC", "ein bild")
    _renamed(tmp_path, "Annotations", "NFD", "ein bild")
    sets = tmp_path / "ImageSets" / "Main"
    for name, numbers in (("train", range(16)), ("val", range(16, 20)), ("test", range(20, 24))):
        (sets / f"{name}.txt").write_text("\n".join(line.format(f"ein bild {n}") for n in numbers))
    (sets / "val.txt").open("a").write("\nnowhere")
    source = open_boxes(tmp_path)
    parts = [item.part for item in source.items]
    assert [parts.count(part) for part in ("train", "val", "test")] == [16, 4, 4]
    told = [one for one in source.findings if one.kind == "listed for a part"]
    assert [one.keys for one in told] == [("nowhere",)]


def test_lists_of_parts_count_for_masks_too(tmp_path):
    composites.write(tmp_path, 12)
    (tmp_path / "images").rename(tmp_path / "JPEGImages")
    (tmp_path / "masks").rename(tmp_path / "SegmentationClass")
    names = sorted(file.stem for file in (tmp_path / "JPEGImages").iterdir())
    sets = tmp_path / "ImageSets" / "Segmentation"
    sets.mkdir(parents=True)
    for part, some in (("train", names[:8]), ("val", names[8:]), ("trainval", names)):
        (sets / f"{part}.txt").write_text("\n".join(some))
    source = open_masks(tmp_path)
    held = sorted(Path(item.key).stem for item in source.items if item.part == "val")
    assert held == names[8:]


@pytest.mark.parametrize("told", ["lists", "folders"])
def test_yolo_names_its_parts_in_lists_and_in_yaml(told, tmp_path):
    names = _pictures(tmp_path / "images" / "first", 8)
    later = _pictures(tmp_path / "images" / "later", 4)
    for folder, some in (("first", names), ("later", later)):
        (tmp_path / "labels" / folder).mkdir(parents=True)
        for name in some:
            label = tmp_path / "labels" / folder / name
            label.with_suffix(".txt").write_text("0 0.5 0.5 0.2 0.3\n")
    text = "names: [thing]\n"
    if told == "lists":
        for part, folder, some in (("train", "first", names), ("val", "later", later)):
            lines = "\n".join(f"./images/{folder}/{name}" for name in some)
            (tmp_path / f"{part}.txt").write_text(lines)
        text += "train: train.txt\nval: val.txt\n"
    else:
        text += "path: ../data\ntrain: ../images/first\nval: images/later\n"
    (tmp_path / "data.yaml").write_text(text)
    parts = {item.key: item.part for item in open_boxes(tmp_path).items}
    assert {key.split("/")[1]: part for key, part in parts.items()} == {
        "first": "train", "later": "val",
    }  # fmt: skip
    assert len(parts) == 12


def _coco(names: list[str], first: int = 0) -> str:
    images = [{"id": first + i, "file_name": n, "height": 24, "width": 24}
              for i, n in enumerate(names)]  # fmt: skip
    own = [{"id": i, "image_id": one["id"], "category_id": 1, "bbox": [2, 2, 9, 9]}
           for i, one in enumerate(images)]  # fmt: skip
    return json.dumps(
        {"images": images, "annotations": own, "categories": [{"id": 1, "name": "thing"}]}
    )


def test_coco_in_a_folder_for_each_part(tmp_path):
    for part, n in (("train", 6), ("valid", 3), ("test", 2)):
        names = _pictures(tmp_path / part, n)
        (tmp_path / part / "_annotations.coco.json").write_text(_coco(names))
    parts = [item.part for item in open_boxes(tmp_path).items]
    assert [parts.count(part) for part in ("train", "val", "test")] == [6, 3, 2]


def test_coco_s_held_back_images_stay_so_beside_other_files(tmp_path):
    names = _pictures(tmp_path / "images")
    (tmp_path / "instances_train.json").write_text(_coco(names[:9]))
    (tmp_path / "instances_val.json").write_text(_coco(names[8:], 50))
    (tmp_path / "everything.json").write_text(_coco(names))
    source = open_boxes(tmp_path)
    held = sorted(Path(item.key).name for item in source.items if item.part == "val")
    assert held == sorted(names[8:])
    found = {one.kind: one.keys for one in source.findings}
    assert found["two parts"] == (f"images/{names[8]}",)
    assert len(found["listed twice"]) == 12


@pytest.mark.parametrize("spelled", ["nfd", "backslashes", "elsewhere", "link"])
def test_coco_s_images_are_found_in_whatever_spelling(spelled, tmp_path):
    folder = tmp_path / "data"
    names = [unicodedata.normalize("NFC", f"blüte {n}.png") for n in range(6)]
    for name, drawn in zip(names, _pictures(folder / "images" / "deep", 6), strict=True):
        (folder / "images" / "deep" / drawn).rename(folder / "images" / "deep" / name)
    written = [f"deep/{name}" for name in names]
    if spelled == "nfd":
        written = [unicodedata.normalize("NFD", name) for name in written]
    elif spelled == "backslashes":
        written = [name.replace("/", "\\") for name in written]
    elif spelled == "elsewhere":
        written = [f"/home/anna/data/images/{name}" for name in written]
    else:
        (folder / "images").rename(tmp_path / "disk")
        (folder / "images").symlink_to(tmp_path / "disk")
    (folder / "all.json").write_text(_coco(written))
    source = open_boxes(folder)
    assert [item.key for item in source.items] == [f"images/deep/{name}" for name in names]


def test_coco_names_nothing_outside_of_its_folder(tmp_path):
    outside = _pictures(tmp_path / "outside", 2)
    names = _pictures(tmp_path / "data" / "images", 6)
    more = [f"../outside/{outside[0]}", str(tmp_path / "outside" / outside[1])]
    (tmp_path / "data" / "all.json").write_text(_coco([*names, *more]))
    source = open_boxes(tmp_path / "data")
    assert len(source) == 6
    assert [one.keys for one in source.findings if one.kind == "missing image"] == [tuple(more)]


def test_texts_beside_images_are_found_in_whatever_form_their_names_are(tmp_path):
    for number, name in enumerate(_pictures(tmp_path)):
        (tmp_path / name).rename(tmp_path / unicodedata.normalize("NFD", f"blüte {name}"))
        text = unicodedata.normalize("NFC", f"blüte {name}").replace("png", "txt")
        (tmp_path / text).write_text(f"flower {number}")
    assert len(open_captions(tmp_path)) == N
    assert len(unseal(divide(inspect(open_captions(tmp_path), progress=False)).test)) > 0
