"""Copies and scenes: what was saved again is one picture, what was shot again is not."""

import io
import time

import numpy as np
import pytest
from PIL import Image, ImageDraw
from support.pictures import photo, write_classes

from vitrail.data import twins
from vitrail.data.gate import inspect
from vitrail.data.opening import open_source
from vitrail.data.pictures import thumbnails
from vitrail.data.split import divide
from vitrail.errors import ConfigError, DataError


def part(seed: int, scratched: bool, *, side: int = 160, noise: float = 3, mode: str = "L"):
    """A shot of a round part from a fixed camera: its light and its noise differ each time."""
    random = np.random.default_rng(2 * seed + scratched)
    image = Image.new("L", (160, 160), 60)
    draw = ImageDraw.Draw(image)
    draw.ellipse((20, 20, 140, 140), fill=170)
    draw.ellipse((60, 60, 100, 100), fill=80)
    if scratched:
        (x, y), angle, long = random.integers(40, 110, 2), random.uniform(0, 3), 20
        end = (x + long * np.cos(angle), y + long * np.sin(angle))
        draw.line((int(x), int(y), int(end[0]), int(end[1])), fill=235, width=2)
    values = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))
    values = values * random.uniform(0.985, 1.015) + random.normal(0, noise, (side, side))
    shot = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    return shot if mode == "L" else Image.merge("RGB", (shot, shot, Image.new("L", shot.size, 40)))


def again(image: Image.Image, form: str = "JPEG", **options) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return Image.open(buffer).convert(image.mode)


def half(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def groups(images: list[Image.Image], labels: list[int] | None = None, **options) -> np.ndarray:
    marks = np.stack([twins.signature(image) for image in images])
    digests = np.random.RandomState(1).randint(0, 2**60, (len(images), 2)).astype(np.uint64)
    return twins.twins(digests, marks, None if labels is None else np.array(labels), **options)


@pytest.mark.parametrize("each", [6, 12, 40])
@pytest.mark.parametrize("kind", [{}, {"mode": "RGB"}, {"side": 400, "noise": 2}])
def test_shots_of_one_scene_are_no_copies(each, kind):
    shots = [part(s, bad, **kind) for bad in (False, True) for s in range(each)]
    found = groups(shots, [0] * each + [1] * each)
    for side in (found[:each], found[each:]):
        assert len(set(side)) >= 0.6 * each
    assert not set(found[:each]) & set(found[each:])


def test_a_copy_of_one_shot_of_a_scene_is_found():
    shots = [part(s, bad) for bad in (False, True) for s in range(30)]
    copies = [again(shots[i], quality=90) for i in range(0, 60, 6)]
    copies += [again(shots[i], "PNG") for i in range(1, 60, 6)]
    copies += [again(shots[i], quality=80) for i in range(2, 60, 6)]
    of = [*range(0, 60, 6), *range(1, 60, 6), *range(2, 60, 6)]
    labels = [i // 30 for i in [*range(60), *of]]
    found = groups(shots + copies, labels)
    assert np.array_equal(found[60:], found[of])
    assert len(set(found[:60].tolist())) == 60


@pytest.mark.parametrize(
    "save",
    [
        lambda image: again(image, quality=90),
        lambda image: again(image, quality=40),
        lambda image: again(image, "WEBP", quality=60),
        half,
        lambda image: again(half(image), quality=75),
        lambda image: image.resize((64, 48), Image.Resampling.BICUBIC),
        lambda image: image.resize((224, 224), Image.Resampling.BILINEAR),
    ],
)
def test_what_was_saved_again_is_one_picture(save):
    originals = [photo(seed, 180, 240) for seed in range(20)]
    found = groups(originals + [save(image) for image in originals])
    assert found.tolist() == [*range(20)] * 2


def test_many_versions_of_one_photograph_stay_together():
    versions = [again(photo(0, 180, 240), quality=q) for q in range(30, 95, 8)]
    versions += [half(version) for version in versions[:3]]
    others = [photo(seed, 180, 240) for seed in range(1, 60)]
    found = groups(versions + others)
    assert set(found[: len(versions)]) == {0}
    assert len(set(found[len(versions) :])) == 59


def test_what_differs_in_one_place_is_not_a_copy():
    plain = photo(3, 160, 200)
    spotted, stained = plain.copy(), plain.copy()
    ImageDraw.Draw(spotted).ellipse((90, 70, 102, 82), fill=(255, 255, 255))
    ImageDraw.Draw(stained).rectangle((20, 20, 60, 60), fill=(200, 60, 60))
    assert groups([plain, spotted, stained, again(plain)]).tolist() == [0, 1, 2, 0]


def test_a_long_row_of_similar_pictures_is_not_one_group():
    random = np.random.RandomState(0)
    steps = np.cumsum(random.normal(0, 5, (40, 24, 24)), 0) + np.asarray(
        photo(0, 24, 24).convert("L")
    )
    row = [Image.fromarray(np.clip(step, 0, 255).astype(np.uint8)) for step in steps]
    row = [image.resize((96, 96), Image.Resampling.BICUBIC) for image in row]
    found = groups(row, [0] * 40)
    assert np.bincount(found).max() <= 10


def test_the_threshold():
    image = photo(0, 90, 120)
    pair = [image, again(image, quality=30), again(image, "PNG")]
    assert groups(pair).tolist() == [0, 0, 0]
    assert groups(pair, threshold=0).tolist() == [0, 1, 0]
    assert groups(pair, threshold=0.01).tolist() == [0, 1, 0]


def test_a_crowd_of_alike_takes_linear_time():
    def seconds(n: int) -> float:
        random = np.random.default_rng(0)
        base = random.integers(0, 256, twins.BYTES)
        marks = np.clip(base + random.normal(0, 1, (n, twins.BYTES)), 0, 255).astype(np.uint8)
        digests = random.integers(0, 2**62, (n, 2)).astype(np.uint64)
        began = time.process_time()
        assert len(set(twins.twins(digests, marks).tolist())) == n
        return time.process_time() - began

    seconds(100)
    assert seconds(1200) < 6 * max(seconds(400), 0.1)


def scene(root, each: int = 24):
    for name in ("good", "scratched"):
        (root / name).mkdir(parents=True)
        for i in range(each):
            part(1000 * (name == "good") + i, name == "scratched").save(root / name / f"{i}.png")
    return root


def test_parts_under_a_fixed_camera_are_divided(tmp_path):
    inspection = inspect(open_source(scene(tmp_path)), progress=False)
    split = divide(inspection)
    assert min(*split.train.counts, *split.val.counts, *split.test.counts) >= 3
    assert not [f for f in inspection.findings if "duplicates" in f.kind and "across" in f.message]


def test_equal_pictures_of_a_whole_class_are_refused_with_the_reason_or_kept(tmp_path):
    write_classes(tmp_path, {"a": 9, "b": 9})
    for path in (tmp_path / "a").iterdir():
        photo(0).save(path)
    inspection = inspect(open_source(tmp_path), progress=False)
    with pytest.raises(DataError, match=r"'a' from validation and test \(9 images, 1 apart .*keep"):
        divide(inspection)
    assert min(divide(inspection, duplicates="keep").test.counts) >= 1


def test_findings_carry_groups_that_can_be_drawn(tmp_path):
    write_classes(tmp_path, {"a": 6, "b": 6}, lambda seed: photo(seed, 90, 120))
    photo(0, 90, 120).save(tmp_path / "a" / "again.jpg", quality=70)
    (tmp_path / "a" / "broken.png").write_bytes(b"no")
    source = open_source(tmp_path)
    inspection = inspect(source, progress=False)
    (finding,) = [f for f in inspection.findings if f.kind == "near duplicates"]
    assert finding.groups == (("a/000.png", "a/again.jpg"),)
    small = thumbnails(source, [*finding.groups[0], "a/broken.png", "gone.png"], side=32)
    assert list(small) == ["a/000.png", "a/again.jpg"]
    images = [Image.open(io.BytesIO(data)) for data in small.values()]
    assert [(image.format, image.size) for image in images] == [("PNG", (32, 24))] * 2
    apart = np.asarray(images[0], int) - np.asarray(images[1], int)
    assert abs(apart).mean() < 6


def test_a_threshold_that_is_none(tmp_path):
    source = open_source(write_classes(tmp_path, {"a": 3, "b": 3}))
    with pytest.raises(ConfigError, match="threshold is -1: expected levels from 0 to 255"):
        inspect(source, progress=False, threshold=-1)
