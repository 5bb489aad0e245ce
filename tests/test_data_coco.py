"""COCO's polygons and run lengths as masks, and what is wrong with such files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from vitrail.data import outlines
from vitrail.data.gate import inspect
from vitrail.data.masks import IGNORE, BrokenMask
from vitrail.data.opening import open_masks
from vitrail.errors import DataError

SIZE = (12, 16)
SQUARE = [2.0, 2.0, 8.0, 2.0, 8.0, 6.0, 2.0, 6.0]


def coco(root, annotations, *, n=4):
    """Write `n` images and a file that lists them with these annotations."""
    (root / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    for i in range(n):
        values = random.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
        Image.fromarray(values).save(root / "images" / f"{i}.png")
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]}
            for i in range(n)
        ],
        "annotations": [{"id": i, **one} for i, one in enumerate(annotations)],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
    }
    (root / "annotations.json").write_text(json.dumps(content))
    return root


def one(image, category, segmentation, **more):
    return {"image_id": image, "category_id": category, "segmentation": segmentation, **more}


def runs(mask):
    """The run lengths of a mask, down the columns, the first outside."""
    flat = np.concatenate([[0], mask.T.ravel().astype(int), [2]])
    ends = np.flatnonzero(np.diff(flat))
    return np.diff(np.concatenate([[0], ends])).tolist()


def compressed(counts):
    """COCO's compressed form of run lengths, written the other way round."""
    text = ""
    for i, count in enumerate(counts):
        number = count - (counts[i - 2] if i > 2 else 0)
        more = True
        while more:
            bits = number & 0x1F
            number >>= 5
            more = number != -1 if bits & 0x10 else number != 0
            text += chr((bits | (0x20 if more else 0)) + 48)
    return text


def test_polygons_and_runs_are_drawn(tmp_path):
    inside = np.zeros(SIZE, bool)
    inside[3:9, 5:12] = True
    rle = {"size": list(SIZE), "counts": runs(inside)}
    packed = {"size": list(SIZE), "counts": compressed(runs(inside))}
    root = coco(tmp_path / "data", [one(0, 7, [SQUARE]), one(1, 3, rle), one(2, 7, packed)])
    source = open_masks(root)
    assert source.classes == ("background", "dog", "cat")
    masks = [source.masks.read(row) for row in range(4)]
    square = np.zeros(SIZE, bool)
    square[2:6, 2:8] = True
    assert (masks[0] == 2)[square].mean() > 0.95
    assert (masks[0] == 2)[~square].mean() < 0.12  # borders may take half a pixel more
    assert np.array_equal(masks[1] == 1, inside) and np.array_equal(masks[2] == 2, inside)
    assert not masks[3].any()


@pytest.mark.parametrize("counts", [[0, 192], [5, 2, 2, 2, 181], [100, 40, 1, 51], [191, 1]])
def test_compressed_runs_are_read_back(counts):
    assert outlines.runs_of(compressed(counts)) == counts


def test_small_objects_lie_over_large_ones_and_crowds_count_for_nothing(tmp_path):
    whole = [0, 0, 16, 0, 16, 12, 0, 12]
    crowd = {"size": list(SIZE), "counts": [0, 48, 144]}
    root = coco(
        tmp_path / "data",
        [one(0, 7, [SQUARE]), one(0, 3, [whole]), one(1, 3, crowd, iscrowd=1), one(1, 7, [SQUARE])],
    )
    source = open_masks(root)
    first, second = source.masks.read(0), source.masks.read(1)
    assert first[4, 4] == 2 and first[10, 10] == 1
    assert second[0, 0] == IGNORE and second[4, 3] == 2 and second[0, 10] == 0
    told = {f.kind for f in source.findings}
    assert {"crowd", "negative"} <= told


BROKEN = {
    "two points": [[1, 1, 5, 5]],
    "an odd number": [[1, 1, 5, 5, 2, 2, 3]],
    "words": [["a", 1, 5, 5, 2, 2]],
    "no number": [[float("nan"), 1, 5, 5, 2, 2]],
    "outside": [[50, 50, 60, 50, 60, 60]],
    "nothing": [],
    "no outline": None,
    "too few runs": {"size": list(SIZE), "counts": [3, 4]},
    "negative runs": {"size": list(SIZE), "counts": [-3, 195]},
    "another size": {"size": [3, 3], "counts": [0, 9]},
    "empty runs": {"size": list(SIZE), "counts": [192]},
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_drawn_is_told(name):
    with pytest.raises(BrokenMask, match="annotation 9") as error:
        outlines.shape(BROKEN[name], SIZE, 9)
    assert error.value.kind == "annotation"


def test_broken_annotations_leave_their_image_out(tmp_path):
    wrong = [one(i, 7, segmentation) for i, segmentation in enumerate(BROKEN.values())]
    root = coco(
        tmp_path / "data",
        [*wrong, one(11, 99, [SQUARE]), one(13, 7, [SQUARE]), one(13, 7, [SQUARE]),
         one(77, 7, [SQUARE])],
        n=16,
    )  # fmt: skip
    (root / "images" / "15.png").unlink()
    Image.new("RGB", (16, 12)).save(root / "images" / "other.png")
    found = inspect(open_masks(root), progress=False)
    assert {b.key for b in found.broken} == {f"images/{i}.png" for i in range(12)}
    assert {b.kind for b in found.broken} == {"annotation"}
    told = {f.kind: f.keys for f in found.findings}
    assert told["missing image"] == ("15.png",)
    assert told["unlisted image"] == ("images/other.png",)
    assert told["same annotation"] == ("images/13.png",)
    assert told["no image of it"] == ("image_id 77",)
    assert set(told["negative"]) == {"images/12.png", "images/14.png"}


REFUSED = {
    "no lists": ({"annotations": {}}, "no lists"),
    "no name": ({"categories": [{"id": 1}]}, "without a whole id"),
    "a name twice": (
        {"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}]}, "its own name",
    ),
    "no image": ({"images": [{"id": 0, "file_name": "no.png"}]}, "no image that"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_cannot_be_read_are_one_sentence(tmp_path, name):
    more, message = REFUSED[name]
    root = coco(tmp_path / "data", [one(0, 7, [SQUARE])])
    path = root / "annotations.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    with pytest.raises(DataError, match=message):
        open_masks(root)


def test_a_file_for_each_part(tmp_path):
    root = coco(tmp_path / "data", [one(0, 7, [SQUARE])])
    content = json.loads((root / "annotations.json").read_text())
    (root / "annotations.json").unlink()
    (root / "annotations").mkdir()
    for part, numbers in (("train", (0, 1, 2)), ("val", (3,))):
        some = content | {"images": [i for i in content["images"] if i["id"] in numbers]}
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(some))
    source = open_masks(root)
    assert sorted(str(item.part) for item in source.items) == ["train"] * 3 + ["val"]
