"""Boxes beside images: four kinds of files, and what the gate says of what is wrong in them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from support import boxed_scenes
from support.boxed_scenes import xml

from vitrail.data import box_batches
from vitrail.data.augment import Augment
from vitrail.data.cache import pixels
from vitrail.data.gate import inspect
from vitrail.data.opening import open_boxes, open_source, task_of_data
from vitrail.data.split import divide
from vitrail.errors import ConfigError, DataError
from vitrail.jobs.check import check

SIZE = (20, 30)  # height, width


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)


def found(root):
    """What is in each image, by its name: (class, box in pixels), in order."""
    kept = inspect(open_boxes(root), progress=False)
    boxes = kept.source.boxes
    return {
        item.key.rpartition("/")[2].partition(".")[0]: sorted(
            (kept.classes[label], *np.round(box, 4).tolist())
            for label, box in zip(one.labels, one.boxes, strict=True)
        )
        for item, row in zip(kept.items, kept.rows, strict=True)
        for one in [boxes.truths[row]]
    }


WANTED = {
    "a": [("cat", 3.0, 2.0, 12.0, 10.0), ("dog", 15.0, 5.0, 30.0, 20.0)],
    "b": [("dog", 0.0, 0.0, 6.0, 6.0)],
    "c": [],
}


def write_voc(root):
    for i, name in enumerate(WANTED):
        picture(root / "JPEGImages" / f"{name}.png", i)
        boxes = [one[1:] for one in WANTED[name]]
        labels = [("cat", "dog").index(one[0]) for one in WANTED[name]]
        text = xml([tuple(map(int, b)) for b in boxes], labels, SIZE)
        text = text.replace("<name>bar", "<name>cat").replace("<name>square", "<name>dog")
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{name}.xml").write_text(text)


def write_yolo(root):
    height, width = SIZE
    for i, (name, objects) in enumerate(WANTED.items()):
        picture(root / "images" / "train" / f"{name}.png", i)
        folder = root / "labels" / "train"
        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            f"{('cat', 'dog').index(label)} {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} "
            f"{(x2 - x1) / width} {(y2 - y1) / height}"
            for label, x1, y1, x2, y2 in objects
        ]
        (folder / f"{name}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text("path: .\nnc: 2\nnames:\n  0: cat\n  1: 'dog'\nother: 3\n")


def write_coco(root):
    images, annotations = [], []
    for i, (name, objects) in enumerate(WANTED.items()):
        picture(root / "images" / f"{name}.png", i)
        images.append({"id": i, "file_name": f"{name}.png", "height": SIZE[0], "width": SIZE[1]})
        annotations += [
            {"image_id": i, "category_id": {"cat": 7, "dog": 9}[label], "iscrowd": 0,
             "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for label, x1, y1, x2, y2 in objects
        ]  # fmt: skip
    names = [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": names}
    (root / "annotations.json").write_text(json.dumps(content))


def write_table(root):
    lines = ["filename,xmin,ymin,xmax,ymax,class,split"]
    for i, (name, objects) in enumerate(WANTED.items()):
        picture(root / "images" / f"{name}.png", i)
        rows = [",".join(map(str, (*one[1:], one[0]))) for one in objects] or [",,,,"]
        lines += [f"images/{name}.png,{row},train" for row in rows]
    (root / "boxes.csv").write_text("\n".join(lines))


@pytest.mark.parametrize("write", [write_voc, write_yolo, write_coco, write_table])
def test_four_kinds_of_files_say_the_same(write, tmp_path):
    write(tmp_path)
    assert task_of_data(tmp_path) == "detection"
    assert found(tmp_path) == WANTED


def test_parts_are_those_of_the_sets_and_of_folders(tmp_path):
    root = boxed_scenes.write(tmp_path / "voc", 12)
    assert [item.part for item in open_boxes(root).items[:4]] == ["test", "train", "train", "val"]
    write_yolo(tmp_path / "yolo")
    assert {item.part for item in open_boxes(tmp_path / "yolo").items} == {"train"}


def test_class_folders_and_masks_are_no_boxes(tmp_path):
    picture(tmp_path / "cat" / "1.png", 0)
    picture(tmp_path / "dog" / "1.png", 1)
    assert task_of_data(tmp_path) is None
    assert not open_source(tmp_path).boxes
    with pytest.raises(DataError, match="has no boxes beside its images"):
        open_boxes(tmp_path)


GOOD = "<object><name>cat</name><bndbox>{}</bndbox></object>"


def corners(x1, y1, x2, y2):
    names = ("xmin", "ymin", "xmax", "ymax")
    return "".join(f"<{n}>{v}</{n}>" for n, v in zip(names, (x1, y1, x2, y2), strict=True))


def objects(*boxes, name="cat"):
    body = "".join(GOOD.format(corners(*box)).replace("cat", name) for box in boxes)
    return f"<annotation><size><width>30</width><height>20</height></size>{body}</annotation>"


WHOLE = objects((0, 0, 9, 9))
# The answer key: what a file says, the finding that it must lead to, and the boxes that are left.
BROKEN = {
    "cut": (objects((0, 5, 9, 25)), "box cut", 1),
    "outside": (objects((0, 0, 9, 9), (40, 2, 50, 9)), "box outside", 1),
    "above": (objects((0, 0, 9, 9), (2, -9, 5, -1)), "box outside", 1),
    "empty": (objects((0, 0, 9, 9), (4, 4, 4, 9)), "box empty", 1),
    "flat": (objects((0, 0, 9, 9), (4, 9, 8, 9)), "box empty", 1),
    "flipped": (objects((9, 0, 0, 9)), "box flipped", 1),
    "upside_down": (objects((0, 9, 9, 0)), "box flipped", 1),
    "twice": (objects((0, 0, 9, 9), (0, 0, 9, 9)), "box repeated", 1),
    "two_classes": (WHOLE.replace("</annotation>", objects((0, 0, 9, 9), name="dog")
                    .partition("</size>")[2]), "box conflict", 2),
    "tiny": (objects((0, 0, 2, 9)), "tiny box", 1),
    "nan": (objects((0, 0, 9, 9), ("nan", 0, 3, 3)), "box number", 1),
    "infinite": (objects((0, 0, 9, 9), (0, 0, "inf", 3)), "box number", 1),
    "nothing": (objects(), "negative", 0),
    "difficult": (WHOLE.replace("</name>", "</name><difficult>1</difficult>"), "crowd", 1),
    "word": (objects((0, 0, 9, "nine")), "annotation", None),
    "no_corner": (WHOLE.replace("<ymax>9</ymax>", ""), "annotation", None),
    "no_box": (WHOLE.replace("bndbox", "box"), "annotation", None),
    "no_name": (WHOLE.replace("<name>cat</name>", ""), "annotation", None),
    "blank_name": (WHOLE.replace("cat", "  "), "annotation", None),
    "half": (WHOLE[:60], "annotation", None),
    "no_xml": ("cat 0 0 9 9", "annotation", None),
    "blank_file": ("", "annotation", None),
    "other_root": (WHOLE.replace("annotation>", "notes>"), "annotation", None),
    "entities": ("<!DOCTYPE a [<!ENTITY b 'c'>]>" + WHOLE, "annotation", None),
    "other_size": (WHOLE.replace("<width>30", "<width>31"), "annotation", None),
    "turned": (WHOLE.replace("<width>30", "<width>20").replace("<height>20", "<height>30"),
               "annotation", None),
    "size_endless": (WHOLE.replace("<width>30", "<width>1e999"), "annotation", None),
    "size_nan": (WHOLE.replace("<height>20", "<height>nan"), "annotation", None),
    "size_word": (WHOLE.replace("<width>30", "<width>wide"), "annotation", None),
}  # fmt: skip


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A folder of broken annotations of every kind, with some that are whole."""
    root = tmp_path_factory.mktemp("broken")
    for i, (name, (text, _, _)) in enumerate(BROKEN.items()):
        picture(root / "JPEGImages" / f"{name}.png", i)
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{name}.xml").write_text(text)
    for i in range(6):
        picture(root / "JPEGImages" / f"whole{i}.png", 100 + i)
        (root / "Annotations" / f"whole{i}.xml").write_text(objects((0, i, 9, 9 + i)))
    picture(root / "JPEGImages" / "alone.png", 200)
    (root / "Annotations" / "lonely.xml").write_text(WHOLE)
    picture(root / "JPEGImages" / "same.png", 201)
    picture(root / "images" / "same.jpg", 202)
    (root / "JPEGImages" / "no_picture.png").write_text("no picture")
    (root / "Annotations" / "no_picture.xml").write_text(WHOLE)
    for name, text in (("copy1", WHOLE), ("copy2", objects((3, 3, 9, 9)))):
        picture(root / "JPEGImages" / f"{name}.png", 300)
        (root / "Annotations" / f"{name}.xml").write_text(text)
    return root


def test_every_broken_annotation_is_told(broken):
    kept = inspect(open_boxes(broken), progress=False)
    told = {finding.kind: " ".join(finding.keys) for finding in kept.findings}
    left = {item.key.partition("/")[2].removesuffix(".png"): row
            for item, row in zip(kept.items, kept.rows, strict=True)}  # fmt: skip
    for name, (_, kind, boxes) in BROKEN.items():
        assert f"/{name}.png" in told[kind], (name, kind)
        there = len(kept.source.boxes.truths[left[name]]) if name in left else None
        assert there == boxes, name
    whole = {"not an image": "no_picture", "annotation without image": "lonely",
             "image without annotation": "alone", "same name": "same",
             "box contradiction": "copy1"}  # fmt: skip
    for kind, name in whole.items():
        assert name in told[kind], (name, told)
    for one in kept.source.boxes.truths:
        assert len(one) == 0 or one.fault or one.size is None or one.boxes.max() <= 30


def test_the_gate_alone_says_all_of_it(broken):
    lines = "\n".join(check(broken).lines())
    assert "to learn detection from" in lines
    for said in ("wholly outside of their image left out", "corners the wrong way round put right",
                 "without a box, taken as showing nothing"):  # fmt: skip
        assert said in lines or said in json.dumps(check(broken).to_json()), said


def test_classes_that_never_occur_and_faults_of_other_files_are_told(tmp_path):
    write_coco(tmp_path / "coco")
    path = tmp_path / "coco" / "annotations.json"
    content = json.loads(path.read_text())
    content["categories"].append({"id": 11, "name": "cow"})
    content["images"].append({"id": 5, "file_name": "gone.png"})
    content["annotations"].append({"image_id": 99, "category_id": 7, "bbox": [0, 0, 3, 3]})
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][2]["category_id"] = 12
    path.write_text(json.dumps(content))
    kept = inspect(open_boxes(tmp_path / "coco"), progress=False)
    kinds = {one.kind: one.message for one in kept.findings}
    assert "'cow'" in kinds["absent class"] and "crowds" in kinds["crowd"]
    assert {"missing image", "no image of it", "annotation"} <= set(kinds)
    assert kept.broken[0].reason == "has annotations that have category 12, which has no name"
    write_yolo(tmp_path / "yolo")
    (tmp_path / "yolo" / "labels" / "train" / "b.txt").write_text("0 0.5 0.5 0.2\n")
    kept = inspect(open_boxes(tmp_path / "yolo"), progress=False)
    assert kept.broken[0].reason.endswith("have 4 values in line 1, where a box has 5")


@pytest.mark.parametrize("number", ["10000", "99999999999", "9" * 5000])
def test_a_class_whose_number_would_fill_the_memory(number, tmp_path):
    write_yolo(tmp_path)
    text = (tmp_path / "data.yaml").read_text().replace("  1:", f"  {number}:")
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=r"'dog' the number \d.*at most 10,000 classes"):
        open_boxes(tmp_path)


@pytest.mark.parametrize("damage", [b"\xef\xbb\xbf%b", b"-7 0.5 0.5 0.1 0.1", b"0 nan 1 1 1"])
def test_one_damaged_text_does_not_hide_the_boxes_of_the_others(damage, tmp_path):
    write_yolo(tmp_path)
    first = min((tmp_path / "labels" / "train").iterdir())
    first.write_bytes(damage % first.read_bytes() if b"%b" in damage else damage)
    assert len(open_boxes(tmp_path)) == len(WANTED)
    assert task_of_data(tmp_path) == "detection"


def test_copies_of_a_picture_stay_on_one_side(tmp_path):
    root = boxed_scenes.write(tmp_path / "voc", 24)
    for part in ("train", "val", "test"):
        (root / "ImageSets" / "Main" / f"{part}.txt").unlink()
    for i in (0, 1):
        for folder, end in (("JPEGImages", "png"), ("Annotations", "xml")):
            data = (root / folder / f"{i:03}.{end}").read_bytes()
            (root / folder / f"copy{i}.{end}").write_bytes(data)
    kept = inspect(open_boxes(root), progress=False)
    assert any("copy0.png" in str(one.groups) for one in kept.findings)
    split = divide(kept)
    names = [key.rpartition("/")[2] for key in split.train.keys]
    for i in (0, 1):
        assert (f"{i:03}.png" in names) == (f"copy{i}.png" in names)


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    root = boxed_scenes.write(tmp_path_factory.mktemp("scenes") / "voc", 24)
    split = divide(inspect(open_boxes(root), progress=False))
    return pixels(split.train, (32, 32), 3, progress=False)


def batches(part, **augment):
    order = {"batch": 8, "mean": (0.0,) * 3, "std": (1 / 255,) * 3}
    changed = Augment(**{"flip": 0.0, "shift": 0.0, **augment}) if augment else None
    return box_batches.BoxBatches(part, augment=changed, **order)


def colours(image, box):
    """The mean colour inside of a box in shares."""
    x1, y1, x2, y2 = (box.numpy() * 32).round().astype(int)
    return image[:, y1:y2, x1:x2].mean((1, 2))


@pytest.mark.parametrize("augment", [{}, {"flip": 1.0}, {"shift": 0.2}, {"scale": (0.5, 0.9)}])
def test_boxes_move_with_their_image(part, augment):
    seen = 0
    for number in range(2):
        batch = batches(part, **augment).get(0, number)
        for image, targets in zip(batch.images, batch.targets, strict=True):
            for kind, *box in targets[targets[:, 0] >= 0]:
                inside = colours(image, targets.new_tensor(box))
                assert inside.argmax() == (0 if kind == 1 else 1)
                seen += 1
    assert seen > 8


def test_a_box_that_is_mostly_cut_off_counts_for_nothing():
    kinds, sides = np.array([0.0, 1.0, 1.0]), np.array([32.0] * 4, np.float32)
    boxes = np.array([[-18, 4, 2, 10], [4, 4, 10, 10], [-9, 2, -1, 8]], np.float32)
    left, there = box_batches._left(kinds, boxes, sides)
    assert there.tolist() == [True, True, False]
    assert left[:, 0].tolist() == [box_batches.CROWD, 1]
    assert np.allclose(left[1, 1:] * 32, [4, 4, 10, 10])


def test_batches_are_the_same_in_shares_and_refuse_what_does_not_move(part):
    whole = batches(part, flip=0.5, shift=0.1).get(1, 0)
    shares = [batches(part, flip=0.5, shift=0.1).get(1, 0, rank=r, world=2) for r in range(2)]
    for one, rows in zip(shares, (slice(0, 4), slice(4, 8)), strict=True):
        m = min(one.targets.shape[1], whole.targets.shape[1])
        assert (one.images == whole.images[rows]).all()
        assert (one.targets[:, :m] == whole.targets[rows, :m]).all()
    with pytest.raises(ConfigError, match="boxes do not move with it"):
        batches(part, mixup=0.2)
