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
from vitrail.report import facts as f
from vitrail.report.card import render_card
from vitrail.report.page import render
from vitrail.tasks import Classification
from vitrail.tasks.task import Outputs
from vitrail.tasks.unknowns import refused, surest, threshold


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


def told(n=300, classes=4, sure=6.0, unsure=1.5):
    """Logits of a network that is sure of its classes and unsure of all others."""
    random = np.random.default_rng(0)
    labels = torch.from_numpy(random.integers(0, classes, n))
    logits = torch.from_numpy(random.normal(0, unsure, (n, classes)))
    return logits + sure * torch.eye(classes)[labels], labels


def test_a_threshold_keeps_the_known_and_refuses_the_rest():
    logits, labels = told(sure=12.0, unsure=0.5)
    cut = threshold(logits, labels)
    assert cut is not None
    found = refused(logits, labels, 1.0, cut)
    assert found.known <= 0.01 and found.unknown > 0.9 and found.n == 300
    as_it_is, unnamed = surest(logits, labels, 1.0)
    assert (as_it_is < cut).sum() <= 3
    # Taken away means: what the softmax of the other logits says.
    others = logits[0][torch.arange(4) != labels[0]].softmax(0).max()
    assert float(unnamed[0]) == pytest.approx(float(others))


def test_no_threshold_where_it_would_say_nothing():
    logits, labels = told()
    assert threshold(logits[:, :2], labels.clamp(max=1)) is None
    alike = 20 * torch.eye(4)[labels] + 15 * torch.eye(4)[(labels + 1) % 4]
    assert threshold(alike.double(), labels) is None  # as sure of the class next to the right one
    assert threshold(logits[:0], labels[:0]) is None


def test_a_run_settles_its_threshold_and_the_report_tells_it():
    logits, labels = told(sure=12.0, unsure=0.5)
    outputs, task = Outputs(logits.float(), labels), Classification()
    blank = Labels(tuple("abcd"), (8, 8), 1, (0.5,), (0.5,))
    settled = task.settled(blank, outputs)
    assert settled.threshold is not None and settled.temperature > 0
    judged = task.judged(outputs, settled)
    found = judged["refusal"]
    assert found.threshold == settled.threshold and found.known <= 0.01
    facts = replace(some_facts(), refusal=f.RefusalFacts(0.61, 0.01, 0.72, 200))
    page, card = read(render(facts)).text, render_card(facts)
    assert "Below a probability of 0.61" in page and "72.0 %" in page
    assert "below a probability of 0.61" in card and "72.0 %" in card
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
    rows = json.loads(predict.as_json(found))
    assert [row.get("unfamiliar") for row in rows] == [False, True, None]
    lines = list(csv.DictReader(io.StringIO(predict.as_csv(found))))
    assert [line["unfamiliar"] for line in lines] == ["no", "yes", "no"]
    shown = io.StringIO()
    predict.show(found, Console(file=shown, width=300))
    assert shown.getvalue().count("unlike all images that the run learned from") == 1
    plain = predict.predict(finished(tmp_path / "plain").path, paths)
    assert [one.unfamiliar for one in plain] == [None, None]
    assert "unfamiliar" not in predict.as_csv(plain) + predict.as_json(plain)
