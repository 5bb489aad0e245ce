"""PriViT's switches by the authors' figures, and what they save as the table predicts it."""

from __future__ import annotations

import re
from collections import namedtuple

import pytest
import torch
from support import golden
from test_backbones import build, image

import vitrail
from vitrail import checkpoint
from vitrail.errors import ConfigError
from vitrail.methods import PriViT
from vitrail.methods.private_cost import Network, operations
from vitrail.methods.privit import binarise, counts, penalties, switches
from vitrail.models import deit, vit
from vitrail.objectives import Switching
from vitrail.objectives.context import Context
from vitrail.training.learner import Learner
from vitrail.training.objective import Step
from vitrail.training.optimizer import AdamW
from vitrail.training.optimizer import build as build_optimizer

Seen = namedtuple("Seen", "images targets")
SMALL = {"dim": 12, "depth": 2, "heads": 3, "hidden": 10, "patch": 8, "classes": 5}


def test_logits_and_counts_are_those_of_the_authors():
    expected = golden.read(golden.FOLDER / "blocks" / "privit_tiny_224.json")
    state = golden.state(expected)
    own = {n: v for n, v in state.items() if not re.search("alphas|betas|pooler", n)}
    config = deit.Config(classes=200, drop_path=0.0)
    model = vitrail.load(config, own, source="transformers", dtype=torch.float64)
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-12
    model = PriViT().apply(model)
    names = (
        "vit.encoder.layer.{}.intermediate.intermediate_act_fn.alphas",
        ("vit.encoder.layer.{}.attention.attention.betas.betas"),
    )
    with torch.no_grad():
        for kind, name in zip(switches(model), names, strict=True):
            for block, switch in enumerate(kind):
                switch.copy_(state[name.format(block)])
        x = golden.image(expected["input_shape"])
        found = {"logits_soft": model(x), "counts": torch.tensor(counts(model))}
        binarise(model)
        found["logits_hard"] = model(x)
    for name, value in found.items():
        assert golden.deviation(value, expected["outputs"][name]) <= 1e-6, name


@pytest.mark.parametrize(
    "config",
    [deit.Config(**SMALL, image=(32, 24)), vit.Config(**SMALL, image=(32, 24), pool="mean")],
)
def test_switches_that_are_on_change_nothing_and_those_that_are_off_are_polynomials(config):
    model = build(config, torch.float64)
    x = image(config, 2, torch.float64)
    with torch.no_grad():
        expected = model(x)
        PriViT().check(model)
        model = PriViT().apply(model)
        assert torch.allclose(model(x), expected, rtol=1e-10, atol=1e-12)
        n = 12 + (config is not None and isinstance(config, deit.Config))
        assert counts(model) == (2 * n, 2 * 3 * n)
        for kind in switches(model):
            for switch in kind:
                switch.zero_()
        ffn, y = model.get_submodule("blocks.0.ffn"), torch.randn(2, n, 12).double()
        assert torch.allclose(ffn(y), ffn.fc2(ffn.fc1(y)))
        assert counts(model) == (0, 0)


def test_the_penalties_are_sums_of_sizes_and_binary_switches_learn_no_more():
    model = PriViT().apply(build(deit.Config(**SMALL, image=(32, 24)), torch.float64))
    gelus, softmaxes = switches(model)
    with torch.no_grad():
        gelus[0][:] = -0.5
        softmaxes[1][0, 0, 0] = 1.5
    assert [p.item() for p in penalties(model)] == [13 + 6.5, 78.5]
    binarise(model)
    assert counts(model) == (13, 78)
    assert not any(s.requires_grad for kind in switches(model) for s in kind)
    again = PriViT().apply(build(deit.Config(**SMALL, image=(32, 24)), torch.float64))
    checkpoint.assign(again, model.state_dict(), dtype=torch.float64)
    assert counts(again) == (13, 78)


def learner(**values):
    """A small model with switches, and the module that learns them, taught by another one."""
    torch.manual_seed(0)
    model = PriViT().apply(vitrail.create(deit.Config(**SMALL, image=(32, 24)))).eval()
    teacher = vitrail.create(deit.Config(**SMALL, image=(32, 24))).eval()
    return model, Switching("teacher", **values).build(model, Context(open_model=lambda _: teacher))


def test_the_loss_is_the_labels_the_teachers_and_the_penalties():
    model, loss = learner(first=0.01)
    images, targets = torch.randn(4, 3, 32, 24), torch.tensor([0, 1, 2, 3])
    terms = loss(model, Seen(images, targets), Step(0, 10, 0.0))
    p, q = model(images), loss.teacher(images)
    kl = ((q / 4).softmax(1) * ((q / 4).log_softmax(1) - (p / 4).log_softmax(1))).sum(1).mean()
    expected = torch.nn.functional.cross_entropy(p, targets) + 16 * kl + 0.01 * (26 + 78)
    assert torch.allclose(terms["loss"], expected, rtol=1e-5)
    assert (terms["gelus"], terms["softmaxes"]) == (26, 78)


def test_multipliers_rise_where_too_few_fall_and_budgets_settle_a_kind():
    model, loss = learner(gelus=10, softmaxes=20, interval=2, joint=100, fall_softmaxes=5)
    gelus, softmaxes = switches(model)

    def after(number):
        loss.after_step(model, Step(number, 200, 0.0))

    for number in range(9):
        after(number)
    assert loss.multipliers.tolist() == pytest.approx([3e-5, 3e-5])  # four intervals are done
    with torch.no_grad():
        softmaxes[0].flatten()[:6] = 0
    after(9)
    assert loss.multipliers.tolist() == pytest.approx([3.3e-5, 3e-5])  # six rows are enough
    after(11)
    assert loss.multipliers.tolist() == pytest.approx([3.63e-5, 3.3e-5])
    with torch.no_grad():
        gelus[0][:] = torch.linspace(0.001, 0.9, 13)[:, None]
        gelus[1][:] = 0
        gelus[0].flatten()[:4] = 0.0005
    after(12)  # nine are on where ten may be: the largest ten stay
    assert loss.settled.tolist() == [True, False] and counts(model)[0] == 10
    with torch.no_grad():
        gelus[0].add_(0.02)
    after(13)
    assert gelus[0].flatten().tolist() == [1.0] + [0.0] * 3 + [1.0] * 9
    after(99)  # the end of the joint training
    assert loss.settled.all() and counts(model) == (10, 20)


def test_switches_learn_at_their_own_rate_without_decay():
    model, loss = learner(pace=7.0)
    made = build_optimizer(AdamW(weight_decay=0.1), Learner(model, loss))
    theirs = {id(one) for kind in switches(model) for one in kind}
    found = [group for group in made.param_groups if id(group["params"][0]) in theirs]
    assert [(g["scale"], g["weight_decay"], len(g["params"])) for g in found] == [(7.0, 0.0, 4)]


def test_a_coin_says_which_stay():
    found = []
    for seed in (0, 0, 1):
        model, loss = learner(gelus=5, softmaxes=30, drawn=True)
        loss.after_step(model, Step(0, 200, 0.0, seed))
        assert counts(model) == (5, 30)
        found.append(torch.cat([one.flatten() for one in switches(model)[1]]).detach())
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_fewer_switches_are_predicted_to_cost_less():
    """The table's own block: 197 tokens of 192, three heads."""
    config = deit.Config(depth=1, classes=10)
    model = PriViT().apply(vitrail.create(config))
    lan, wan = Network(), Network(1e6, 0.05)
    whole = operations(model)
    assert whole.numbers["softmax"] == 3 * 197 * 197
    assert whole.numbers["gelu"] == 197 * 768
    assert "square" not in whole.numbers
    gelus, softmaxes = switches(model)
    with torch.no_grad():
        softmaxes[0].zero_()
        polynomial = operations(model)
        gelus[0].zero_()
        least = operations(model)
    assert whole.messages - polynomial.messages == 143 - 3
    assert whole.bytes - polynomial.bytes == 81_149_619 - 2_794_248  # as the engine counts them
    assert polynomial.compute_s - least.compute_s == pytest.approx(3.204)
    assert least.latency_s(lan) < polynomial.latency_s(lan) < whole.latency_s(lan)
    assert whole.latency_s(wan) > whole.latency_s(lan)


def test_what_does_not_fit_is_said():
    with pytest.raises(ConfigError, match="privit needs plain attention, and"):
        PriViT().check(vitrail.create("cait_xxs24_224", depth=1, image=(32, 32)))
    with pytest.raises(ConfigError, match="has no switches"):
        operations(vitrail.create(deit.Config(depth=1)))
    with pytest.raises(ConfigError, match="needs a model with switches: add methods=privit"):
        Switching().build(vitrail.create(deit.Config(**SMALL, image=(32, 24))), Context())
    with pytest.raises(ConfigError, match="is none: give numbers above 0"):
        Network(bandwidth=0)
