"""Images that are none of the classes: by their probability, and by how they look."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from test_export import finished, images
from test_report import read, some_facts

from vitrail.config import parse
from vitrail.data.decode import resize
from vitrail.data.labels import Labels
from vitrail.data.likeness import Likeness, likeness, traits
from vitrail.errors import ConfigError
from vitrail.jobs import predict
from vitrail.report import predictions
from vitrail.report.card import render_card
from vitrail.report.page import render
from vitrail.report.scores import RefusalFacts
from vitrail.tasks import Classification
from vitrail.tasks.task import Outputs
from vitrail.tasks.unknowns import LeftOut, left_out, surest, threshold


@pytest.fixture(scope="module")
def pictures():
    """Crops of a photograph of a temple and of one of a flower, and scanned digits, 32x32."""
    from sklearn.datasets import load_digits, load_sample_images

    random, size = np.random.default_rng(0), 160
    crops = []
    for whole in load_sample_images().images:
        places = random.integers(0, np.array(whole.shape[:2]) - size, (150, 2))
        crops.append(np.stack([whole[y : y + size, x : x + size] for y, x in places]))
    photos = random.permutation(resize(np.concatenate(crops), (32, 32)))
    scans, _ = load_digits(return_X_y=True)
    digits = (scans.reshape(-1, 8, 8, 1) * 15.9).astype(np.uint8)
    return photos, np.repeat(resize(digits, (32, 32)), 3, axis=3)


def test_digits_are_unlike_photographs(pictures):
    """All 1,797 of them, and hardly a photograph."""
    photos, digits = pictures
    look = likeness(photos[:200], photos[200:250])
    assert look is not None
    assert look.strange(digits).mean() > 0.99
    assert look.strange(photos[250:]).mean() <= 0.04
    assert not look.strange(photos[200:250]).any()
    noise = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    assert look.strange(noise).all()
    assert parse(Likeness, json.loads(json.dumps(look.__dict__))) == look


@pytest.mark.parametrize("shape", [(30, 1, 1, 1), (30, 2, 5, 3), (70, 9, 4, 1)])
def test_traits_of_any_size_are_finite(shape):
    some = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = traits(some)
    assert found.shape == (shape[0], 13 if shape[3] == 3 else 10) and np.isfinite(found).all()
    alone = np.concatenate([traits(some[i : i + 1]) for i in range(len(some))])
    assert np.allclose(found, alone, atol=1e-6)
    assert likeness(some, some) is not None
    assert likeness(some[:19], some) is None
    flat = np.zeros_like(some)
    look = likeness(flat, flat)
    assert look is not None and not look.strange(flat).any() and look.strange(some + 1).all()


@pytest.mark.parametrize(
    "changes", [{"mean": (0.0,)}, {"limit": 0.0}, {"limit": float("nan")}, {"mean": ()},
                {"inverse": ((float("inf"), 0.0), (0.0, 1.0))}],
)  # fmt: skip
def test_a_look_that_is_none_is_refused(changes):
    good = {"mean": (0.0, 1.0), "inverse": ((1.0, 0.0), (0.0, 1.0)), "limit": 2.0}
    Likeness(**good)
    with pytest.raises(ConfigError, match="look has"):
        Likeness(**(good | changes))


def told(n=300, classes=4):
    """Logits of a network that is sure of nearly all images, and the classes."""
    random = np.random.default_rng(0)
    labels = torch.from_numpy(random.integers(0, classes, n))
    logits = torch.from_numpy(random.normal(0, 0.5, (n, classes)))
    logits += 12 * torch.eye(classes)[labels]
    logits[:2] /= 100
    return logits, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_a_threshold_keeps_what_is_known(temperature):
    logits, _ = told()
    cut = threshold(logits, temperature)
    assert cut is not None
    below = surest(logits, temperature) < cut
    assert 1 <= below.sum() <= 3 and below[:2].any()
    assert cut == pytest.approx(round(cut, 4)) and 0 < cut < 1


def test_no_threshold_where_it_cannot_be_measured():
    logits, _ = told()
    assert threshold(logits[:, :2]) is None
    assert threshold(logits[:99]) is None and threshold(logits[:100]) is not None


def test_a_class_that_is_left_out_is_told_as_well_as_it_differs():
    """Digits: about half; classes in directions of their own: all; one class twice: none."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    found = left_out(images[:1000], labels[:1000], images[1000:], labels[1000:])
    assert found is not None and 0.2 < found.told < 0.8 and found.right > 0.9
    assert found.speaks_of(found.right) and not found.speaks_of(0.5)
    random = np.random.default_rng(0)
    truth = random.integers(0, 5, 600)
    apart = 10 * np.eye(5)[truth] + random.normal(0, 0.1, (600, 5))
    assert left_out(apart[:400], truth[:400], apart[400:], truth[400:]) == LeftOut(1.0, 1.0)
    twice = np.where(truth == 4, 3, truth)  # classes 3 and 4 look the same
    alike = 10 * np.eye(5)[twice] + random.normal(0, 0.1, (600, 5))
    told_alike = left_out(alike[:400], truth[:400], alike[400:], truth[400:])
    assert told_alike is not None and told_alike.told < 0.7
    assert left_out(apart[:400], truth[:400] % 2, apart[400:], truth[400:] % 2) is None


def test_a_run_settles_its_threshold_and_the_report_tells_it():
    logits, labels = told()
    outputs, task = Outputs(logits.float(), labels), Classification()
    blank = Labels(tuple("abcd"), (8, 8), 1, (0.5,), (0.5,))
    settled = task.settled(blank, outputs)
    assert settled.threshold is not None and settled.temperature > 0
    found = task.judged(outputs, settled)["refusal"]
    assert found.threshold == settled.threshold and found.known <= 0.01
    assert found.n == 300 and found.unknown is None
    told_of = RefusalFacts(0.61, 0.01, 200, 0.42)
    facts = replace(some_facts(), refusal=told_of)
    page, card = read(render(facts)).text, render_card(facts)
    assert "Below a probability of 0.61" in page and "about 42 %" in page
    assert "below a probability of 0.61, as of about 42 %" in card
    unmeasured = replace(facts, refusal=replace(told_of, unknown=None))
    assert "left out of a kernel model" not in read(render(unmeasured)).text
    assert task.judged(outputs, blank)["refusal"] is None
    assert "answers every image with one of them" in render_card(some_facts())


def test_predict_warns_of_images_unlike_all(tmp_path):
    known = images(60)
    look = likeness(known[:40], known[40:])
    run = finished(tmp_path / "run", look=look)
    Image.fromarray(known[3][..., 0]).save(tmp_path / "known.png")
    Image.new("L", (28, 28), 255).save(tmp_path / "blank.png")
    paths = [str(tmp_path / name) for name in ("known.png", "blank.png")]
    (tmp_path / "broken.png").write_bytes(b"no")
    found = predict.predict(run.path, [*paths, tmp_path / "broken.png"])
    assert [one.unfamiliar for one in found] == [False, True, None]
    assert found[1].answer == found[1].ranked[0][0]  # a warning takes no answer
    rows = json.loads(predictions.as_json(found))
    assert [row.get("unfamiliar") for row in rows] == [False, True, None]
    lines = list(csv.DictReader(io.StringIO(predictions.as_csv(found))))
    assert [line["unfamiliar"] for line in lines] == ["no", "yes", "no"]
    shown = io.StringIO()
    predictions.show(found, Console(file=shown, width=300))
    assert shown.getvalue().count("unlike all images that the run learned from") == 1
    plain = predict.predict(finished(tmp_path / "plain").path, paths)
    assert [one.unfamiliar for one in plain] == [None, None]
    assert "unfamiliar" not in predictions.as_csv(plain) + predictions.as_json(plain)
