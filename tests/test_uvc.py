"""UVC's scores, counts and budget by the authors' figures, and the cut that they mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import golden

import vitrail
from vitrail.compression import uvc
from vitrail.errors import ConfigError
from vitrail.jobs.learned import within
from vitrail.models import deit
from vitrail.models.trunk.widths import sliced
from vitrail.objectives import Uvc
from vitrail.objectives.uvc import UvcLoss
from vitrail.run.subject import counted
from vitrail.training.objective import Step

UNREAD = ("block_skip_gating", "attn_skip_gating", "mlp_skip_gating", "gumbel")


@pytest.fixture(scope="module")
def reference():
    expected = golden.read(golden.FOLDER / "blocks" / "uvc_deit_64.json")
    state = golden.state(expected)
    config = deit.Config(
        dim=96, depth=6, heads=4, hidden=384, patch=16, image=(64, 64), classes=10, drop_path=0.0
    )
    own = {n: v for n, v in state.items() if not any(part in n for part in UNREAD)}
    model = vitrail.load(config, own, source="timm", dtype=torch.float64)
    return model, state["block_skip_gating"], golden.image(expected["input_shape"]), expected


def drawn():
    """What the authors' run was given: s, r, y, p."""
    random = np.random.default_rng(7)
    s = random.uniform(0, 1, (6, 2)) * [2.5, 200]
    found = (
        s,
        random.uniform(0, 10, (6, 4)),
        random.uniform(0, 1, (6, 2)),
        random.uniform(0, 1, (6, 4)),
    )
    return [torch.tensor(value, requires_grad=True) for value in found]


def agrees(found, expected, name):
    assert golden.deviation(found, expected["outputs"][name]) <= 1e-6, name


def test_the_budget_and_its_gradients_are_the_authors(reference):
    model, gates, _, expected = reference
    sizes, (s, r, _, _) = uvc.sizes_of(model), drawn()
    found = uvc.scores(model, 4)
    ones = torch.ones(6, dtype=torch.float64)
    soft = gates[:, 1] ** 2 / (gates[:, 1] ** 2 + 0.1)
    pruned = uvc.resource(s, r, ones, found, sizes)
    both = uvc.resource(s, r, soft, found, sizes)
    agrees(torch.stack([torch.tensor(2.0 * uvc.full(sizes)), pruned, both]), expected, "flops")
    pruned.backward()
    agrees(s.grad, expected, "flops_grad_s")
    agrees(r.grad, expected, "flops_grad_r")
    assert uvc.resource(0 * s, 0 * r, ones, found, sizes) == 1


def test_the_penalties_and_their_gradients_are_the_authors(reference):
    model, _, _, expected = reference
    s, r, y, p = drawn()
    for_s, for_r = uvc.penalties(s, r, y, p, uvc.scores(model, 4))
    agrees(for_s[None], expected, "s_loss")
    agrees(for_r[None], expected, "r_loss")
    (for_s + for_r).backward()
    agrees(s.grad, expected, "s_loss_grad")
    agrees(r.grad, expected, "r_loss_grad")


def test_logits_of_skipped_gated_and_pruned_blocks_are_the_authors(reference):
    model, gates, images, expected = reference
    runs = gates[:, 1] > gates[:, 0]
    soft = gates[:, 1] ** 2 / (gates[:, 1] ** 2 + 0.1)
    with torch.no_grad():
        hard = sliced(model, uvc.Cut(without=tuple((~runs).nonzero().flatten().tolist())))
        agrees(hard(images), expected, "logits_hard_skip")
        x = model.embed(images)
        for block, share in zip(model.blocks, soft, strict=True):
            x = share * block(x) + (1 - share) * x
        agrees(model.head(model.pool(model.norm(x))), expected, "logits_soft_gate")
        s, r, _, _ = drawn()
        channels, neurons = uvc.stays(s, r, uvc.scores(model, 4))
        masked = vitrail.load(model.config, model.state_dict(), dtype=torch.float64)
        for block, of, mlp in zip(masked.blocks, channels, neurons, strict=True):
            block.mixer.proj.weight.mul_(of.flatten())
            block.ffn.fc2.weight.mul_(mlp)
        x = masked.embed(images)
        for number in runs.nonzero().flatten():
            x = masked.blocks[number](x)
        agrees(masked.head(masked.pool(masked.norm(x))), expected, "logits_pruned")


def test_least_is_the_sum_of_the_smallest_and_its_slope_the_next():
    scores = torch.tensor([[3.0, 1.0, 2.0], [5.0, 5.0, 4.0]])
    for count, total, slope in (
        (0.0, (0, 0), (1, 4)),
        (1.2, (3, 9), (3, 5)),
        (3.0, (6, 14), (3, 5)),
    ):
        counts = torch.full((2,), count, requires_grad=True)
        found = uvc.least(counts, scores)
        found.sum().backward()
        assert found.tolist() == list(total) and counts.grad.tolist() == list(slope)


def test_counts_go_where_the_budget_wants_them():
    """With weights that nobody moves a share of nearly all multiply-adds becomes about a half."""
    torch.manual_seed(0)
    model = vitrail.create(
        deit.Config(dim=16, depth=2, heads=2, hidden=40, patch=8, image=(16, 16))
    )
    total = 300
    loss = UvcLoss(
        torch.nn.Identity(), Uvc("RUN", pace=75000 / total, interval=10**6), uvc.sizes_of(model)
    )
    shares = []
    for number in range(total):
        loss.after_step(model, Step(number, total, 0.0))
        found = uvc.scores(model, 2)
        shares.append(uvc.resource(loss.s, loss.r, torch.ones(2), found, loss.sizes).item())
    assert shares[49] == 1 and loss.z > 0
    assert abs(np.mean(shares[-100:]) - 0.5) < 0.2
    assert (loss.s[:, 0] <= 1).all() and (loss.s[:, 1] <= 39).all() and (loss.r <= 7).all()


def test_a_cut_is_a_model_of_what_the_counts_leave(reference):
    model = reference[0]
    s, r, _, _ = drawn()
    s, r = s.detach(), r.detach()
    s[2, 0] = 3.5
    r[1] = 0
    found = uvc.scores(model, 4)
    runs = torch.tensor([True, True, True, False, True, True])
    with pytest.raises(ConfigError, match="no block would stay"):
        uvc.cut(s, r, ~runs & runs, found, model.config)
    s[2, 0] = 2.5
    made = uvc.cut(s, r, runs, found, model.config)
    smaller = sliced(model, made)
    config = smaller.config
    assert config.depth == 5
    assert config.heads == tuple(4 - int(np.ceil(n)) for n in s[runs, 0])
    assert config.hidden == tuple(384 - int(np.ceil(n)) for n in s[runs, 1])
    assert config.inner[1] == 24 * config.heads[1]
    assert smaller(reference[2]).isfinite().all()


@pytest.mark.parametrize(
    ("gates", "share", "without"),
    [
        ([-3, -1, 1, -2], 0.8, (0,)),  # the likeliest come back where there is room
        ([-3, -1, 1, -2], 0.65, (0, 3)),
        ([-3, -1, 1, -2], 0.4, (0, 1, 3)),
        ([3, 1, 1, -2], 0.65, (3,)),  # neurons go where too many blocks are to run
        ([3, 1, 1, -2], 1.0, ()),
    ],
)
def test_blocks_stay_as_far_as_the_budget_goes(gates, share, without):
    config = deit.Config(
        dim=32, depth=4, heads=2, hidden=64, patch=8, image=(32, 32), classes=10, drop_path=0.0
    )
    model = vitrail.create(config)
    whole = counted(config)
    assert whole is not None
    limit = int(share * whole.macs)
    made = within(model, torch.zeros(4, 2), torch.zeros(4, 2), torch.tensor(gates) * 1.0, limit)
    assert made.without == without
    smaller = counted(sliced(model, made).config)
    assert smaller is not None and smaller.macs <= limit
