"""Data that are wrong in a way that nobody listed: told, or refused in a sentence that says why."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from vitrail.data.captioned import open_captions
from vitrail.data.coco import id_of
from vitrail.data.gate import inspect
from vitrail.data.names import alike
from vitrail.data.opening import open_boxes, open_masks, open_source, task_of_data
from vitrail.data.sounds import BrokenSound, read_sound
from vitrail.errors import DataError
from vitrail.jobs.check import check

SIDE = 16


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def pictures(folder, n=6):
    for number in range(n):
        picture(folder / f"{number}.png", number)
    return [f"{number}.png" for number in range(n)]


def kinds(findings):
    return {one.kind: one for one in findings}


# ---- names and tables ------------------------------------------------------------------


def test_names_that_may_mean_the_same():
    told = alike(["Walk", "walk", "01", "1", "fire-truck", "fire truck", "A", "\uff21", "cat"])
    assert told == ["Walk = walk", "01 = 1", "fire-truck = fire truck", "A = \uff21"]
    assert alike(["a", "A", "C", "C++", "-1", "1", "1.05", "1.5", "10", "100"]) == []


def test_labels_that_all_images_have_or_none(tmp_path):
    rows = [
        f"img/{name},1,{number % 2},0" for number, name in enumerate(pictures(tmp_path / "img"))
    ]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["path,sky,sea,ufo", *rows]))
    source = open_source(table, several=True)
    told = [f.message for f in source.findings if f.kind == "label of all or none"]
    assert told == [
        "1 label of no image, left out ('ufo')",
        "1 label of every image: not to be learned ('sky')",
    ]
    assert source.classes == ("sea", "sky")
    table.write_text("\n".join(["path,sky,sea,sea", *rows]))
    with pytest.raises(DataError, match=r"1 label with more than one column \('sea'\)"):
        open_source(table, several=True)


def test_a_table_that_lists_every_image_in_two_parts(tmp_path):
    names = pictures(tmp_path / "img")
    rows = [
        f"img/{n},{'ab'[i % 2]},{part}" for i, n in enumerate(names) for part in ("train", "test")
    ]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,split", *rows]))
    with pytest.raises(DataError, match="lists every image in two parts"):
        open_source(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("\n".join(["path,label,split", *rows[1:]]))
    source = open_source(tmp_path / "t.csv")
    assert {item.part for item in source.items} == {"test"}
    assert len(kinds(source.findings)["two parts"].keys) == 5


# ---- boxes and masks -------------------------------------------------------------------


def coco(folder, change=lambda whole: None):
    images = [
        {"id": at, "file_name": name, "width": SIDE, "height": SIDE}
        for at, name in enumerate(pictures(folder / "images"))
    ]
    square = [[2, 2, 8, 2, 8, 8, 2, 8]]
    marks = [
        {"id": at, "image_id": at, "category_id": 1 + at % 2, "bbox": [2, 2, 6, 6], "area": 36,
         "iscrowd": 0, "segmentation": square}
        for at in range(6)
    ]  # fmt: skip
    names = [{"id": 1, "name": "cell"}, {"id": 2, "name": "gap"}]
    whole = {"images": images, "annotations": marks, "categories": names}
    change(whole)
    (folder / "annotations.json").write_text(json.dumps(whole))
    return folder


def boxes_of(source):
    return [one.boxes.tolist() for one in source.boxes.truths]


@pytest.mark.parametrize("written", [str, float])
def test_ids_written_as_texts_and_with_a_point_are_those_of_the_images(tmp_path, written):
    plain = coco(tmp_path / "plain")
    other = coco(tmp_path / "other", lambda whole: [
        one.update(image_id=written(one["image_id"])) for one in whole["annotations"]
    ])  # fmt: skip
    assert boxes_of(open_boxes(other)) == boxes_of(open_boxes(plain))
    reader, same = open_masks(other).masks.reader, open_masks(plain).masks.reader
    assert all((reader.read(row) == same.read(row)).all() for row in range(6))
    assert id_of(1.5) == "1.5" and id_of([1]) == "[1]" and id_of(True) != id_of(1)


@pytest.mark.parametrize("read", [open_boxes, open_masks])
def test_images_that_share_an_id_are_not_taken_for_empty_ones(tmp_path, read):
    source = read(coco(tmp_path, lambda whole: whole["images"][1].update(id=0)))
    assert [item.key for item in source.items] == [f"images/{n}.png" for n in range(2, 6)]
    assert kinds(source.findings)["same id"].keys == ("0.png", "1.png")


def test_boxes_in_shares_of_the_sides_are_not_taken_for_pixels(tmp_path):
    def shares(whole):
        for one in whole["annotations"]:
            one["bbox"] = [0.1, 0.2, 0.5, 0.5]

    with pytest.raises(DataError, match="as if in shares of the sides"):
        inspect(open_boxes(coco(tmp_path, shares)), progress=False)


def test_an_outline_whose_category_is_no_number(tmp_path):
    source = open_masks(coco(tmp_path, lambda w: w["annotations"][0].update(category_id=[1])))
    found = inspect(source, progress=False)
    (broken,) = found.broken
    assert broken.key == "images/0.png"
    assert "annotation 0 of category [1], which is none" in broken.reason


def test_masks_that_all_are_jpegs(tmp_path):
    for name in pictures(tmp_path / "images"):
        (tmp_path / "masks").mkdir(exist_ok=True)
        flat = Image.fromarray(np.zeros((SIDE, SIDE), np.uint8))
        flat.save(tmp_path / "masks" / name.replace("png", "jpg"))
    with pytest.raises(DataError, match="is a JPEG, which changes values: save masks as PNG"):
        open_masks(tmp_path)


# ---- sounds, sentences, scans ----------------------------------------------------------


def sounds(folder, names=("a", "b"), n=5):
    soundfile = pytest.importorskip("soundfile")
    for at, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(n):
            wave = np.sin(np.arange(2000) * (0.1 + 0.2 * at) + number).astype(np.float32) / 3
            soundfile.write(folder / name / f"{number}.wav", wave, 8000)
    return folder


def test_a_stray_file_does_not_make_sounds_images(tmp_path):
    folder = sounds(tmp_path)
    os.symlink("loop", folder / "a/loop")
    (folder / "notes.txt").write_text("taken in May")
    assert task_of_data(folder) == "audio"
    assert check(folder).inspection.counts == (5, 5)
    picture(folder / "a/cover.png", 0)
    assert task_of_data(folder) is None
    with pytest.raises(DataError, match=r"most files of .* are no images: say --task audio"):
        check(folder)


def test_a_table_of_sounds_says_which_option_is_missing(tmp_path):
    sounds(tmp_path / "s")
    rows = [f"s/{name}/{number}.wav,{name}" for name in "ab" for number in range(5)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *rows]))
    with pytest.raises(DataError, match=r"say --task audio$"):
        check(tmp_path / "t.csv")


@pytest.mark.parametrize("rate", [1, 99, 2**31 - 1])
def test_a_rate_that_no_recorder_has(tmp_path, rate):
    data = bytearray((sounds(tmp_path) / "a/0.wav").read_bytes())
    data[24:28] = rate.to_bytes(4, "little")
    with pytest.raises(BrokenSound, match=f"tells a rate of {rate:,} Hz"):
        read_sound(bytes(data))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes by name")
def test_a_pipe_in_place_of_a_sentence_is_not_waited_for(tmp_path):
    for number, name in enumerate(pictures(tmp_path)):
        if number:
            (tmp_path / name).with_suffix(".txt").write_text(f"number {number}")
    os.mkfifo(tmp_path / ".pipe")
    os.symlink(".pipe", tmp_path / "0.txt")
    source = open_captions(tmp_path)
    assert len(source.items) == 5
    assert kinds(source.findings)["image without caption"].keys == ("0.png",)


def test_one_sentence_for_all_images(tmp_path):
    rows = [f"{name},a photo" for name in pictures(tmp_path)]
    (tmp_path / "t.csv").write_text("\n".join(["image,caption", *rows]))
    with pytest.raises(DataError, match="has the same sentence for all images"):
        open_captions(tmp_path / "t.csv")


def test_the_gate_of_scans_alone(tmp_path):
    random = np.random.default_rng(0)
    for number in range(6):
        for name in ("velodyne", "labels"):
            (tmp_path / "sequences/00" / name).mkdir(parents=True, exist_ok=True)
        points = random.uniform(-20, 20, (50, 4)).astype("<f4")
        points.tofile(tmp_path / f"sequences/00/velodyne/{number}.bin")
        (np.arange(50, dtype="<u4") % 2 * 30 + 10).tofile(
            tmp_path / f"sequences/00/labels/{number}.label"
        )
    (tmp_path / "sequences/00/velodyne/0.bin").write_bytes(b"")
    found = check(tmp_path, "lidar")
    told = found.to_json()
    assert (told["scans"], told["classes"]["car"], told["classes"]["road"]) == (5, 125, 125)
    assert [one["key"] for one in told["broken"]] == ["sequences/00/velodyne/0.bin"]
    assert sum(told["parts"].values()) == 5
    assert any(line.startswith("5 scans with points of car 125") for line in found.lines())
    with pytest.raises(DataError, match="say --task lidar"):
        check(tmp_path)
