"""Objectives without labels: their authors' figures, and what must hold of each."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import golden

import vitrail
from vitrail.config import parse, to_json
from vitrail.data.batches import Batch
from vitrail.errors import CheckpointError, ConfigError
from vitrail.layers.attention import Attention
from vitrail.objectives import AttMask, Dino, Ibot, Mae, Sit
from vitrail.objectives.authors import load_authors, to_authors
from vitrail.objectives.context import Context
from vitrail.objectives.parts import masks
from vitrail.objectives.parts.corruption import group_mask, rectangles
from vitrail.objectives.parts.crops import Crops
from vitrail.objectives.parts.distilled import Teaching
from vitrail.objectives.parts.draws import uniform
from vitrail.objectives.parts.tokens import read
from vitrail.objectives.parts.views import View, draw_for, make_view
from vitrail.objectives.sit import painting_loss, turn, twin_loss
from vitrail.recipes.recipe import Data, Recipe, amend
from vitrail.training.learner import Learner
from vitrail.training.objective import Step
from vitrail.training.steps import Steps

NOW = Step(3, 10, 0.1, 7)
COLOUR = Context(mean=(0.5,) * 3, std=(0.25,) * 3)
SMALL = {"image": (32, 32), "patch": 8, "dim": 32, "depth": 2, "heads": 2, "hidden": 64}
FEW = Teaching(outputs=16, hidden=32)
CROPS = Crops(number=2, size=16)
METHODS = {
    "sit": Sit(hidden=32),
    "sit_v1": Sit(version=1),
    "attmask": AttMask(crops=CROPS, teaching=FEW),
    "hint": AttMask("hint", crops=CROPS, teaching=FEW),
    "random": AttMask("random", crops=CROPS, teaching=FEW),
    "ibot": Ibot(crops=CROPS, teaching=FEW),
    "dino": Dino(crops=CROPS, teaching=FEW),
    "mae": Mae(dim=32, depth=1, heads=2),
}


def learner_of(value, *, model="deit_tiny", context=COLOUR, **changes):
    torch.manual_seed(0)
    if isinstance(value, Sit) and value.version == 1 and model == "deit_tiny":
        model = "deit_tiny_distilled"
    backbone = vitrail.create(model, classes=0, **{**SMALL, **changes})
    return Learner(backbone, value.build(backbone, context))


def batch_of(n=4, side=32, begin=0):
    images = torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1))
    return Batch(images, torch.zeros(n, 0), torch.arange(begin, begin + n))


def recorded(name, value):
    """A golden and the learner with its weights, in float64."""
    expected = golden.read(golden.FOLDER / "blocks" / f"{name}.json")
    learner = learner_of(value, image=(64, 64), patch=16, dim=192, depth=12, heads=3, hidden=768)
    learner = learner.double().eval()
    return expected, load_authors(learner, golden.state(expected)), golden.image([4, 3, 64, 64])


def agrees(found, expected, *names):
    for name in names:
        assert golden.deviation(found[name], expected["outputs"][name]) <= 1e-6, name


# ---- what the authors' code computes ---------------------------------------------------


def test_the_second_sit_is_its_authors():
    expected, learner, images = recorded("sit_tiny_64", Sit())
    model, sit = learner.model, learner.objective
    mask = images > 0.5
    with torch.no_grad():
        cls, painted = sit.student(model, images.masked_fill(mask, 0))
        taught = sit.taught(images.flip(3))
        found = {
            "cls": cls,
            "reconstruction": painted,
            "contrastive_loss": sit.contrast(cls, taught),
            "reconstruction_loss": painting_loss(painted, images, mask),
        }
    agrees(found, expected, *found)


def test_the_first_sit_is_its_authors():
    expected, learner, images = recorded("sit_v1_tiny_64", Sit(version=1))
    model, sit = learner.model, learner.objective
    mask = images > 0.5
    with torch.no_grad():
        rotation, projected, painted = sit.student(model, images.masked_fill(mask, 0))
        terms = {
            "rotation": torch.nn.functional.cross_entropy(rotation, torch.arange(4)),
            "contrast": twin_loss(*projected.chunk(2)),
            "painting": painting_loss(painted, images, mask),
        }
        weighted = sit.weighted(terms)
    names = {"rotation": "rotation", "contrast": "contrastive", "painting": "reconstruction"}
    found = {f"{names[n]}_loss": value for n, value in terms.items()}
    found |= {f"{names[n]}_loss_weighted": value for n, value in weighted.items()}
    found |= {"rotation_logits": rotation, "contrastive": projected, "reconstruction": painted}
    agrees(found, expected, *found)


def test_attmask_is_its_authors():
    value = AttMask(ratio=0.4, spread=0.0, masked=1.0, teaching=Teaching(outputs=512))
    expected, learner, images = recorded("attmask_high_tiny_64", value)
    model, objective = learner.model, learner.objective
    with torch.no_grad():
        seen, answers = objective.asked(images)
        mask = value.choose(seen.attention, (4, 4), torch.arange(2), NOW)
        student = read(model, images, mask=mask, token=objective.token)
        said = objective.head(torch.cat([student.pooled[:, None], student.patches], 1))
        objective.train()
        step = Step(0, 100, 10.0, 7)
        terms = objective.compare(model.eval(), images, None, torch.arange(2), step)
    found = {
        "cls_attention": seen.attention,
        "mask": mask.double(),
        "student_cls": said[:, 0],
        "student_patch": said[:, 1:],
        "teacher_cls": answers[:, 0],
        "teacher_patch": answers[:, 1:],
        "loss_cls": terms["class"],
        "loss_patch": terms["patch"],
        "center_cls": objective.centre,
        "center_patch": objective.patch_centre,
    }
    agrees(found, expected, *found)


@pytest.mark.parametrize("method", ["sit", "sit_v1", "attmask"])
def test_authors_names_go_both_ways(method, tmp_path):
    learner, other = learner_of(METHODS[method]), learner_of(METHODS[method])
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.normal_()
    theirs = to_authors(learner)
    load_authors(other, theirs)
    for name, value in learner.state_dict().items():
        if not name.endswith(("tracked", "position", "token")):
            torch.testing.assert_close(other.state_dict()[name], value)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            other.model.eval().embedding(images), learner.model.eval().embedding(images)
        )
    # The kept backbone alone loads from the same file, as published ones do.
    kept = learner.objective.kept(learner.model).eval()
    alone = {n: v for n, v in theirs.items() if n.startswith("teacher.")} or theirs
    bare = {n.removeprefix("teacher.").removeprefix("student."): v for n, v in alone.items()}
    torch.save({"epoch": 3, "teacher": bare}, tmp_path / "theirs.pth")
    found = vitrail.load(learner.model.config, tmp_path / "theirs.pth")
    with torch.no_grad():
        torch.testing.assert_close(found.embedding(images), kept.embedding(images))


def test_a_foreign_training_is_refused():
    learner = learner_of(METHODS["attmask"])
    theirs = to_authors(learner)
    theirs.pop("teacher.head.mlp.0.bias")
    with pytest.raises(CheckpointError, match=r"mlp\.0\.bias"):
        load_authors(learner, theirs)
    with pytest.raises(ConfigError, match="no authors' names"):
        to_authors(learner_of(METHODS["mae"]))


# ---- what holds of each ----------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_everything_trained_gets_a_gradient(method):
    learner = learner_of(METHODS[method]).train()
    terms = learner(batch_of(8), Step(0, 10, 2.0, 7))
    terms["loss"].backward()
    assert all(torch.isfinite(term) for term in terms.values())
    bare = {n for n, p in learner.named_parameters() if p.requires_grad and p.grad is None}
    assert not bare
    teachers = [p for n, p in learner.named_parameters() if ".teacher." in n]
    assert all(p.grad is None and not p.requires_grad for p in teachers)


@pytest.mark.parametrize("method", METHODS)
def test_a_step_is_a_function_of_step_and_images(method):
    """Losses do not depend on the global generator, unless noise or drop-path is asked for."""
    learner = learner_of(METHODS[method], drop_path=0.0).train()
    losses = []
    for seed, number in ((1, 3), (2, 3), (2, 4)):
        torch.manual_seed(seed)
        step = NOW._replace(number=number)
        one = deepcopy(learner)
        losses.append(float(one(batch_of(8), step)["loss"].detach()))
    assert losses[0] == losses[1] != losses[2]


def test_a_teacher_follows():
    learner = learner_of(METHODS["attmask"])
    objective, before = learner.objective, learner.model.norm.weight.detach().clone()
    with torch.no_grad():
        learner.model.norm.weight.add_(1)
    objective.after_step(learner.model, Step(0, 10, 0.0))
    moved = objective.teacher.backbone.norm.weight
    torch.testing.assert_close(moved, before + (1 - 0.996))
    objective.after_step(learner.model, Step(10, 10, 0.0))
    torch.testing.assert_close(moved, before + (1 - 0.996))  # at the end it stands still
    assert objective.kept(learner.model) is objective.teacher.backbone
    assert not objective.train().teacher.backbone.training


def test_the_last_layer_waits():
    learner = learner_of(METHODS["dino"])
    rows = learner.objective.head.rows
    learner(batch_of(4), Step(0, 10, 0.5, 1))["loss"].backward()
    assert rows.grad.abs().max() == 0
    learner(batch_of(4), Step(0, 10, 1.0, 1))["loss"].backward()
    assert rows.grad.abs().max() > 0


def test_any_backbone_learns_by_dino():
    model = vitrail.create("resnet_18", classes=0, image=(32, 32))
    learner = Learner(model, Dino(Crops(number=1), FEW).build(model, COLOUR)).train()
    learner(batch_of(4), NOW)["loss"].backward()
    assert learner.objective.local == (32, 32)  # 3/7 of it is less than the model's stride


def test_the_class_row_is_that_of_the_whole_map():
    torch.manual_seed(0)
    attention = Attention(24, 3).double()
    x = torch.randn(2, 10, 24, dtype=torch.float64)
    torch.testing.assert_close(attention.first(x), attention.weights(x)[:, :, :1])


def test_a_hidden_patch_keeps_its_place():
    model = vitrail.create("vit_ti16", classes=0, **SMALL).eval()
    images, token = torch.randn(1, 3, 32, 32), torch.randn(32)
    mask = torch.zeros(1, 16, dtype=torch.bool)
    mask[0, 5] = True
    with torch.no_grad():
        whole, some = model.embed(images), model.embed.hidden(images, mask, token)
    torch.testing.assert_close(some[0, 6], token + model.embed.position[0, 5])
    torch.testing.assert_close(some[0, :6], whole[0, :6])


# ---- corruption, masks and draws -------------------------------------------------------


def slow_mask(wanted, boxes, size):
    """Rectangle after rectangle, counting pixels one by one."""
    masks_ = []
    for target, rows in zip(wanted.tolist(), boxes.tolist(), strict=True):
        mask = [[False] * size[1] for _ in range(size[0])]
        for top, left, bottom, right in rows:
            for y in range(top, bottom):
                for x in range(left, right):
                    mask[y][x] = True
            if sum(map(sum, mask)) >= target:
                break
        masks_.append(mask)
    return torch.tensor(masks_)


@pytest.mark.parametrize(("size", "align"), [((12, 12), 1), ((16, 24), 4), ((9, 7), 1)])
def test_group_masks_are_those_of_a_loop(size, align):
    drawn = torch.rand(6, 64, 4, generator=torch.Generator().manual_seed(0))
    boxes = rectangles(drawn, size, align)
    wanted = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9, 1.0]) * size[0] * size[1]
    mask = group_mask(wanted, boxes, size)
    assert torch.equal(mask, slow_mask(wanted, boxes, size))
    sides = boxes[..., 2:] - boxes[..., :2]
    assert (sides >= 1).all() and (boxes[..., 2:] <= torch.tensor(size)).all()
    assert (boxes[..., :2] % align == 0).all()
    assert (sides <= torch.tensor([max(align, math.ceil(0.3 * s)) for s in size])).all()


def test_corruption_hides_as_much_as_asked():
    learner = learner_of(Sit(hidden=8))
    images = torch.randn(64, 3, 32, 32)
    value = replace(learner.objective.value.corruption, most=0.6, other=0.2)
    corrupted, mask = value.apply(images, images.roll(1, 0), torch.arange(64), NOW, 0)
    shares = mask.float().mean((1, 2, 3))
    swapped = (corrupted == images.roll(1, 0)).flatten(1).float().mean(1) > 0.1
    assert 16 < swapped.sum() < 48
    # A last rectangle covers at most 0.3 x 0.3 more than is wanted.
    assert (shares[swapped] >= 0.2 - 1e-6).all() and (shares[swapped] < 0.3).all()
    assert (shares[~swapped] >= 0.5 - 1e-6).all() and (shares[~swapped] < 0.7).all()
    assert torch.equal(corrupted[~mask.expand_as(images)], images[~mask.expand_as(images)])


def test_attention_chooses_what_is_hidden():
    attention = torch.rand(6, 20, generator=torch.Generator().manual_seed(0))
    high, low = (masks.attention_mask(attention, 6, lowest=flag) for flag in (False, True))
    assert (high.sum(1) == 6).all() and not (high & low).any()
    assert (
        attention[high]
        .view(6, 6)
        .min(1)
        .values.gt(attention[~high].view(6, 14).max(1).values)
        .all()
    )
    shares = torch.rand(6, 20)
    hinted = masks.hint(high, attention, shares, 0.2, 0.5)  # 2 of the 4 most attended are shown
    assert (hinted.sum(1) == 4).all() and not (hinted & ~high).any()
    top = attention.argsort(1, descending=True)[:, :4]
    assert (hinted.gather(1, top).sum(1) == 2).all()


def test_the_number_of_hidden_patches_is_one_for_the_batch():
    value = AttMask("random", masked=0.5)
    mask = value.choose(None, (6, 6), torch.arange(200), NOW)
    counts = set(mask.sum(1).tolist())
    assert len(counts) == 2 and 0 in counts and 3 <= max(counts) <= 18
    assert 150 < (mask.sum(1) > 0).sum() < 250
    everyone = replace(value, masked=1.0).choose(None, (6, 6), torch.arange(200), NOW)
    assert set(everyone.sum(1).tolist()) == {max(counts)}


def test_blocks_are_rectangles_up_to_a_number():
    random = np.random.default_rng(0)
    for count in (0, 10, 40, 90):
        mask = masks.block_mask((14, 14), count, random)
        assert mask.sum() <= count and mask.sum() >= 0.6 * count
        inside = mask & np.roll(mask, 1, 0) | mask & np.roll(mask, 1, 1)
        assert not count or inside.sum() > 0.5 * mask.sum()


def test_draws_belong_to_images():
    whole = uniform(torch.arange(1000), NOW, 5, 3)
    assert torch.equal(uniform(torch.arange(400, 500), NOW, 5, 3), whole[400:500])
    assert not torch.equal(uniform(torch.arange(1000), NOW, 6, 3), whole)
    assert not torch.equal(uniform(torch.arange(1000), NOW._replace(number=4), 5, 3), whole)
    assert whole.min() >= 0 and whole.max() < 1
    assert whole.mean().item() == pytest.approx(0.5, abs=0.02)
    assert whole.var().item() == pytest.approx(1 / 12, rel=0.06)
    assert abs(np.corrcoef(whole.T.numpy())[0, 1]) < 0.1


def test_views_of_a_share_are_those_of_the_batch():
    pixels = torch.rand(6, 3, 20, 24)
    view = View((0.2, 0.8), blur=0.5, solarise=0.5)
    drawn = draw_for(torch.arange(6), NOW, 0)
    whole = make_view(pixels, view, (10, 12), drawn)
    part = make_view(pixels[2:4], view, (10, 12), drawn[2:4])
    torch.testing.assert_close(part, whole[2:4], atol=1e-5, rtol=1e-5)
    assert whole.shape == (6, 3, 10, 12) and whole.min() >= 0 and whole.max() <= 1
    plain = View((1.0, 1.0), flip=0.0, jitter=(0, 0, 0, 0), grey=0.0)
    drawn[:, 1] = 0.5  # no stretch
    torch.testing.assert_close(make_view(pixels, plain, (20, 24), drawn), pixels)
    mirrored = make_view(pixels, replace(plain, flip=1.0), (20, 24), drawn)
    torch.testing.assert_close(mirrored, pixels.flip(3), atol=1e-5, rtol=1e-5)


def test_quarter_turns():
    images = torch.rand(4, 1, 5, 5)
    turned = turn(images, torch.arange(4))
    assert all(torch.equal(turned[k], images[k].rot90(k, (1, 2))) for k in range(4))
    with pytest.raises(ConfigError, match="cannot be turned"):
        turn(torch.rand(4, 1, 5, 6), torch.arange(4))


def test_the_visible_patches_decide_what_mae_paints():
    learner = learner_of(METHODS["mae"]).eval()
    images = torch.randn(2, 3, 32, 32)
    order = torch.stack([torch.randperm(16) for _ in range(2)])
    changed = images.clone()
    y, x = divmod(int(order[0, -1]), 4)
    changed[0, :, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = 3.0
    with torch.no_grad():
        wanted = learner.objective.wanted(images)
        assert wanted.mean(-1).abs().max() < 1e-5
        one, two = (learner.objective.painted(learner.model, i, order) for i in (images, changed))
    assert one != two  # the hidden patch is wanted, and not seen
    learner.objective.wanted = lambda images: torch.zeros_like(wanted)
    with torch.no_grad():
        one, two = (learner.objective.painted(learner.model, i, order) for i in (images, changed))
    assert torch.equal(one, two)


def test_a_temperature_warms_up():
    teaching = Teaching()
    assert teaching.temperature(0.0) == 0.04 and teaching.temperature(50.0) == 0.07
    assert teaching.temperature(10.7) == pytest.approx(0.04 + 0.03 * 10 / 29)


# ---- what does not fit -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["sit", "attmask", "dino", "ibot", "mae"])
def test_no_classifier_is_trained_without_labels(name):
    recipe = Recipe({}, Data("x"), Steps(1, 1))
    with pytest.raises(ConfigError, match=f"vitrail pretrain PICTURES --method {name}"):
        amend(recipe, [f"objective={name}"])


@pytest.mark.parametrize(
    ("value", "model", "said"),
    [
        (METHODS["ibot"], "resnet_18", "ibot hides patches, and ResNet has none"),
        (METHODS["sit"], "resnet_18", "sit hides patches"),
        (METHODS["mae"], "swin_tiny", "mae hides patches"),
        (METHODS["mae"], "beit_b16", "needs all of them"),
        (METHODS["attmask"], "scaling_vit_s16", "attmask needs a class token"),
        (METHODS["sit_v1"], "vit_ti16", "has two class tokens, and ViT has 1"),
        (Dino(Crops(size=500)), "vit_ti16", "larger than the images of 224x224"),
        (Dino(Crops(size=90)), "vit_ti16", "do not fit the model"),
    ],
)
def test_methods_that_do_not_fit(value, model, said):
    backbone = vitrail.create(model, classes=0, **({"depth": 1} if "it_" in model else {}))
    with pytest.raises(ConfigError, match=said):
        value.build(backbone, COLOUR)


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (Sit, {"repaint": -1}, "leave nothing to learn"),
        (Sit, {"momentum": 1}, "momentum"),
        (Sit, {"corruption": {"most": 0}}, "most 0.0"),
        (AttMask, {"ratio": 0.9}, "leaves 0 to 1"),
        (AttMask, {"masked": 2}, "masked 2.0"),
        (Ibot, {"spread": 0.5}, "leaves 0 to 1"),
        (Dino, {"teaching": {"outputs": 1}}, "outputs 1"),
        (Dino, {"teaching": {"cold": 0}}, "cold 0.0"),
        (Dino, {"crops": {"number": -1}}, "number -1"),
        (Dino, {"crops": {"local": {"scale": [0.5, 0.1]}}}, "scale"),
        (Mae, {"ratio": 1}, "ratio 1.0"),
        (Mae, {"dim": 100}, "decoder"),
    ],
)
def test_impossible_settings(kind, values, said):
    with pytest.raises(ConfigError, match=said):
        parse(kind, values, "objective")
    assert parse(kind, to_json(kind())) == kind()
