"""Figures of masks, their loss, and the colours that they are drawn in, against plain counts."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from support import composites

from vitrail.data.composites import Composites, compose, write
from vitrail.data.labels import Labels
from vitrail.data.masks import IGNORE
from vitrail.data.opening import open_boxes
from vitrail.engines.masks import Overlap, likeliest
from vitrail.errors import ConfigError
from vitrail.objectives import PixelCrossEntropy
from vitrail.objectives.context import Context
from vitrail.report.masks import colours, index_png, over
from vitrail.tasks import maps
from vitrail.training.objective import Step


def drawn(n=3, side=7, classes=4, seed=0):
    random = np.random.default_rng(seed)
    answers, truth = random.integers(0, classes, (2, n, side, side))
    truth[random.random(truth.shape) < 0.2] = IGNORE
    return torch.from_numpy(answers), torch.from_numpy(truth)


def test_counts_are_those_of_single_pixels():
    answers, truth = drawn()
    counts, confusion = maps.counted(answers, truth, 4)
    slow, table = np.zeros((3, 3, 4), int), np.zeros((4, 4), int)
    for i, (said, true) in enumerate(zip(answers.tolist(), truth.tolist(), strict=True)):
        for said_row, true_row in zip(said, true, strict=True):
            for a, t in zip(said_row, true_row, strict=True):
                if t != IGNORE:
                    slow[i, maps.HITS, t] += a == t
                    slow[i, maps.SAID, a] += 1
                    slow[i, maps.TRUE, t] += 1
                    table[t, a] += 1
    assert counts.tolist() == slow.tolist() and confusion.tolist() == table.tolist()


def test_the_mean_is_over_classes_that_are_there():
    truth = torch.tensor([[[0, 0, 1, 1]]])
    answer = torch.tensor([[[0, 1, 1, 1]]])
    counts, _ = maps.counted(answer, truth, 4)
    assert float(maps.mean_overlap(counts.sum(0))) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert maps.pixel_accuracy(counts) == 0.75
    # A class that is answered and never true counts as missed.
    counts, _ = maps.counted(torch.tensor([[[0, 0, 1, 3]]]), truth, 4)
    assert float(maps.mean_overlap(counts.sum(0))) == pytest.approx((1 + 1 / 2 + 0) / 3)


def test_a_constant_answer_is_counted_without_its_masks():
    _, truth = drawn(seed=3)
    counts, _ = maps.counted(truth.clamp(max=3), truth, 4)
    expected, _ = maps.counted(torch.full_like(truth, 2), truth, 4)
    assert torch.equal(maps.of_constant(counts, 2), expected)


def test_the_interval_holds_the_mean_and_narrows_with_images():
    widths = []
    for n in (8, 200):
        answers, truth = drawn(n, seed=n)
        keep = torch.rand(truth.shape, generator=torch.Generator().manual_seed(0)) < 0.6
        counts, _ = maps.counted(torch.where(keep, truth.clamp(max=3), answers), truth, 4)
        main = float(maps.mean_overlap(counts.sum(0)))
        found = maps.interval(main, maps.Resampled(n).means(counts))
        assert found.low <= main <= found.high
        widths.append(found.high - found.low)
    assert widths[1] < widths[0] / 2


def test_the_overlap_of_files_is_that_of_all_pixels():
    overlap = Overlap(3)
    one, other = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    overlap.add(one, other)
    overlap.add(other, other)
    assert overlap.mean == pytest.approx((2 / 3 + 5 / 6) / 2)


def test_scores_are_enlarged_before_the_likeliest_is_taken():
    scores = torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]])
    assert likeliest(scores, (1, 2)).tolist() == [[[0, 1]]]
    assert likeliest(scores, (1, 8)).tolist() == [[[0, 0, 0, 1, 1, 1, 1, 1]]]


# ---- loss ------------------------------------------------------------------------------


class Fixed:
    """A batch and a model that answers with given scores."""

    def __init__(self, scores, targets):
        self.images, self.targets, self.scores = scores, targets, scores

    def __call__(self, images):
        return self.scores


def loss_of(value, scores, targets, counts=(1, 1, 1, 1)):
    made = value.build(torch.nn.Identity(), Context(tuple("abcd"), counts, 9))
    batch = Fixed(scores, targets)
    return made(batch, batch, Step(0, 0, 10))["loss"]


def test_the_loss_is_the_mean_over_labelled_pixels():
    scores = torch.randn(3, 4, 7, 7, generator=torch.Generator().manual_seed(0)).double()
    _, targets = drawn()
    picked = [
        -scores.log_softmax(1)[i, targets[i, y, x], y, x]
        for i, y, x in (targets != IGNORE).nonzero().tolist()
    ]
    assert loss_of(PixelCrossEntropy(), scores, targets) == pytest.approx(sum(picked) / len(picked))
    nothing = torch.full_like(targets, IGNORE)
    assert loss_of(PixelCrossEntropy(), scores, nothing) == 0


def test_balanced_the_rarest_class_weighs_most():
    scores = torch.zeros(1, 4, 1, 2).double()
    scores[0, 0] = 3.0
    targets = torch.tensor([[[0, 3]]])
    plain = loss_of(PixelCrossEntropy(), scores, targets)
    balanced = loss_of(PixelCrossEntropy(balance=1.0), scores, targets, (9, 9, 9, 1))
    assert balanced > plain
    with pytest.raises(ConfigError):
        PixelCrossEntropy(balance=2.0)


# ---- pictures --------------------------------------------------------------------------


def test_masks_are_written_as_indices_and_drawn_over_images():
    image, mask = composites.picture(1)
    read = Image.open(io.BytesIO(index_png(mask, composites.NAMES)))
    assert read.mode == "P" and np.array_equal(np.array(read), mask)
    drawn_over = over(image, mask, composites.NAMES)
    far = mask == 0
    assert np.array_equal(drawn_over[far], image[far])
    assert (drawn_over[mask == 1] != image[mask == 1]).any()
    shades = colours([f"class {i}" for i in range(12)])
    assert len(set(shades)) == 12


def test_composites_are_the_same_for_the_same_seed():
    cut = [np.full((2, 28, 28), 200, np.uint8)] * 2
    what = Composites(4, (40, 48), kinds=2, least=2, most=2)
    pairs = [compose(cut, what, np.random.default_rng(5)) for _ in range(2)]
    assert all(np.array_equal(*both) for both in zip(*pairs, strict=True))
    image, mask = pairs[0]
    assert image.shape == (40, 48, 3) and set(np.unique(mask)) <= {0, 1, 2} and mask.any()
    with pytest.raises(ConfigError):
        replace(what, kinds=11)


def test_composites_of_garments_say_masks_and_boxes(tmp_path):
    """The box of what is seen, by the mask of a picture in which nothing overlaps."""
    what = Composites(3, (48, 64), kinds=3, least=1, most=1)
    masks = write(tmp_path / "masks", what)
    boxes = write(tmp_path / "boxes", what, boxes=True)
    told = json.loads((boxes / "boxes.json").read_text())
    assert [one["name"] for one in told["categories"]] == ["T-shirt/top", "Trouser", "Pullover"]
    for own in told["annotations"]:
        name = f"{own['image_id']:05}.png"
        mask = np.array(Image.open(masks / "masks" / name)) == own["category_id"] + 1
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x, y, w, h = own["bbox"]
        assert (x, x + w) == (columns[0], columns[-1] + 1)
        assert (y, y + h) == (rows[0], rows[-1] + 1)
        same = [(root / "images" / name).read_bytes() for root in (masks, boxes)]
        assert same[0] == same[1]
    assert len(told["annotations"]) == 3
    assert open_boxes(boxes).classes == ("T-shirt/top", "Trouser", "Pullover")


def test_cut_outs_lie_on_pictures(tmp_path):
    for kind, colour in (("cup", (250, 0, 0)), ("leaf", (0, 250, 0))):
        (tmp_path / "things" / kind).mkdir(parents=True)
        values = np.zeros((20, 30, 4), np.uint8)
        values[5:15, 10:20] = (*colour, 255)
        Image.fromarray(values).save(tmp_path / "things" / kind / "one.png")
    (tmp_path / "grounds").mkdir()
    Image.fromarray(np.full((30, 90, 3), 9, np.uint8)).save(tmp_path / "grounds" / "one.jpg")
    what = Composites(4, (64, 64), least=2, most=4)
    things, grounds = tmp_path / "things", tmp_path / "grounds"
    root = write(tmp_path / "made", what, cutouts=things, canvases=grounds)
    assert (root / "classes.txt").read_text().split() == ["background", "cup", "leaf"]
    seen = set()
    for number in range(4):
        image, mask = (
            np.array(Image.open(root / name / f"{number:05}.png")) for name in ("images", "masks")
        )
        assert (image[mask == 1][:, 0] > 200).all() and (image[mask == 2][:, 1] > 200).all()
        assert (image[mask == 0] < 30).all()
        seen |= set(np.unique(mask).tolist())
    assert seen == {0, 1, 2}
    with pytest.raises(ConfigError, match="has no pictures: give a folder"):
        write(tmp_path / "none", what, cutouts=grounds, canvases=grounds)
    with pytest.raises(ConfigError, match="canvases has no pictures"):
        write(tmp_path / "none", what, cutouts=things)


def test_labels_of_masks_say_so_and_others_are_as_before():
    told = Labels(("a", "b"), (8, 8), 3, (0.5,) * 3, (0.25,) * 3)
    assert "maps" not in told.to_json()
    assert replace(told, maps=True).to_json()["maps"] is True
