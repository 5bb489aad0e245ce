"""Images with masks: which folders are, what their values mean, and what is wrong with them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from support import composites
from support.pictures import write_classes

from vitrail import cli
from vitrail.data.augment import Augment
from vitrail.data.cache import pixels
from vitrail.data.gate import inspect
from vitrail.data.mask_batches import MaskBatches
from vitrail.data.mask_pixels import mask_pixels
from vitrail.data.masks import IGNORE, BrokenMask, Meaning, as_classes, resized
from vitrail.data.opening import open_masks, task_of_data
from vitrail.data.split import divide, unseal
from vitrail.errors import ConfigError, DataError

SIDE = 24


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return composites.write(tmp_path_factory.mktemp("masks") / "data", 24, side=SIDE)


@pytest.fixture
def data(drawn, tmp_path):
    return shutil.copytree(drawn, tmp_path / "data")


def mask(data, number, change):
    """Change the values of one mask."""
    path = data / "masks" / f"{number:03}.png"
    values = change(np.array(Image.open(path)))
    Image.fromarray(values).save(path)


def looked(data):
    return inspect(open_masks(data), progress=False)


def kinds(found):
    return {finding.kind for finding in found.findings}


# ---- what a folder is ------------------------------------------------------------------


def test_masks_beside_images_are_recognised(data, tmp_path):
    assert task_of_data(data) == "segmentation"
    (tmp_path / "labels" / "cat").mkdir(parents=True)
    (tmp_path / "labels" / "dog").mkdir()
    assert task_of_data(tmp_path / "labels") is None
    assert task_of_data("fashion-sample") is None
    assert task_of_data(tmp_path / "nothing") is None


@pytest.mark.parametrize("layout", ["images/train", "train/images", "wrapped/images"])
def test_parts_lie_above_or_below(drawn, tmp_path, layout):
    root = tmp_path / "data"
    for number in range(24):
        part = "test" if number >= 20 else "train"
        for kind in ("images", "masks"):
            where = {
                "images/train": root / kind / part,
                "train/images": root / part / kind,
                "wrapped/images": root / "archive" / kind,
            }[layout]
            where.mkdir(parents=True, exist_ok=True)
            shutil.copy(drawn / kind / f"{number:03}.png", where)
    source = open_masks(root)
    parts = [item.part for item in source.items]
    expected = (None, 24) if layout == "wrapped/images" else ("test", 4)
    assert len(parts) == 24 and parts.count(expected[0]) == expected[1]
    assert source.classes == ("0", "1", "2")  # nothing names them


def test_a_mask_may_have_an_ending(data):
    for path in (data / "masks").glob("*.png"):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    assert len(looked(data)) == 24


def test_items_have_the_classes_of_their_masks(data):
    source = open_masks(data)
    assert source.classes == composites.NAMES
    for row, item in enumerate(source.items):
        assert item.labels == tuple(np.unique(source.masks.read(row)))


def test_values_mean_what_is_said(data):
    (data / "classes.txt").unlink()
    written = {"0": "background", "100": "disc", "50": "square", "7": "void"}
    (data / "classes.json").write_text(json.dumps(written))
    for number in range(24):
        table = np.array([0, 50, 100], np.uint8)
        mask(data, number, lambda values, table=table: table[values])
    mask(data, 0, lambda values: np.where(values == 0, np.uint8(7), values))
    source = open_masks(data)
    assert source.classes == ("background", "disc", "square")
    assert 0 not in source.items[0].labels and IGNORE in source.masks.read(0)


def test_colours_mean_what_is_said(data):
    (data / "classes.txt").unlink()
    rows = ["name,r,g,b", "background,0,0,0", "square,200,0,0", "disc,0,0,250"]
    (data / "class_dict.csv").write_text("\n".join(rows) + "\n")
    before = [np.array(Image.open(data / "masks" / f"{n:03}.png")) for n in range(24)]
    colours = np.array([(0, 0, 0), (200, 0, 0), (0, 0, 250)], np.uint8)
    for number in range(24):
        mask(data, number, lambda values: colours[values])
    source = open_masks(data)
    assert source.classes == composites.NAMES
    assert all(np.array_equal(source.masks.read(n), before[n]) for n in range(24))


def test_palettes_hold_indices(data):
    before = np.array(Image.open(data / "masks" / "003.png"))
    drawn = Image.fromarray(before)
    drawn.putpalette([9, 9, 9, 200, 0, 0, 0, 0, 250] + [0] * 759)
    drawn.save(data / "masks" / "003.png")
    assert np.array_equal(open_masks(data).masks.read(3), before)


def test_black_and_white_masks_are_a_foreground(data):
    (data / "classes.txt").unlink()
    for number in range(24):
        mask(data, number, lambda values: np.where(values > 0, np.uint8(255), np.uint8(0)))
    found = looked(data)
    assert found.classes == ("background", "foreground") and "binary masks" in kinds(found)


# ---- thirty things that are wrong ------------------------------------------------------


def _wrong(data):
    """Break 13 images in ways of their own; returns the key of each and the kind that is told."""
    key = "images/{:03}.png".format
    mask(data, 0, lambda v: v[:-1])
    mask(data, 1, lambda v: np.pad(v, 1))
    mask(data, 2, lambda v: np.rot90(v).copy())
    mask(data, 3, lambda v: np.where(v == 0, np.uint8(9), v))
    mask(data, 4, lambda v: np.full_like(v, 255))
    mask(data, 5, lambda v: np.stack([v, v * 0, v * 0 + 1], -1))
    (data / "masks" / "006.png").write_bytes(b"")
    (data / "masks" / "007.png").write_bytes((data / "masks" / "008.png").read_bytes()[:60])
    (data / "masks" / "008.png").write_text("no image at all")
    (data / "images" / "009.png").write_bytes((data / "images" / "010.png").read_bytes()[:90])
    Image.fromarray(np.full((SIDE, SIDE + 8), 700, np.uint16)).save(data / "masks" / "010.png")
    Image.fromarray(np.zeros((SIDE, SIDE + 8), np.float32)).save(data / "masks" / "011.tiff")
    (data / "masks" / "011.png").unlink()
    values = Image.open(data / "masks" / "012.png")
    (data / "masks" / "012.png").unlink()
    values.save(data / "masks" / "012.jpg")
    told = {
        0: "mask size", 1: "mask size", 2: "mask size", 3: "mask value", 4: "mask empty",
        5: "mask colour", 6: "mask unreadable", 7: "mask unreadable", 8: "mask unreadable",
        9: "truncated", 10: "mask value", 11: "mask format", 12: "mask format",
    }  # fmt: skip
    return {key(number): kind for number, kind in told.items()}


def test_each_broken_annotation_is_left_out_with_its_reason(data):
    wrong = _wrong(data)
    (data / "masks" / "013.png").unlink()
    (data / "images" / "014.png").unlink()
    shutil.copy(data / "images" / "015.png", data / "images" / "015.bmp")
    found = looked(data)
    assert {one.key: one.kind for one in found.broken} == wrong
    assert all(one.reason and "None" not in one.reason for one in found.broken)
    lone = {f.kind: f.keys for f in found.findings if f.kind in (
        "image without mask", "mask without image", "same name"
    )}  # fmt: skip
    assert lone["image without mask"] == ("images/013.png",)
    assert lone["mask without image"] == ("masks/014.png",)
    assert set(lone["same name"]) == {"images/015.png", "images/015.bmp", "masks/015.png"}
    assert len(found) == 24 - 16


def test_odd_things_are_told_and_kept(data):
    (data / "classes.txt").write_text("background\nsquare\ndisc\nunicorn\nvoid\n")
    mask(data, 0, lambda v: v * 0)
    mask(data, 1, lambda v: np.where(v == 0, np.uint8(4), v))
    shutil.copy(data / "images" / "002.png", data / "images" / "100.png")
    mask(data, 2, lambda v: v.copy())
    other = np.array(Image.open(data / "masks" / "002.png"))
    other[0, 0] = 2 - other[0, 0]
    Image.fromarray(other).save(data / "masks" / "100.png")
    found = looked(data)
    assert len(found) == 25 and not found.broken
    told = {f.kind: f for f in found.findings}
    assert told["absent class"].keys == ("unicorn",)
    assert told["plain masks"].keys == ("images/000.png",)
    assert "count for nothing" in told["ignored pixels"].message
    assert told["mask conflict"].groups == (("images/002.png", "images/100.png"),)
    assert "small class" in told


def test_copies_across_the_split_are_told(data):
    for kind in ("images", "masks"):
        for part, numbers in (("train", range(20)), ("test", range(20, 24))):
            (data / kind / part).mkdir()
            for number in numbers:
                (data / kind / f"{number:03}.png").rename(data / kind / part / f"{number:03}.png")
        shutil.copy(data / kind / "train" / "001.png", data / kind / "test" / "900.png")
    found = looked(data)
    [leak] = [f for f in found.findings if "across the split" in f.message]
    assert [set(keys) for keys in leak.groups] == [{"images/train/001.png", "images/test/900.png"}]


REFUSED = {
    "no masks": (lambda d: shutil.rmtree(d / "masks"), "no folder of masks"),
    "no image": (
        lambda d: [p.unlink() for p in (d / "images").iterdir()],
        "has a mask of its name",
    ),
    "no mask": (lambda d: [p.unlink() for p in (d / "masks").iterdir()], "has a mask of its name"),
    "a class twice": (lambda d: (d / "classes.txt").write_text("a\nb\na\n"), "twice"),
    "no name": (lambda d: (d / "classes.txt").write_text("a\n\nb\n"), "without a name"),
    "one class": (lambda d: (d / "classes.txt").write_text("a\n"), "only the class"),
    "no text": (lambda d: (d / "classes.txt").write_bytes(b"\xff\xfe\x00a"), "as text"),
    "bad json": (lambda d: _instead(d, "classes.json", "{"), "as JSON"),
    "no names": (lambda d: _instead(d, "classes.json", "[1, 2]"), "neither a list"),
    "large values": (lambda d: _instead(d, "classes.json", '{"0": "a", "300": "b"}'), "0 to 255"),
    "no columns": (lambda d: _instead(d, "class_dict.csv", "a,b\n1,2\n"), "no columns"),
    "no colour": (lambda d: _instead(d, "class_dict.csv", "name,r,g,b\na,1,x,2\n"), "no whole r"),
    "far colour": (lambda d: _instead(d, "class_dict.csv", "name,r,g,b\na,1,900,2\n"), "outside"),
    "smoothed": (lambda d: _smoothed(d), "different values"),
    "all void": (lambda d: (d / "classes.txt").write_text("void\nvoid\nvoid\n"), "no class"),
}


def _instead(data, name, text):
    (data / "classes.txt").unlink()
    (data / name).write_text(text)


def _smoothed(data):
    (data / "classes.txt").unlink()
    mask(data, 0, lambda v: np.linspace(0, 250, v.size).astype(np.uint8).reshape(v.shape))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_learned_from_is_one_sentence(data, name):
    spoil, message = REFUSED[name]
    spoil(data)
    with pytest.raises(DataError, match=message) as error:
        looked(data)
    assert "\n" not in str(error.value)


def test_a_class_may_be_missing_from_a_part(data):
    """Of classes of images that is an error; of masks a rare class alone refuses nothing."""
    for number in {*range(24)} - {1}:  # which has both
        mask(data, number, lambda v: np.where(v == 2, np.uint8(0), v))
    found = looked(data)
    split = divide(found)
    assert any(f.kind == "class not in part" for f in split.findings)
    assert len(split.train) + len(split.val) + len(split.test) == 24


def test_parts_are_known_by_their_masks(data):
    before = divide(looked(data))
    key = before.train.keys[0]
    path = data / key.replace("images", "masks")
    values = np.array(Image.open(path))
    values[0, :2] = 1 - values[0, :2] % 2
    Image.fromarray(values).save(path)
    after = divide(looked(data))
    assert after.train.digest != before.train.digest


# ---- batches ---------------------------------------------------------------------------


def batches(data, augment=None, **more):
    part = divide(looked(data)).train
    images = pixels(part, (16, 20), 3, progress=False)
    order = {"batch": 6, "seed": 3, "mean": (0.5,) * 3, "std": (0.25,) * 3} | more
    return MaskBatches(images, mask_pixels(part, (16, 20)), augment=augment, **order)


def test_masks_are_resized_to_the_nearest_pixel():
    values = np.arange(48, dtype=np.uint8).reshape(6, 8)
    assert resized(values, (6, 8)) is values
    small = resized(values, (3, 4))
    assert np.array_equal(small, values[1::2, 1::2])
    large = resized(values, (12, 16))
    assert np.array_equal(large, values.repeat(2, 0).repeat(2, 1))


AUGMENTS = {
    "crop": Augment(flip=0.5, scale=(0.3, 1.0)),
    "shift": Augment(flip=0.5, shift=0.3),
    "erasing": Augment(flip=0.0, shift=0.0, erasing=1.0),
}


@pytest.mark.parametrize("name", AUGMENTS)
def test_masks_move_with_their_images(data, name):
    """Where an image is painted with its own mask, it still is after any augmentation."""
    part = divide(looked(data)).train
    masks = mask_pixels(part, (16, 20))
    images = pixels(part, (16, 20), 3, progress=False)
    images.images = np.repeat(masks.take(np.arange(len(part)))[..., None] * 100, 3, 3)
    order = {"batch": 6, "seed": 3, "mean": (0.0,) * 3, "std": (1 / 255,) * 3}
    made = MaskBatches(images, masks, augment=AUGMENTS[name], **order)
    for number in range(made.steps_per_epoch):
        batch = made.get(0, number)
        there = batch.targets != IGNORE
        painted = (batch.images[:, 0] / 100).round().long()
        # Between two classes a crop blends, and one pixel of border may be of either.
        right = (painted == batch.targets)[there].float().mean()
        assert right > (0.85 if name == "crop" else 0.999)
        if name != "crop":
            assert not there.all()


def test_a_batch_is_a_function_of_seed_epoch_and_number(data):
    augment = AUGMENTS["crop"]
    first, again = (batches(data, augment) for _ in range(2))
    again.get(4, 0)
    one, same = first.get(2, 1), again.get(2, 1)
    assert torch.equal(one.images, same.images) and torch.equal(one.targets, same.targets)
    other = batches(data, augment, seed=4).get(2, 1)
    assert not torch.equal(one.targets, other.targets)
    shares = [first.get(2, 1, rank=rank, world=2) for rank in range(2)]
    assert torch.equal(torch.cat([s.targets for s in shares]), one.targets)
    assert torch.equal(torch.cat([s.images for s in shares]), one.images)


def test_torchs_own_state_is_not_touched(data):
    made = batches(data, AUGMENTS["crop"])
    before = torch.random.get_rng_state()
    made.get(0, 0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_what_masks_cannot_follow_is_refused(data):
    for augment in (Augment(mixup=0.2), Augment(cutmix=1.0), Augment(randaugment=(2, 9))):
        with pytest.raises(ConfigError, match="masks do not move"):
            batches(data, augment)


def test_unknown_values_are_named():
    meaning = Meaning({0: 0, 5: 1})
    assert as_classes(np.array([[0, 5, 255]], np.uint8), meaning).tolist() == [[0, 1, 255]]
    with pytest.raises(BrokenMask, match="the value 3"):
        as_classes(np.array([[0, 3]], np.uint8), meaning)


def test_the_test_part_keeps_its_masks(data):
    split = divide(looked(data))
    part = unseal(split.test)
    assert mask_pixels(part, (16, 20)).take([0]).shape == (1, 16, 20)


# ---- the gate alone --------------------------------------------------------------------


def test_the_gate_alone_says_all_and_writes_nothing(data, tmp_path, capsys):
    wrong = _wrong(data)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    _main(["check", str(data)])
    said = capsys.readouterr().out
    assert "11 images of 3 classes" in said and "to learn segmentation from" in said
    _main(["check", str(data), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["task"] == "segmentation" and sum(found["parts"].values()) == 24 - len(wrong)
    assert {one["key"] for one in found["broken"]} == set(wrong)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_the_gate_alone_is_of_any_task(tmp_path, capsys):
    write_classes(tmp_path / "photos", {"cat": 6, "dog": 6})
    _main(["check", str(tmp_path / "photos")])
    assert "to learn classification from" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        _main(["check", str(tmp_path / "photos"), "--task", "segmentation"])
    assert stopped.value.code == 2
    assert "no folder of masks" in capsys.readouterr().err


def test_networks_of_masks_are_listed(capsys):
    _main(["list", "--dense", "--json"])
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["upernet_swin_tiny"]["miou"] == 44.5 and "seg_t_mask_16" in rows


def _main(arguments):
    try:
        cli.main(arguments)
    except SystemExit as ended:
        if ended.code:
            raise
