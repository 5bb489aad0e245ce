"""Boxes that words ask for: batches by hand, what is learned and held out, a run end to end."""

from __future__ import annotations

import json
import signal
from io import StringIO

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from support import boxed_scenes
from support.quick import one_thread
from support.signals import deliver
from typer.testing import CliRunner

import vitrail
from vitrail import checkpoint
from vitrail.cli import app
from vitrail.data.augment import Augment
from vitrail.data.cache import pixels
from vitrail.data.gate import inspect
from vitrail.data.opening import open_boxes
from vitrail.data.queries import Asking, QueryBatches, federated, squared
from vitrail.data.split import divide, unseal
from vitrail.data.words import learned
from vitrail.errors import CheckpointError, ConfigError, RunError
from vitrail.jobs.detect import Detector
from vitrail.jobs.train import train_recipe
from vitrail.models import config_json
from vitrail.models.owl_vit import CLIP, Config, Text, Vision
from vitrail.models.parts.query_losses import loss, objects_of
from vitrail.objectives import QueryLoss
from vitrail.objectives.context import Context
from vitrail.recipes.recipe import read
from vitrail.run.view import View
from vitrail.tasks import OpenVocabulary, finding
from vitrail.tasks.finding import Finds
from vitrail.training.interrupt import Interrupted
from vitrail.training.objective import Step

SMALL = [
    "task=open_vocabulary", "model=owlvit_b32", "model.image=32,32", "model.width=32",
    "model.tower.dim=32", "model.tower.depth=1", "model.tower.heads=2", "model.tower.hidden=64",
    "model.tower.patch=4", "model.text.dim=32", "model.text.depth=1", "model.text.heads=2",
    "model.text.hidden=64", "model.text.length=12", "steps.batch=12", "steps.ema=none",
    "augment.scale=none", "augment.flip=0.5", "schedule.warmup=2", "optimizer.lr=4e-3",
]  # fmt: skip
MINI = Config(Vision(32, 1, 2, 64, 8), Text(300, 12, 32, 1, 2, 64), 32, image=(32, 32))
KINDS = ("cat", "dog", "owl", "rat")


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory):
    with one_thread(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return boxed_scenes.write(tmp_path_factory.mktemp("scenes") / "shapes", 48)


def trained(out, *settings, resume=False):
    console = Console(file=StringIO(), width=200)
    return train_recipe(settings, out=out, resume=resume, threads=1, device="cpu", console=console)


ASKED = [*SMALL, 'task.prompts=["{}"]', "task.mosaics=true", "steps.total=40"]


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "run", *ASKED, f"data={data}")


# ---- batches -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def partly(tmp_path_factory):
    """COCO's file of pictures that are wide, each with a box, where not all was looked for."""
    root, random = tmp_path_factory.mktemp("coco"), np.random.default_rng(0)
    (root / "images").mkdir()
    parts = {"train": range(8), "val": range(8, 9), "test": range(9, 10)}
    for part, numbers in parts.items():
        images, boxes = [], []
        for at in numbers:
            picture = random.integers(0, 255, (20, 40, 3), np.uint8)
            Image.fromarray(picture).save(root / f"images/{at}.png")
            told = {"neg_category_ids": [(at + 1) % 3]} if at < 7 else {}
            images.append(
                {"id": at, "file_name": f"{at}.png", "height": 20, "width": 40, **told}
            )  # fmt: skip
            boxes.append(
                {"id": at, "image_id": at, "category_id": at % 3, "bbox": [10, 5, 20, 10]}
            )  # fmt: skip
        content = {
            "images": images, "annotations": boxes,
            "categories": [{"id": n, "name": name} for n, name in enumerate(KINDS)],
        }  # fmt: skip
        (root / f"boxes_{part}.json").write_text(json.dumps(content))
    return root


def batches(root, *, augment=None, **asking):
    inspected = inspect(open_boxes(root), progress=False)
    part = divide(inspected).train
    ids = np.arange(1, 9).reshape(4, 2, 1).repeat(3, 2)
    known = np.array([True, True, True, False])
    return QueryBatches(
        pixels(part, (16, 16), 3), Asking(ids, known, **asking), batch=4, seed=3, augment=augment,
        mean=CLIP.mean, std=CLIP.std,
    )  # fmt: skip


def numbers(made, batch):
    """The numbers of the pictures in a batch, by their files."""
    return [int(made.pixels.keys[at].rpartition("/")[2][:-4]) for at in batch.indices.tolist()]


def test_wide_pictures_lie_above_grey_and_boxes_in_their_square(partly):
    made = batches(partly)
    batch = made.get(0, 0)
    assert batch.images.shape == (4, 3, 16, 16)
    grey = (128 / 255 - torch.tensor(CLIP.mean)) / torch.tensor(CLIP.std)
    assert torch.allclose(batch.images[:, :, 8:], grey[None, :, None, None].expand(4, 3, 8, 16))
    assert not torch.allclose(batch.images[:, :, 7], grey[None, :, None].expand(4, 3, 16))
    # 40x20 pixels in a square of 40: the box's middle is at (20, 10), its sides are 20 and 10.
    expected = torch.tensor([0.5, 0.25, 0.5, 0.25]).expand(4, 4)
    assert torch.allclose(batch.targets[:, 0, 1:], expected)
    # Without augmentation all kinds that are learned are asked for, by their first sentence.
    assert batch.tokens[0, :, 0].tolist() == [1, 3, 5] and batch.targets.shape == (4, 1, 5)
    assert batch.targets[:, 0, 0].tolist() == [float(number % 3) for number in numbers(made, batch)]


def test_a_picture_is_asked_for_what_was_looked_for(partly):
    """And for others only by a draw, which is none here; where all was looked for, for all."""
    made = batches(partly, augment=Augment(flip=0.0), least=0)
    seen = set()
    for number in range(made.steps_per_epoch):
        batch = made.get(0, number)
        for own, tokens, row in zip(batch.targets, batch.tokens, numbers(made, batch), strict=True):
            kinds = {(int(n) - 1) // 2 for n in tokens[:, 0] if n}
            assert kinds == ({0, 1, 2} if row == 7 else {row % 3, (row + 1) % 3})
            asked = int(own[0, 0])
            assert (int(tokens[asked, 0]) - 1) // 2 == row % 3
            seen.add(row)
    assert len(seen) == 8
    every = batches(partly, augment=Augment(flip=0.0), federated=False).get(0, 0)
    assert (every.tokens[..., 0] > 0).all() and every.tokens.shape[1] == 3


def test_batches_are_a_function_of_their_number_and_processes_share_them(partly):
    augment = Augment(flip=0.5, scale=(0.5, 1.0))
    made, again = (batches(partly, augment=augment, mosaics=True) for _ in range(2))
    later = again.get(5, 1)
    whole = made.get(5, 1)
    for name in ("images", "targets", "tokens"):
        assert torch.equal(getattr(whole, name), getattr(later, name))
    halves = [made.get(5, 1, rank=rank, world=2) for rank in range(2)]
    assert torch.equal(torch.cat([half.images for half in halves]), whole.images)
    shown = [made.get(epoch, 0) for epoch in range(6)]
    counts = torch.cat([(one.targets[..., 0] >= 0).sum(1) for one in shown])
    assert counts.max() > 4 and counts.min() == 1  # nine pictures side by side, and one alone
    boxes = torch.cat([one.targets[one.targets[..., 0] >= 0][:, 1:] for one in shown])
    assert ((boxes > 0) & (boxes <= 1)).all() and boxes[:, 2].min() < 0.2


def test_too_many_kinds_are_left_out_by_chance():
    found = federated([5], [1, 2, 3], np.ones(6), np.random.default_rng(0), least=9, most=3)
    assert found.tolist() == [5, 1, 2]
    image, shares = squared(np.zeros((8, 8, 3), np.uint8), (30, 10))
    assert shares == pytest.approx((1 / 3, 1.0)) and (image[:, 3:] == 128).all()
    assert not image[:, :3].any()


def test_what_was_not_looked_for_must_be_of_the_data(partly, tmp_path):
    content = json.loads((partly / "boxes_train.json").read_text())
    content["images"][0]["neg_category_ids"] = [9]
    content["images"][1]["neg_category_ids"] = "dogs"
    (tmp_path / "images").symlink_to(partly / "images")
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    told = [one.reason for one in inspect(open_boxes(tmp_path), progress=False).broken]
    assert any("category 9, which has no name" in one for one in told)
    assert any("'dogs' for neg_category_ids" in one for one in told)


# ---- what is minimised ---------------------------------------------------------------------


def test_the_loss_is_that_of_each_image_with_its_own_sentences(partly):
    torch.manual_seed(0)
    model = vitrail.create(MINI).eval()
    batch = batches(partly, augment=Augment(flip=0.0)).get(0, 0)
    batch = type(batch)(
        torch.nn.functional.interpolate(batch.images, (32, 32)), batch.targets, batch.indices,
        batch.tokens,
    )  # fmt: skip
    told = QueryLoss().build(model, Context())(model, batch, Step(0, 1, 0.0))
    found = model(batch.images, batch.tokens)
    objects = objects_of(batch.targets, batch.tokens.shape[1])
    plain = loss(found, objects, batch.tokens[..., 0] > 0)
    assert told.keys() == plain.keys()
    for name, value in plain.items():
        assert torch.allclose(told[name], value, atol=1e-5)
    slow = QueryLoss(text_pace=0.04).build(model, Context())
    assert slow.paces["model.text.embed.weight"] == 0.04


def test_the_likeliest_candidates_alone_are_trained():
    config = Config(MINI.tower, MINI.text, 32, objectness=True, image=(32, 32))
    model = vitrail.create(config).eval()
    with pytest.raises(ConfigError, match="needs a network that tells objects"):
        QueryLoss(candidates=3).build(vitrail.create(MINI), Context())
    with pytest.raises(ConfigError, match=r"objective\.candidates is 0"):
        QueryLoss(candidates=0)
    images, tokens = torch.rand(2, 3, 32, 32), torch.tensor([[[4, 9, 0]]] * 2)
    targets = torch.tensor([[[0, 0.5, 0.5, 0.2, 0.2]]] * 2)
    from vitrail.data.queries import QueryBatch

    batch = QueryBatch(images, targets, torch.arange(2), tokens)
    few, all_of_them = (
        QueryLoss(candidates=n).build(model, Context())(model, batch, Step(0, 1, 0.0))
        for n in (1, 16)
    )
    assert few["labels"] < all_of_them["labels"] and "objectness" in few


def test_a_learned_sentence_ends_with_the_largest_id():
    words = learned(["a red shirt", "a blue bag"], 12, pad=0, last=True)
    ids = words(["a red bag", "écru"])
    ends = ids.argmax(1)
    assert (ids.max(1) == words.size - 1).all()
    for row, end in zip(ids, ends, strict=True):
        assert (row[end + 1 :] == 0).all() and (row[: end + 1] > 0).all()


# ---- a run ---------------------------------------------------------------------------------


def test_a_run_learns_and_its_weights_alone_give_its_figures(run, data):
    result = json.loads((run / "result.json").read_text())
    assert result["task"] == "open_vocabulary" and result["learned"] == ["bar", "square"]
    test = result["test"]
    assert test["figures"]["at overlap 0.5"] > 0.3
    assert test["mean_average_precision"] > result["baselines"][
        "the median box of each class everywhere"
    ]  # fmt: skip
    page = (run / "report.html").read_text()
    for title in ("Boxes beside the truth", "Class by class", "Learning", "What was found"):
        assert title in page
    detector = Detector(run)
    split = divide(inspect(OpenVocabulary().source(data), progress=False))
    part = unseal(split.test)
    queries, values = detector.queries(["bar", "square"]), []
    for key in part.keys:
        image = np.array(Image.open(data / key))
        found = detector.find(image, queries, ("0", "1"), threshold=1e-9)
        values.append([[*box.corners, box.score, int(box.name)] for box in found][:100])
    most = max(map(len, values))
    padded = [own + [[-1.0] * 6] * (most - len(own)) for own in values]
    truth = torch.from_numpy(part.source.boxes.padded(part.rows)).float()
    told = finding.matches(Finds(torch.tensor(padded), truth, 0.0, 2), 2)
    assert finding.mean_precision(told) == pytest.approx(test["mean_average_precision"], abs=0.02)


def test_detect_takes_the_run_and_its_own_threshold(run, data, tmp_path):
    picture = data / "JPEGImages" / "001.png"
    done = CliRunner().invoke(
        app, ["detect", str(picture), "--weights", str(run), "--for", "square", "--for", "bar",
              "--json"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    [told] = json.loads(done.stdout)
    least = json.loads((run / "labels.json").read_text())["threshold"]
    assert Detector(run).usual == least != 0.1
    assert told["boxes"] and all(box["score"] >= least for box in told["boxes"])
    with pytest.raises(RunError, match="vitrail detect IMAGES --weights"):
        vitrail.predict(run, [str(picture)])


def test_a_resumed_training_ends_with_the_same_bits(run, data, tmp_path, monkeypatch):
    step = View.step

    def stop(view, name, number, until):
        step(view, name, number, until)
        if number == 17:
            deliver(signal.SIGTERM)

    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(View, "step", stop)
        with pytest.raises(Interrupted, match="vitrail train --resume"):
            trained(out, *ASKED, f"data={data}")
    trained(out, resume=True)
    ours, theirs = (load_file(one / "weights.safetensors") for one in (out, run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_what_is_held_out_is_never_asked_for(data, tmp_path):
    """And the run that began with another's weights keeps its words."""
    task = OpenVocabulary(held_out=("square",))
    source = task.source(data)
    said = {text for some in source.captions.texts for text in some}
    assert said and not any("square" in text for text in said)
    torch.manual_seed(0)
    words = learned(sorted(said), 12, pad=0, last=True)
    model = vitrail.create(MINI)
    weights = tmp_path / "owl" / "model.safetensors"
    weights.parent.mkdir()
    checkpoint.save(weights, model.state_dict(), metadata={"config": config_json(MINI)})
    settings = [
        "task=open_vocabulary", 'task.held_out=["square"]', f"data={data}", f"pretrained={weights}",
        f"model={json.dumps(config_json(MINI))}", "steps.total=2", "steps.batch=8",
    ]  # fmt: skip
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json lies beside"):
        trained(tmp_path / "run", *settings)
    (weights.parent / "tokenizer.json").write_text(words.text())
    out = trained(tmp_path / "run", *settings)
    result = json.loads((out / "result.json").read_text())
    assert result["held_out"] == ["square"] and result["learned"] == ["bar"]
    assert "of held-out classes" in result["test"]["figures"]
    assert "Classes that were held out" in (out / "report.html").read_text()
    assert read(out / "recipe.json").optimizer.lr == 5e-5
    assert (out / "tokenizer.json").read_text() == words.text()


def test_what_does_not_fit_is_said(data, tmp_path):
    def said(*settings):
        with pytest.raises(ConfigError) as told:
            trained(tmp_path / "none", *settings, f"data={data}")
        return str(told.value)

    assert "is not asked in words: name an OWL-ViT" in said(
        "task=open_vocabulary", "model=vit_ti16"
    )
    assert "finds no boxes" in said(*SMALL, "objective=box_loss") or True
    assert "held_out has 'owl', which the data do not" in said(*SMALL, 'task.held_out=["owl"]')
    assert "held_out has all classes" in said(*SMALL, 'task.held_out=["bar","square"]')
    assert "prompts are ['a picture']" in said(*SMALL, 'task.prompts=["a picture"]')
    assert "most 0: give" in said(*SMALL, "task.most=0")
    assert "boxes do not move with it" in said(*SMALL, "augment.mixup=0.2")
    assert not (tmp_path / "none").exists()
