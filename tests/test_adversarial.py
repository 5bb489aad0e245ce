"""Attacks and the objectives that train on them: the authors' figures, balls, radius, modes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support import golden, toy
from support.pictures import write_classes
from torch import nn

import vitrail
from vitrail.attacks import (
    PGD,
    Ball,
    auto_pgd,
    cross_entropy,
    difference_of_logits,
    gradient,
)
from vitrail.attacks.auto_pgd import checkpoints
from vitrail.cli import main
from vitrail.config import parse, to_json
from vitrail.errors import ConfigError
from vitrail.layers.normal import Normal
from vitrail.models.xcit import Config
from vitrail.objectives import Adversarial, Trades
from vitrail.objectives.adversarial import growing
from vitrail.objectives.context import Context
from vitrail.recipes.recipe import Data, Recipe, amend
from vitrail.training.learner import Learner
from vitrail.training.loop import Place, Plan, train
from vitrail.training.objective import Step
from vitrail.training.optimizer import AdamW
from vitrail.training.schedule import Schedule

NOW = Step(0, 10, 0.0)
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
MINI = Config(dim=64, depth=4, heads=4, strides=(1, 1, 2, 2), classes=10, image=(32, 32))
Batch = type(toy.batches(8).get(0, 0))


def authors(name):
    """A golden, its model, and a batch of its pixels in [0, 1], normalised."""
    expected = golden.read(golden.FOLDER / "blocks" / f"{name}.json")
    state, kind = golden.state(expected), torch.float64
    model = vitrail.load(MINI, state, source="facebookresearch/xcit", dtype=kind)
    pixels = golden.image(expected["input_shape"]).sigmoid()
    images = Normal(MEAN, STD).apply(pixels)
    return expected["outputs"], model, Batch(images, torch.tensor([3, 7]), torch.arange(2))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("robust_xcit_mini_p4_pgd", Adversarial(PGD(steps=3, step=2 / 255))),
        ("robust_xcit_mini_p4_trades", Trades(PGD("linf", 8 / 255, 2, 2 / 255))),
    ],
)
def test_training_on_attacked_images_is_the_authors(name, value):
    expected, model, batch = authors(name)
    objective = value.build(model, Context(mean=MEAN, std=STD))
    # The authors' start is drawn; the golden's is a function of the shape.
    radius, shape = value.attack.radius, list(batch.images.shape)
    objective.start = lambda pixels, bound: bound * golden.image(shape, seed=2).tanh()
    seen = []
    terms = objective(lambda images: seen.append(images.detach()) or model(images), batch, NOW)
    assert terms["radius"].item() == radius
    found = {
        "logits": model(batch.images),
        "perturbation": objective.normal.undo(seen[-1]) - objective.normal.undo(batch.images),
        "logits_adv": model(seen[-1]),
        "loss": terms["loss"],
    }
    assert set(found) == set(expected)
    for what, value in found.items():
        assert golden.deviation(value, expected[what]) <= 1e-6, what


def test_the_radius_grows_as_published():
    found = [4 * growing("linear", epoch, 10) for epoch in range(12)]
    assert found == pytest.approx([0, 0.4, 0.8, 1.2, 1.6, 2, 2.4, 2.8, 3.2, 3.6, 4, 4])
    late = [growing("linear", epoch, 10, 2) for epoch in range(12)]
    assert late == pytest.approx([0, 0, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1, 1])
    assert [growing("sine", epoch, 10) for epoch in (0, 5, 10)] == pytest.approx([0, 0.5, 1])
    assert [growing("constant", epoch, 10, 2) for epoch in (0, 1, 2)] == [0, 0, 1]
    objective = Adversarial(PGD(radius=0.1), warmup=10).build(
        toy.net(), Context(mean=(0.0,), std=(1.0,))
    )
    assert objective.radius(Step(5, 10, 0.0)) == pytest.approx(0.05)
    assert objective.value.attack.length == pytest.approx(0.15)  # that of the full radius


def test_noise_beyond_the_pixels_is_cut_off():
    normal = Normal((0.5,), (0.25,))
    images = torch.tensor([-4.0, -2, 0, 2, 4]).view(1, 1, 1, 5)
    assert normal.undo(images).flatten().tolist() == [0, 0, 0.5, 1, 1]
    torch.testing.assert_close(normal.apply(normal.undo(images[..., 1:4])), images[..., 1:4])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_attack_stays_in_the_ball_and_raises_the_loss(norm):
    model, labels = toy.net(plain=True).double().eval(), torch.arange(8) % 4
    pixels = torch.rand(8, 1, 12, 12, dtype=torch.float64)
    attack = PGD(norm, 0.1 if norm == "linf" else 1.0, steps=5)

    def summed(asked):
        return F.cross_entropy(model(asked), labels, reduction="sum")

    moved = attack.attacked(summed, pixels)
    change = (moved - pixels).flatten(1)
    length = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    assert length.max() <= attack.radius + 1e-12 and length.min() > 0.5 * attack.radius
    assert moved.min() >= 0 and moved.max() <= 1
    assert summed(moved) > summed(pixels)
    strong = auto_pgd(model, pixels, labels, attack, cross_entropy, 20)
    change = (strong - pixels).flatten(1)
    length = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    assert length.max() <= attack.radius + 1e-12 and strong.min() >= 0 and strong.max() <= 1
    each = cross_entropy(model(strong), labels)
    right = model(strong).argmax(1) == labels
    assert (each[right] >= cross_entropy(model(moved), labels)[right] - 1e-3).all()


def test_a_gradient_of_zeros_does_not_move():
    pixels = torch.full((2, 1, 3, 3), 0.5)
    for norm in ("linf", "l2"):
        attack = PGD(norm, 0.2, steps=2)
        start = torch.zeros_like(pixels)
        assert attack.attacked(lambda x: 0 * x.sum(), pixels, start=start).equal(pixels)


def test_the_ball_comes_before_the_pixels_range():
    ball, pixels = Ball("linf", 0.3), torch.tensor([0.9]).view(1, 1, 1, 1)
    assert ball.projected(pixels + 2, pixels, 0.3).item() == 1
    assert ball.projected(pixels - 2, pixels, 0.3).item() == pytest.approx(0.6)
    wide = Ball("l2", 5.0)
    far = wide.projected(pixels.expand(2, 1, 3, 4) + 9, pixels.expand(2, 1, 3, 4), 5.0)
    assert far.max() == 1


def test_a_start_is_inside_and_drawn_anew():
    torch.manual_seed(0)
    attack, pixels = PGD("linf", 0.1), torch.full((4, 1, 9, 9), 0.5)
    one, two = attack.start(pixels, 0.1), attack.start(pixels, 0.1)
    assert not one.equal(two) and one.abs().max() <= 0.1 + 2e-5
    assert PGD("l2", 0.5).start(pixels, 0.5).mean() == pytest.approx(-0.5, abs=0.2)


def test_parameters_get_no_gradient_from_an_attack():
    model = toy.net()
    images = torch.rand(4, 1, 12, 12)
    value, slope = gradient(lambda x: model(x).square().sum(), images)
    assert not value.requires_grad and slope.abs().sum() > 0
    assert all(p.grad is None for p in model.parameters())
    assert not images.requires_grad


def test_mixed_labels_are_attacked_by_their_likeliest_class():
    model = toy.net(plain=True).eval()
    batch = toy.batches(8).get(0, 0)
    objective = Adversarial(PGD(radius=0.1), smoothing=0.0).build(
        model, Context(mean=(0.3,), std=(0.2,))
    )
    objective.start = lambda pixels, radius: torch.zeros_like(pixels)
    shares = 0.7 * F.one_hot(batch.targets, 4).float() + 0.3 / 4
    seen = []

    def watched(images):
        seen.append(images.detach())
        return model(images)

    hard = objective(watched, batch, NOW)["loss"]
    soft = objective(watched, Batch(batch.images, shares, batch.indices), NOW)["loss"]
    assert seen[1].equal(seen[3]) and hard != soft


def test_eval_mode_leaves_statistics_and_comes_back():
    def seen(mode):
        model = toy.net().train()
        model.dropout.eval()
        model.norm.reset_running_stats()
        value = Adversarial(PGD(radius=0.1, steps=3), mode=mode)
        objective = value.build(model, Context(mean=(0.3,), std=(0.2,)))
        objective(model, toy.batches(8).get(0, 0), NOW)
        assert model.training and not model.dropout.training
        return int(model.norm.num_batches_tracked)

    assert (seen("train"), seen("eval")) == (4, 1)


def test_two_heads_are_attacked_together():
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 4)).double()
    batch = toy.batches(8).get(0, 0)
    batch = Batch(batch.images.double(), batch.targets, batch.indices)
    for value in (Adversarial(PGD(radius=0.1)), Trades(PGD(radius=0.1))):
        objective = value.build(model, Context(mean=(0.3,), std=(0.2,)))
        objective.start = lambda pixels, radius: 0.01 * golden.image(list(pixels.shape))
        one = objective(model, batch, NOW)["loss"]
        two = objective(lambda x: (model(x), model(x)), batch, NOW)["loss"]
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("value", [Adversarial(warmup=2), Trades(PGD(radius=0.1, steps=2))])
def test_a_training_that_is_stopped_goes_on_with_the_same_bits(tmp_path, value, lean):
    def trained(folder, until=None, resume=False):
        objective = value.build(toy.net(), Context(mean=(0.3,), std=(0.2,)))
        steps = toy.changed(total=4, lean=lean)
        plan = Plan(AdamW(lr=1e-3), Schedule(1, 1), steps)
        place = Place(folder, device="cpu", until=until, resume=resume)
        return train(Learner(toy.net(), objective), toy.batches(16), plan, place)

    whole = trained(tmp_path / "whole")
    trained(tmp_path / "parts", until=2)
    parts = trained(tmp_path / "parts", resume=True)
    assert math.isfinite(whole.loss) and whole.loss == parts.loss
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert one.equal(other)


# ---- Auto-PGD --------------------------------------------------------------------------


def test_checkpoints_are_those_of_the_paper():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == [] and all(0 < at < 7 for at in checkpoints(7))


def test_auto_pgd_finds_the_worst_point_of_a_linear_model():
    """Whose worst point is known: every pixel at the radius, against the weights."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False)).double()
    labels, pixels = torch.tensor([0, 1]), torch.full((2, 1, 4, 4), 0.5, dtype=torch.float64)
    weight = model[1].weight.detach()
    away = (weight[1] - weight[0]).view(1, 1, 4, 4) * torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    for norm in ("linf", "l2"):
        ball = Ball(norm, 1e-3)
        found = auto_pgd(model, pixels, labels, ball, cross_entropy, 50)
        worst = pixels + ball.radius * ball.direction(away)
        right = model(worst).argmax(1) == labels
        torch.testing.assert_close(found[right], worst[right], atol=1e-6, rtol=0)
        assert (model(found).argmax(1) == labels).equal(right)


def test_an_image_that_was_fooled_once_stays_so():
    """A loss that leads away from the wrong answers must not undo one that was met."""
    calls = []

    def model(pixels):
        calls.append(1)
        wrong = pixels.flatten(1).sum(1) * 0 + (5.0 if len(calls) == 3 else -5.0)
        return torch.stack([-wrong, wrong], 1)

    pixels = torch.full((1, 1, 2, 2), 0.5)
    moved = auto_pgd(model, pixels, torch.tensor([0]), Ball("linf", 0.1), cross_entropy, 6)
    assert not moved.equal(pixels)


def test_the_difference_of_logits_leaves_out_the_scale():
    logits = torch.tensor([[3.0, 1, 0], [0, 1, 3]]).double()
    labels = torch.tensor([0, 0])
    found = difference_of_logits(logits, labels)
    assert found.tolist() == pytest.approx([-2 / 3, 1.0])
    assert difference_of_logits(7 * logits, labels).tolist() == pytest.approx(found.tolist())


# ---- what is refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("objective.attack.radius=2", "radius 2 is beyond the pixels' range of 0 to 1: 4/255"),
        ("objective.attack.radius=0", "radius 0 is not above 0"),
        ("objective.attack.norm=l3", "'linf'"),
        ("objective.attack.steps=0", "steps is 0"),
        ("objective.attack.step=-1", "step -1 is not above 0"),
        ("objective.smoothing=1", "smoothing 1.0"),
        ("objective.warmup=-1", "-1 steps of warm-up"),
        ("objective.zero=3", "0 for 3 of 0 steps"),
    ],
)
@pytest.mark.parametrize("kind", ["adversarial", "trades"])
def test_impossible_settings_are_one_sentence(kind, setting, said):
    recipe = Recipe({}, Data("x"), replace(toy.STEPS))
    with pytest.raises(ConfigError, match=said):
        amend(recipe, [f"objective={kind}", setting])


@pytest.mark.parametrize("kind", [Adversarial, Trades])
def test_a_radius_that_holds_every_image_is_refused(kind):
    model = vitrail.create("cct_2_3x2_32", image=(16, 16), dim=16, depth=1, classes=3)
    context = Context(mean=(0.5,) * 3, std=(0.25,) * 3)
    kind(PGD("l2", 27.7)).build(model, context)
    with pytest.raises(ConfigError, match=r"radius 27\.8 is beyond .* at most 27\.7 apart"):
        kind(PGD("l2", 27.8)).build(model, context)


def test_such_a_radius_leaves_no_run_behind(tmp_path, capsys):
    photos = write_classes(tmp_path / "photos", {"cat": 8, "dog": 8})
    settings = [
        "model=cct_2_3x2_32", "model.image=16,16", f"data={photos}", "objective=adversarial",
        "objective.attack.norm=l2", "objective.attack.radius=28",
    ]  # fmt: skip
    words = [word for setting in settings for word in ("--set", setting)]
    with pytest.raises(SystemExit) as caught:
        main(["train", *words, "--out", str(tmp_path / "run")])
    assert caught.value.code == 2 and not (tmp_path / "run").exists()
    assert "radius 28 is beyond the pixels' range" in capsys.readouterr().err


def test_settings_are_kept():
    recipe = Recipe({}, Data("x"), replace(toy.STEPS))
    value = amend(recipe, ["objective=trades", "objective.attack.norm=l2"]).objective
    assert value == Trades(PGD("l2", 8 / 255, 10)) and parse(Trades, to_json(value)) == value
    with pytest.raises(ConfigError, match=r"beta -1\.0 is below 0"):
        amend(recipe, ["objective=trades", "objective.beta=-1"])
    with pytest.raises(ConfigError, match="not for task multi_label"):
        amend(recipe, ["task=multilabel", "objective=adversarial"])
    with pytest.raises(ConfigError, match="needs to know pixels"):
        Adversarial().build(toy.net(), Context())
    with pytest.raises(ConfigError, match=r"radius 9 is beyond .* at most 3\.5 apart"):
        Ball("l2", 9).check(12)
