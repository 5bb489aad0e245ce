"""Sigmoid losses with their head's start, and distillation, against what defines them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from support import golden, toy
from torch import nn

import vitrail
from vitrail.config import parse, to_json
from vitrail.errors import ConfigError
from vitrail.objectives import Distillation, SigmoidCrossEntropy, SummedDistillation, Uvc
from vitrail.objectives.context import Context
from vitrail.objectives.distillation import DistillationLoss
from vitrail.objectives.sigmoid_cross_entropy import SigmoidCrossEntropyLoss
from vitrail.objectives.summed_distillation import SummedDistillationLoss
from vitrail.recipes.recipe import Data, Recipe, amend
from vitrail.training.learner import Learner
from vitrail.training.loop import Place, Plan, Steps, train
from vitrail.training.objective import Step, Taught
from vitrail.training.optimizer import AdamW
from vitrail.training.schedule import Schedule

NOW = Step(0, 10, 0.0)


def batch_of(targets):
    batch = toy.batches(8).get(0, 0)
    return type(batch)(batch.images, targets, batch.indices)


def test_a_sigmoid_loss_is_that_of_each_class():
    model = toy.net().eval()
    hard = toy.batches(8).get(0, 0)
    logits = model(hard.images)
    marks = F.one_hot(hard.targets, 4).float()
    by_hand = F.binary_cross_entropy_with_logits(logits, marks)
    mean = SigmoidCrossEntropyLoss()(model, hard, NOW)["loss"]
    torch.testing.assert_close(mean, by_hand)
    summed = SigmoidCrossEntropyLoss(over="sum")(model, hard, NOW)["loss"]
    torch.testing.assert_close(summed, 4 * by_hand)
    soft = SigmoidCrossEntropyLoss()(model, batch_of(marks), NOW)["loss"]
    torch.testing.assert_close(soft, mean)


def test_every_class_of_a_mixture_may_count_as_present():
    model = toy.net().eval()
    shares = torch.tensor([[0.7, 0.3, 0.0, 0.0], [0.85, 0.0, 0.15, 0.0]] * 4)
    marks = torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 0]] * 4)
    batch = batch_of(shares)
    found = SigmoidCrossEntropyLoss(0.1, present=0.2)(model, batch, NOW)["loss"]
    wanted = 0.9 * marks + 0.1 / 4
    expected = F.binary_cross_entropy_with_logits(model(batch.images), wanted)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["deit_tiny_distilled", "cct_2_3x2_32", "levit_128s", "vit_ti16"])
def test_a_head_starts_at_the_share_of_a_class(name):
    small = {} if name == "levit_128s" else {"image": (32, 32)}
    model = vitrail.create(name, classes=10, **small).eval()
    value = SigmoidCrossEntropy(over="sum", bias=-math.log(10))
    objective = value.build(model, Context("abcdefghij", (1,) * 10, 10))
    image = torch.randn(2, model.config.channels, *model.config.image)
    with torch.no_grad():
        torch.testing.assert_close(model(image), torch.full((2, 10), -math.log(10)))
        batch = type(toy.batches(8).get(0, 0))(image, torch.tensor([3, 4]), torch.arange(2))
        loss = objective(model, batch, NOW)["loss"].item()
    assert loss == pytest.approx(math.log1p(10) + 9 * math.log1p(0.1), abs=1e-4)


def test_a_head_without_bias_is_refused():
    model = toy.net()
    model.head = nn.Linear(16, 4, bias=False)
    with pytest.raises(ConfigError, match=r"objective\.bias -1\.0 needs a head"):
        SigmoidCrossEntropy(bias=-1.0).build(model, Context())


@pytest.mark.parametrize(
    ("case", "value"),
    [
        ("none", Distillation(share=0.0, smoothing=0.0)),
        ("hard", Distillation(smoothing=0.0)),
        ("soft_tau1", Distillation(outputs="soft", smoothing=0.0)),
        ("soft_tau3", Distillation(outputs="soft", temperature=3.0, smoothing=0.0)),
    ],
)
def test_distillation_is_deit_s(case, value):
    expected = golden.read(golden.FOLDER / "blocks" / "deit_distillation_loss.json")
    first, second, taught = golden.image(expected["input_shape"])
    teacher = nn.Module()
    teacher.forward = lambda images: taught
    teacher = Taught(teacher)
    batch = batch_of(torch.arange(8))
    terms = DistillationLoss(teacher, value)(lambda images: (first, second), batch, NOW)
    assert golden.deviation(terms["loss"].reshape(1), expected["outputs"][case]) <= 1e-6
    one = DistillationLoss(teacher, value)(lambda images: second, batch, NOW)
    two = DistillationLoss(teacher, value)(lambda images: (second, second), batch, NOW)
    torch.testing.assert_close(one["loss"], two["loss"])


def test_the_summed_divergence_is_a_sum_over_the_batch():
    """Of the teacher from the model, beside the cross entropy; two heads learn by their mean."""
    torch.manual_seed(0)
    first, second, taught = torch.randn(3, 8, 4)
    teacher = nn.Module()
    teacher.forward = lambda images: taught
    batch = batch_of(torch.arange(8) % 4)
    loss = SummedDistillationLoss(teacher, SummedDistillation("RUN"))
    terms = loss(lambda images: (first, second), batch, NOW)
    logits, p = (first + second) / 2, taught.softmax(1)
    apart = (p * (p.log() - logits.log_softmax(1))).sum()
    torch.testing.assert_close(terms["teacher"], apart)
    expected = F.cross_entropy(logits, batch.targets) + 0.2 * apart
    torch.testing.assert_close(terms["loss"], expected)


def test_a_teacher_is_opened_frozen_and_must_be_named():
    asked = []

    def opened(spec):
        asked.append(spec)
        return toy.net(seed=5)

    value = Distillation("RUN")
    objective = value.build(toy.net(), Context(open_model=opened))
    assert asked == ["RUN"] and not [*objective.parameters()]
    recipe = Recipe({}, Data("x"), Steps(1, 1))
    with pytest.raises(ConfigError, match=r"objective\.teacher is not given"):
        amend(recipe, ["objective=distillation"])
    assert amend(recipe, ["objective=distillation", "objective.teacher=RUN"]).objective == value


def test_a_network_learns_from_its_own_average():
    value = Distillation(outputs="soft", share=0.3, smoothing=0.0, average=0.5)
    model = toy.net().eval()
    objective = value.build(model, Context()).train()
    batch = toy.batches(8).get(0, 0)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert not objective.teacher.model.training
    assert not [p for p in objective.parameters() if p.requires_grad]
    assert objective(model, batch, NOW)["teacher"].abs() < 1e-7
    with torch.no_grad():
        model.head.weight[0] += 1.0
    objective.after_step(model, Step(100, 200, 0.0))
    followed = objective.state_dict()["teacher.model.head.weight"]
    torch.testing.assert_close(followed, (start["head.weight"] + model.head.weight) / 2)
    assert objective(model, batch, NOW)["teacher"] > 1e-6
    recipe = Recipe({}, Data("x"), Steps(1, 1))
    named = amend(recipe, ["objective=distillation", "objective.average=0.99"]).objective
    assert named == Distillation(average=0.99)
    with pytest.raises(ConfigError, match=r"teacher RUN and average 0\.99 are both given"):
        Distillation("RUN", average=0.99)


def test_learning_from_its_average_stops_and_goes_on_with_the_same_bits(tmp_path):
    value = Distillation(outputs="soft", average=0.9)

    def trained(folder, **place):
        model = toy.net()
        plan = Plan(AdamW(lr=3e-3), Schedule(2), Steps(8, 16, ema=None))
        data = toy.batches(16, augment=toy.AUGMENT)
        place = Place(folder, device="cpu", resume=True, **place)
        return train(Learner(model, value.build(model, Context())), data, plan, place)

    whole = trained(tmp_path / "whole").model.state_dict()
    trained(tmp_path / "parts", until=3)
    parts = trained(tmp_path / "parts").model.state_dict()
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("name", "more"),
    [("deit_tiny_distilled", {"image": (32, 32), "depth": 1}), ("levit_128s", {})],
)
def test_two_heads_answer_with_their_mean_in_eval_mode(name, more):
    torch.manual_seed(0)
    model = vitrail.create(name, classes=5, drop_path=0.0, **more).eval()
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter)
    image = torch.randn(2, 3, *model.config.image)
    with torch.no_grad():
        answer = model(image)
        first, second = model.head.outputs(model.embedding(image)).values()
        model.head.train()
        assert isinstance(model(image), tuple)
    assert (first - second).abs().max() > 0.1
    torch.testing.assert_close(answer, (first + second) / 2, rtol=1e-4, atol=1e-4)


def test_sigmoid_losses_are_for_one_class_each():
    recipe = Recipe({}, Data("x"), Steps(1, 1))
    assert amend(recipe, ["objective=sigmoid_cross_entropy"]).objective == SigmoidCrossEntropy()
    with pytest.raises(ConfigError, match="not for task multi_label"):
        amend(recipe, ["task=multilabel", "objective=sigmoid_cross_entropy"])


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (SigmoidCrossEntropy, {"present": 1.0}, "present 1.0"),
        (SigmoidCrossEntropy, {"smoothing": -1}, "smoothing"),
        (Distillation, {"share": 2}, "share 2.0"),
        (Distillation, {"temperature": 0}, "temperature 0.0"),
        (Distillation, {"smoothing": 1}, "smoothing 1.0"),
        (SummedDistillation, {"weight": -1}, "weight -1.0"),
        (Uvc, {"budget": 1}, "budget 1.0"),
        (Uvc, {"interval": 0}, "interval 0"),
    ],
)
def test_impossible_settings(kind, values, said):
    with pytest.raises(ConfigError, match=said):
        parse(kind, values, "objective")
    assert parse(kind, to_json(kind())) == kind()
