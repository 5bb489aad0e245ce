"""`vitrail detect`: words and pictures as queries, boxes in pixels, pictures, JSON, bad input."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import vitrail
from vitrail import checkpoint
from vitrail.cli import app, main
from vitrail.data.words import Words, learned
from vitrail.errors import CheckpointError, ConfigError
from vitrail.jobs.detect import Asked, Detected, Detector, as_json, detect
from vitrail.models import config_json
from vitrail.models.owl_vit import CLIP, Config, Text, Vision
from vitrail.report.boxes import Box, drawn

MINI = Config(Vision(48, 2, 3, 96, 16), Text(400, 8, 32, 2, 4, 64), width=32, image=(64, 64))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights that find something everywhere, their tokenizer, and two pictures."""
    torch.manual_seed(1)
    made, config = tmp_path_factory.mktemp("owl"), config_json(MINI)
    model = vitrail.create(MINI)
    with torch.no_grad():
        model.class_head.embed.weight.normal_(std=0.2)
        model.box_head.layers[-1].weight.normal_(std=0.05)
    checkpoint.save(made / "owl.safetensors", model.state_dict(), metadata={"config": config})
    words = learned(["a red bag", "a sleeve"], 8, most=400)
    (made / "tokenizer.json").write_text(words.text())
    random = np.random.default_rng(0)
    for name, size in (("wide", (60, 120, 3)), ("tall", (90, 40, 3))):
        Image.fromarray(random.integers(0, 255, size, dtype=np.uint8)).save(made / f"{name}.png")
    return made


@pytest.fixture(scope="module")
def detector(folder):
    return Detector(folder / "owl.safetensors")


def said(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["detect", *map(str, arguments)])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_boxes_are_in_pixels_of_the_image(detector, folder):
    """What the network says of the padded square, times its side."""
    image = np.array(Image.open(folder / "wide.png"))
    queries = detector.queries(["a sleeve", "a red bag"])
    found = detector.find(image, queries, ("a sleeve", "a red bag"), threshold=0.05)
    assert found and {box.name for box in found} <= {"a sleeve", "a red bag"}
    scores = [box.score for box in found]
    assert scores == sorted(scores, reverse=True)
    square = np.full((120, 120, 3), 127.5, np.float32)
    square[:60] = image
    x = torch.from_numpy(square / 255).permute(2, 0, 1)[None]
    x = torch.nn.functional.interpolate(x, (64, 64), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(v)[:, None, None] for v in (CLIP.mean, CLIP.std))
    with torch.no_grad():
        whole = detector.model.find((x - mean) / std, queries[None])
    at = whole.logits[0].flatten().argmax()
    cx, cy, w, h = (120 * whole.boxes[0, at // 2]).tolist()
    best = found[0]
    assert best.score == pytest.approx(whole.logits[0].flatten()[at].sigmoid().item(), abs=1e-5)
    expected = np.clip([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 0, [120, 60, 120, 60])
    assert best.corners == pytest.approx(expected.tolist(), abs=1e-3)
    for box in found:
        x0, y0, x1, y1 = box.corners
        assert 0 <= x0 < x1 <= 120 and 0 <= y0 < y1 <= 60


def test_a_sentence_is_computed_once(detector, monkeypatch):
    first = detector.queries(["a new thing", "a sleeve"])
    asked = []
    monkeypatch.setattr(detector.model, "queries", lambda tokens: asked.append(tokens))
    assert detector.queries(["a sleeve", "a new thing"]).equal(first.flip(0)) and not asked


def test_a_picture_finds_itself(detector, folder):
    path = str(folder / "tall.png")
    [found] = detect(detector, [path], Asked(like=path))
    assert found.boxes[0].score == 1.0 and found.boxes[0].name == "tall.png"
    assert all(box.score >= 0.6 for box in found.boxes)


def test_the_command_prints_and_draws(folder, tmp_path):
    images = [str(folder / name) for name in ("wide.png", "tall.png")]
    weights = ["--weights", str(folder / "owl.safetensors"), "--threshold", "0.05"]
    out = tmp_path / "drawn"
    asked = ["detect", *images, "--for", "a sleeve", "--for", "a red bag", *weights]
    told = CliRunner().invoke(app, [*asked, "--json", "--out", str(out)])
    assert told.exit_code == 0
    wide, tall = json.loads(told.stdout)
    assert wide["size"] == [60, 120] and tall["size"] == [90, 40]
    assert {"name", "score", "corners"} == set(wide["boxes"][0])
    for one, path in ((wide, images[0]), (tall, images[1])):
        before, after = (np.asarray(Image.open(p)) for p in (path, one["picture"]))
        assert after.shape == before.shape and (after != before).any()
    out = tmp_path / "shown"
    shown = CliRunner().invoke(app, [*asked, "--out", str(out)])
    assert shown.exit_code == 0 and "a sleeve" in shown.stdout and str(out) in shown.stdout


def test_boxes_are_drawn_in_colours_of_their_kinds():
    image = np.full((80, 80, 3), 255, np.uint8)
    boxes = [Box("a", 0.9, (10, 30, 40, 60)), Box("b", 0.8, (45, 30, 75, 60))]
    made = np.asarray(drawn(image, boxes, ("a", "b")))
    assert (made[45, 25] == 255).all() and (made[45, 60] == 255).all()
    assert (made[60, 25] != 255).any() and (made[60, 25] != made[60, 60]).any()


def test_bad_input_is_told_in_a_sentence(folder, tmp_path, capsys):
    image, weights = folder / "wide.png", ("--weights", folder / "owl.safetensors")
    assert "no weights are given: add --weights" in said(capsys, image, "--for", "a bag")
    assert "what to look for is said once" in said(capsys, image, *weights)
    told = said(capsys, image, "--for", "a", "--like", image, *weights)
    assert "what to look for is said once" in told
    assert "--for is empty" in said(capsys, image, "--for", " ", *weights)
    assert "threshold is 2.0" in said(capsys, image, "--for", "a", "--threshold", 2, *weights)
    assert "does not exist" in said(capsys, tmp_path / "no.png", "--for", "a", *weights)
    (tmp_path / "torn.png").write_bytes(image.read_bytes()[:80])
    assert "torn.png" in said(capsys, tmp_path / "torn.png", "--for", "a", *weights)
    lonely = tmp_path / "owl.safetensors"
    lonely.write_bytes((folder / "owl.safetensors").read_bytes())
    told = said(capsys, image, "--for", "a", "--weights", lonely)
    assert "no tokenizer.json lies beside" in told and "--tokenizer" in told
    (tmp_path / "other.json").write_text("{}")
    told = said(
        capsys, image, "--for", "a", "--weights", lonely, "--tokenizer", tmp_path / "other.json"
    )
    assert "other.json is not a tokenizer" in told
    with pytest.raises(ConfigError, match="said once"):
        Asked()


def test_weights_of_others_are_refused(tmp_path):
    model = vitrail.create("cct_2_3x2_32")
    config = config_json(model.config)
    checkpoint.save(tmp_path / "cct.safetensors", model.state_dict(), metadata={"config": config})
    with pytest.raises(CheckpointError, match="of cct: give weights of OWL-ViT"):
        Detector(tmp_path / "cct.safetensors")


def test_padding_follows_the_end(detector):
    """Ids are as CLIP's: what follows the end of a sentence is 0."""
    words: Words = detector.words
    ids = words(["a bag", "a red bag of a sleeve and a sleeve and more"])
    assert ids.shape == (2, 8) and ids[0, -1] == 0 and (ids[0] > 0).sum() < 8
    assert (ids[1] > 0).all() and ids[1, -1] == ids[0][ids[0] > 0][-1]


def test_json_moves_no_cursor_and_is_read_as_it_was():
    name = "a\x9b31m\u202eb\x1b]0;pwn\x07é.png"
    told = as_json([Detected(name)])
    assert not set("\x9b\u202e\x1b\x07") & set(told) and "é" in told
    assert json.loads(told)[0]["path"] == name
