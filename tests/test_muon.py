"""Muon against what defines it, and that a training with it goes on with the same bits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import vitrail
from vitrail.config import parse, to_json
from vitrail.errors import ConfigError
from vitrail.training.muon import RMS, MuonWithAdamW, orthogonal
from vitrail.training.optimizer import Muon, adjust, build


@pytest.mark.parametrize("shape", [(8, 8), (8, 72), (72, 8), (1, 9)])
def test_an_orthogonal_step_keeps_directions_and_evens_their_sizes(shape):
    torch.manual_seed(0)
    update = torch.randn(shape, dtype=torch.float64)
    found = orthogonal(update, 5)
    u, _, v = torch.linalg.svd(update, full_matrices=False)
    turned = u.T @ found @ v.T
    sizes = turned.diagonal()
    assert (turned - sizes.diag()).abs().max() < 1e-9
    assert sizes.min() > 0.3 and sizes.max() < 1.3
    told = torch.linalg.svdvals(update) > 0.003 * update.norm()
    assert sizes[told].min() >= 0.68 and sizes[told].max() <= 1.21
    assert (orthogonal(1e4 * update, 5) - found).abs().max() < 1e-6


def test_matrices_between_stem_and_head_are_its_own_and_adamw_has_the_rest():
    model = vitrail.create("airbench94", dims=(8, 16, 16), filters=8)
    optimizer = build(Muon(weight_decay=0.3), model)
    names = {id(p): n for n, p in model.named_parameters()}
    hidden = {names[id(p)] for g in optimizer.param_groups if g["hidden"] for p in g["params"]}
    assert hidden == {
        n
        for n, _ in model.named_parameters()
        if n.startswith("stages") and n.endswith("conv.weight")
    }
    assert {g["weight_decay"] for g in optimizer.param_groups if g["hidden"]} == {0.3}


def test_a_depthwise_kernel_is_adamw_s():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 3), nn.Conv1d(8, 8, 3))
    optimizer = build(Muon(), model)
    shapes = {tuple(p.shape) for g in optimizer.param_groups if g["hidden"] for p in g["params"]}
    assert shapes == {(8, 4, 3, 3), (8, 8, 3)}


def test_the_rest_moves_as_under_torch_s_adamw():
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(5, 3)) for _ in range(2))
    mine = MuonWithAdamW(
        [{"params": [ours], "weight_decay": 0.1}],
        lr=0.01,
        momentum=0.9,
        betas=(0.9, 0.95),
        rounds=5,
    )
    peer = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    for _ in range(7):
        gradient = torch.randn(5, 3)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step()
        peer.step()
    assert (ours - theirs).abs().max() < 1e-6


def test_a_step_is_as_large_as_one_of_adamw_and_forgets_the_gradient_s_size():
    moved = []
    for size in (1.0, 1e3):
        torch.manual_seed(0)
        kernel = nn.Parameter(torch.zeros(32, 16, 3, 3))
        optimizer = MuonWithAdamW(
            [{"params": [kernel], "hidden": True}],
            lr=0.1,
            momentum=0.5,
            betas=(0.9, 0.95),
            rounds=5,
        )
        kernel.grad = size * torch.randn_like(kernel)
        optimizer.step()
        moved.append(kernel.detach())
    assert (moved[0] - moved[1]).abs().max() < 1e-5
    root = moved[0].square().mean().sqrt() / 0.1
    assert 0.5 * RMS < root < 1.3 * RMS


def test_it_goes_on_with_the_same_bits():
    def trained(steps: int, stop: int) -> torch.Tensor:
        torch.manual_seed(0)
        model = vitrail.create("airbench94", dims=(8, 16, 16), filters=8)
        optimizer = build(Muon(), model)
        for step in range(steps):
            if step == stop:
                kept = optimizer.state_dict()
                optimizer = build(Muon(), model)
                optimizer.load_state_dict(kept)
            adjust(optimizer, 0.01)
            torch.manual_seed(step)
            optimizer.zero_grad()
            model(torch.randn(4, 3, 32, 32)).square().mean().backward()
            optimizer.step()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(trained(4, 2), trained(4, -1))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"momentum": 1.0}, "momentum 1.0 is not in"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"rounds": 0}, "rounds 0 is below 1"),
        ({"lr": 0.0}, "lr 0.0 is not above 0"),
    ],
)
def test_impossible_settings(values, said):
    with pytest.raises(ConfigError, match=said):
        Muon(**values)


def test_it_goes_through_json():
    assert parse(Muon, to_json(Muon(lr=0.02))) == Muon(lr=0.02)
