"""What deserves a look: suspected labels, outliers and copies, as pictures and as a table."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from test_report import EVIL, read, some_facts

from vitrail.data.cache import pixels
from vitrail.data.gate import inspect
from vitrail.data.opening import open_source
from vitrail.data.pictures import thumbnails
from vitrail.data.split import divide, unseal
from vitrail.report.page import render
from vitrail.run import looks
from vitrail.tasks.suspects import folds, out_of_fold, outliers, scaled, suspects, tells


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


def moved(labels, random, n=30):
    """Give another label to some images; return the labels and the rows."""
    rows, labels = random.choice(len(labels), n, replace=False), labels.copy()
    labels[rows] = (labels[rows] + random.integers(1, 10, n)) % 10
    return labels, rows


@pytest.mark.parametrize(("seed", "uneven"), [(0, False), (2, True)])
def test_moved_labels_are_among_the_first_shown(digits, seed, uneven):
    """Of 30 moved labels at least 25 are in the first 40, also where classes are uneven."""
    images, labels = digits
    random = np.random.default_rng(seed)
    kept = (labels > 2) | (random.random(len(labels)) < 0.2) if uneven else labels >= 0
    images, (labels, rows) = images[kept], moved(labels[kept], random)
    shares = out_of_fold(scaled(images), labels, np.arange(len(labels)), 10)
    assert shares.shape == (len(labels), 10)
    assert np.allclose(shares.sum(1), 1)
    first = [one.row for one in suspects(shares, labels)[:40]]
    assert np.isin(first, rows).sum() >= 25


def test_what_is_said_of_an_image_does_not_depend_on_its_label(digits):
    """Not even on the labels of its copies, which share its mistake."""
    images, labels = digits[0][:300], digits[1][:300].copy()
    images = np.concatenate([images, images[:1], images[:1]])
    labels = np.append(labels, [labels[0], labels[0]])
    groups = np.append(np.arange(300), [0, 0])
    said = out_of_fold(scaled(images), labels, groups, 10)
    wrong = labels.copy()
    wrong[groups == 0] = (labels[0] + 1) % 10
    # Labels decide the folds, so those of the right ones are held.
    with pytest.MonkeyPatch.context() as patched:
        fixed = folds(labels, groups)
        patched.setattr("vitrail.tasks.suspects.folds", lambda *_: fixed)
        again = out_of_fold(scaled(images), wrong, groups, 10)
    assert said[0].argmax() == again[0].argmax() == labels[0]
    assert {0, 300, 301} <= {one.row for one in suspects(again, wrong)}


def test_who_cannot_tell_classes_apart_suspects_no_label():
    """Not better than the commonest class beyond chance is not better."""
    labels = np.repeat([0, 1], [60, 40])
    assert not tells(0.5, labels) and not tells(0.6, labels) and not tells(0.66, labels)
    assert tells(0.7, labels) and not tells(1.0, np.zeros(10, np.int64))


@pytest.mark.parametrize("seed", range(5))
def test_folds_keep_groups_together(seed):
    labels, groups = np.random.default_rng(seed).integers(0, [[5], [10]], (2, 60))
    found = folds(labels, groups)
    assert all(len(set(found[groups == one])) == 1 for one in groups)


def test_folds_share_out_every_class():
    labels = np.repeat([0, 1, 2], [100, 25, 5])
    found = folds(labels, np.arange(len(labels)))
    for one, each in ((0, 20), (1, 5), (2, 1)):
        assert np.bincount(found[labels == one], minlength=5).tolist() == [each] * 5


def test_an_image_like_no_other_is_an_outlier():
    random = np.random.default_rng(0)
    features = random.normal(size=(200, 20))
    features[17] += 30
    found = outliers(scaled(features))
    assert [row for row, _ in found] == [17]
    assert found[0][1] > 3
    assert outliers(scaled(features[:19])) == []


def test_thumbnails_of_photographs_are_small(tmp_path):
    random = np.random.default_rng(0)
    smooth = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        smooth.resize((400, 300)).save(tmp_path / name / "photo.png")
        smooth.save(tmp_path / name / "tiny.png")
    found = thumbnails(open_source(tmp_path), ["a/photo.png", "a/tiny.png"])
    photo, tiny = (Image.open(io.BytesIO(found[key])) for key in ("a/photo.png", "a/tiny.png"))
    assert (photo.format, photo.size, tiny.format, tiny.size) == ("JPEG", (96, 72), "PNG", (12, 9))
    assert len(found["a/photo.png"]) < 5000


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Bright and dark pictures with one wrong label, one copy, one odd and one broken file."""
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    root = tmp_path / "photos"
    for name, level in (("dark", 40), ("bright", 180)):
        (root / name).mkdir(parents=True)
        for number in range(40):
            pixels = random.integers(level, level + 30, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:02d}.png")
    pixels = random.integers(180, 210, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "dark" / f"=wrong{EVIL.replace('/', '')}.png")
    checks = np.kron(np.indices((4, 4)).sum(0) % 2, np.ones((4, 4))) * 255
    Image.fromarray(np.stack([checks] * 3, 2).astype(np.uint8)).save(root / "bright" / "odd.png")
    (root / "bright" / "copy.png").write_bytes((root / "bright" / "00.png").read_bytes())
    (root / "dark" / "broken.png").write_bytes(b"no")
    return root


def listed(table):
    return list(csv.DictReader(io.StringIO(table)))


def brightness(images):
    """Stands in for a network that learned to see how bright an image is, nearly."""
    taken = images.take(np.arange(len(images))).astype(np.float32)
    return np.concatenate([taken.mean((1, 2)), taken.std((1, 2)) / 8], axis=1)


def test_a_fit_lists_and_draws_what_deserves_a_look(folder):
    found = inspect(open_source(folder), progress=False)
    split = divide(found)
    chosen = {"train": split.train, "val": split.val, "test": unseal(split.test)}
    parts = {name: pixels(part, (16, 16), 3, progress=False) for name, part in chosen.items()}
    features = {name: brightness(part) for name, part in parts.items()}
    seen = looks.looks(found, looks.of_fit(found, parts, features))
    rows = listed(seen.table)
    kinds = {}
    for row in rows:
        kinds.setdefault(row["kind"], []).append(row)
    (wrong,) = [row for row in kinds["label"] if "wrong" in row["path"]]
    assert (wrong["label"], wrong["suggestion"]) == ("dark", "bright")
    assert "bright/odd.png" in {row["path"] for row in kinds["outlier"]}
    copies = {row["path"]: row["group"] for row in kinds["exact duplicates"]}
    assert set(copies) == {"bright/00.png", "bright/copy.png"} and len(set(copies.values())) == 1
    assert [row["path"] for row in kinds["broken"]] == ["dark/broken.png"]
    assert not [row for row in rows if row["path"].startswith("=")]
    page = render(replace(some_facts(), chapters=[seen.chapter]))
    assert "dark, perhaps bright" in read(page).text
    assert page.count("data:image/png") >= 4
    assert len(page) - len(render(some_facts())) < 100_000


def test_only_a_share_is_looked_at_where_time_is_short(folder):
    found = inspect(open_source(folder), progress=False)
    split = divide(found)
    chosen = {"train": split.train, "val": split.val, "test": unseal(split.test)}
    parts = {name: pixels(part, (16, 16), 3, progress=False) for name, part in chosen.items()}
    some = looks.sampled(parts, 40)
    sizes = list(map(len, some.values()))
    assert 36 <= sum(sizes) <= 40 and min(sizes) >= 4
    groups = looks.of_fit(found, some, {name: brightness(part) for name, part in some.items()})
    assert f"Of {len(found)} images {sum(sizes)} were looked at." in groups[0].explained
    assert looks.sampled(parts, len(found)) == parts


def test_an_evaluation_takes_the_run_s_own_answers(folder):
    found = inspect(open_source(folder), progress=False)
    part = divide(found).train
    images = pixels(part, (16, 16), 3, progress=False)
    bright = (brightness(images)[:, 0] > 110).astype(float)
    shares = np.stack([0.1 + 0.8 * bright, 0.9 - 0.8 * bright], 1)
    suspected, *_ = looks.of_evaluation(found, images, shares, brightness)
    expected = {
        key for key, label, b in zip(images.keys, images.labels, bright, strict=True) if label == b
    }
    assert {one.key for one in suspected.suspects} == expected
    (alone,) = looks.of_evaluation(found, images, None, brightness)
    assert alone.kind == "outlier"


def test_nothing_to_look_at_is_no_chapter(folder):
    found = inspect(open_source(folder), progress=False)
    clean = replace(found, broken=(), findings=())
    seen = looks.looks(clean, [])
    assert seen.chapter is None and listed(seen.table) == []
