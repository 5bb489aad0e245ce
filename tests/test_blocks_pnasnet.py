"""PNASNet's cell against a slow twin, any genotype of its search space, and genotypes as data."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.scatter import scattered
from torch import nn

import vitrail
from vitrail import models
from vitrail.errors import ConfigError
from vitrail.layers.fold import deploy
from vitrail.layers.genotype import check, loose_ends, nodes
from vitrail.models.parts.pnasnet_cells import OPERATIONS, Cell, Factorised, Pointwise, Pool
from vitrail.models.pnasnet import PADDINGS, PNASNET_5, SPACE, Config, PNASNet

SMALL = Config(dim=8, depth=1, stem_dim=6, image=(40, 40), classes=5)
ALONE = [((name, 0), (name, 1)) for name in OPERATIONS]


def anything(seed: int, size: int = 5):
    """A random genotype of `size` nodes."""
    dice = random.Random(seed)
    return tuple((dice.choice(OPERATIONS), dice.randrange(k // 2 + 2)) for k in range(2 * size))


# ---- genotypes -------------------------------------------------------------------------


def test_nodes_and_loose_ends():
    genotype = (("a", 0), ("b", 1), ("a", 2), ("b", 0), ("a", 1), ("a", 1))
    check(genotype, {"a", "b"})
    assert nodes(genotype) == (genotype[:2], genotype[2:4], genotype[4:])
    assert loose_ends(genotype) == (3, 4)
    assert loose_ends(PNASNET_5) == (2, 3, 5, 6)


@pytest.mark.parametrize(
    ("genotype", "words"),
    [
        ((), "genotype of 0 edges; .* at least two"),
        ((("a", 0),), "genotype of 1 edges; a node adds two operations"),
        ((("a", 0), ("c", 1)), "edge 1 of the genotype names the operation 'c'; there are a, b"),
        ((("a", 0), ("b", 2)), "edge 1 of the genotype reads state 2; node 0 can read 0 to 1"),
        (
            (("a", 0), ("b", 0), ("a", 3), ("a", 0)),
            "edge 2 .* reads state 3; node 1 can read 0 to 2",
        ),
        ((("a", -1), ("b", 0)), "edge 0 of the genotype reads state -1"),
    ],
)
def test_what_is_no_genotype(genotype, words):
    with pytest.raises(ValueError, match=words):
        check(genotype, ("b", "a"))


# ---- a cell against its slow twin ------------------------------------------------------


def bordered(x, kernel, stride, padding, dilation=1, value=0.0):
    """A padded copy of the map, so that what follows needs no padding."""
    borders = []
    for axis, k in ((3, kernel[1]), (2, kernel[0])):
        size, reach = x.shape[axis], dilation * (k - 1) + 1
        step = stride if k > 1 else 1
        total = max((-(-size // step) - 1) * step + reach - size, 0)
        first = reach // 2 if padding == "symmetric" else total // 2
        borders += [first, reach // 2 if padding == "symmetric" else total - first]
    return F.pad(x, borders, value=value)


def twin_operation(op, name, x, stride, padding):
    """An operation as the paper has it, on the state itself."""
    relu = torch.relu

    def separable(y, depth, point, stride):
        kernel = depth.weight.shape[2:]
        y = bordered(relu(y), kernel, stride, padding)
        y = F.conv2d(y, depth.weight, stride=stride, groups=len(depth.weight))
        return point.norm(F.conv2d(y, point.conv.weight))

    if name.startswith("sep"):
        x = separable(x, op.depth1, op.point1, stride)
        return separable(x, op.depth2, op.point2, 1)
    if name in ("1x7_7x1", "dil_3x3"):
        for conv, norm in zip(op.convs, op.norms, strict=True):
            kernel, dilation = conv.weight.shape[2:], 2 if name == "dil_3x3" else 1
            steps = tuple(stride if k > 1 else 1 for k in kernel)
            y = bordered(relu(x), kernel, stride, padding, dilation)
            x = norm(F.conv2d(y, conv.weight, stride=steps, dilation=dilation))
        return x
    if name == "identity":
        if isinstance(op, nn.Identity):
            return x
        return op.norm(F.conv2d(relu(x)[:, :, ::stride, ::stride], op.conv.weight))
    if name == "max_3x3":
        y = F.max_pool2d(bordered(x, (3, 3), stride, padding, value=-torch.inf), 3, stride)
    else:
        sums = F.avg_pool2d(bordered(x, (3, 3), stride, padding), 3, stride)
        y = sums / F.avg_pool2d(bordered(torch.ones_like(x), (3, 3), stride, padding), 3, stride)
    if isinstance(op.project, nn.Identity):
        return y
    return op.project.norm(F.conv2d(y, op.project.conv.weight))


def twin_left(left, x):
    """The adjusted map before the last: (B, C, h, w)."""
    x = torch.relu(x)
    if isinstance(left, Pointwise):
        return left.norm(F.conv2d(x, left.conv.weight))
    moved = F.pad(x[:, :, 1:, 1:], (0, 1, 0, 1))
    one = F.conv2d(x, left.conv1.weight, stride=2)
    return left.norm(torch.cat([one, F.conv2d(moved, left.conv2.weight, stride=2)], 1))


def twin(cell, x, before, stride, padding):
    """A cell without anything shared, from maps that are not rectified."""
    x, before = x.movedim(-1, 1), before.movedim(-1, 1)
    states = [before if cell.left is None else twin_left(cell.left, before)]
    states.append(cell.right.norm(F.conv2d(torch.relu(x), cell.right.conv.weight)))
    for n in range(len(cell.genotype) // 2):
        both = [
            twin_operation(cell.ops[k], name, states[state], stride if state < 2 else 1, padding)
            for k, (name, state) in enumerate(cell.genotype[2 * n : 2 * n + 2], 2 * n)
        ]
        states.append(both[0] + both[1])
    return torch.cat([states[s] for s in cell.concat], 1).movedim(1, -1)


GENOTYPES = {
    "pnasnet_5": PNASNET_5,
    **dict(zip(OPERATIONS, ALONE, strict=True)),
    **{f"random_{seed}": anything(seed) for seed in range(4)},
}


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (9, 12), (5, 7), (1, 2)])
@pytest.mark.parametrize("genotype", GENOTYPES.values(), ids=GENOTYPES)
def test_cell_is_its_twin(genotype, size, stride, padding):
    """Also where the map before is twice as large, and for a first cell that reads it raw."""
    large = tuple(2 * side - (side > 8) for side in size)
    if not {state for _, state in genotype} >= {0, 1}:
        genotype = (("identity", 0), ("identity", 1), *genotype)
    for left, before_size in (
        (Pointwise(7, 5), size),
        (Factorised(7, 5), large),
        (None, size),
    ):
        cell = Cell(
            genotype,
            5,
            (6, 7),
            left,
            concat=range(2, 2 + len(genotype) // 2),
            pads=PADDINGS[padding],
            stride=stride,
        )
        cell = scattered(cell)
        x = torch.randn(2, *size, 6, dtype=torch.float64)
        before = torch.randn(2, *before_size, 7, dtype=torch.float64)
        given = (x.relu(), before if left is None else before.relu())
        kept = [y.clone() for y in given]
        with torch.no_grad():
            expected = twin(cell, x, before, stride, padding).relu()
            found, folded = cell(*given), deploy(cell)(*given)
        assert found.shape == (2, *(-(-side // stride) for side in size), 5 * len(cell.concat))
        for y in (found, folded):
            assert (y - expected).abs().max() <= 1e-11 * max(1.0, float(expected.abs().max()))
        assert all(torch.equal(a, b) for a, b in zip(given, kept, strict=True))


def test_equal_work_is_done_once(monkeypatch):
    """Three pools of two states and six ReLUs of three are two pools and three ReLUs."""
    calls = {"max_pool2d": 0, "relu": 0}
    for name in calls:
        whole = getattr(F, name)

        def counted(*args, name=name, whole=whole, **kwargs):
            calls[name] += 1
            return whole(*args, **kwargs)

        monkeypatch.setattr(F, name, counted)
    cell = Cell(
        PNASNET_5, 4, (4, 4), Pointwise(4, 4), concat=range(2, 7), pads=PADDINGS["same"]
    ).eval()
    for op in cell.ops:
        if hasattr(op, "act"):
            op.act = nn.Identity()  # nn.ReLU calls F.relu, too
    cell(torch.randn(1, 6, 6, 4), torch.randn(1, 6, 6, 4))
    assert calls == {"max_pool2d": 2, "relu": 3}


def test_odd_widths_are_split_down_and_up():
    left = Factorised(4, 27)
    assert len(left.conv1.weight) == 13 and len(left.conv2.weight) == 14
    assert left(torch.randn(1, 4, 7, 10)).shape == (1, 27, 4, 5)


def test_the_second_path_sees_zeros_beyond_odd_sides():
    left = Factorised(2, 4).eval()
    with torch.no_grad():
        y = left(torch.rand(1, 2, 5, 6) + 1)
    assert not y[:, 2:, -1].any() and y[:, 2:, :-1].all() and y[:, :2].all()


# ---- whole nets ------------------------------------------------------------------------


@pytest.mark.parametrize("genotype", GENOTYPES.values(), ids=GENOTYPES)
@pytest.mark.parametrize("stem_cells", [0, 1, 2])
def test_any_genotype_makes_a_net(genotype, stem_cells):
    # Of two or four channels a ReLU may leave nothing.
    config = replace(SMALL, dim=16, genotype=genotype, stem_cells=stem_cells)
    assert models.config_from_json(models.config_json(config)) == config
    torch.manual_seed(0)
    model = vitrail.create(config)
    model(torch.randn(2, 3, 37, 50)).square().sum().backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle
    model = scattered(model)
    x = torch.randn(2, 3, 37, 50, dtype=torch.float64)
    with torch.no_grad():
        expected, found = model(x), deploy(model)(x)
    assert expected.shape == (2, 5)
    assert (expected - found).abs().max() <= 1e-10 * expected.abs().max()


@pytest.mark.parametrize("state", [0, 1])
def test_a_genotype_may_leave_an_input_out(state):
    config = replace(SMALL, genotype=(("sep_3x3", state), ("identity", state)))
    model = vitrail.create(config)
    assert all((c.right is None) == (state == 0) for c in model.blocks)
    assert all((c.left is None) == (state == 1) for c in list(model.blocks)[1:])
    assert model(torch.randn(2, 3, 40, 40)).isfinite().all()


def test_concatenation_of_loose_ends():
    config = replace(SMALL, concat=loose_ends(PNASNET_5))
    model = vitrail.create(config)
    assert model.width == model.head.in_features == 4 * 32
    assert [level.channels for level in model.levels] == [6, 8, 32, 64, 128]
    assert model(torch.randn(1, 3, 40, 40)).shape == (1, 5)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", [(200, 333), (64, 63), (33, 34), (7, 3)])
def test_sizes_of_maps(padding, size):
    """The first convolution drops what does not fill it; reductions round up."""
    model = vitrail.create(replace(SMALL, padding=padding)).eval()
    with torch.no_grad():
        maps = model.features(torch.randn(1, 3, *size))
        assert len(model.features(torch.randn(1, 3, *size), at=[1, 4])) == 2
    expected = tuple((side - 3) // 2 + 1 for side in size)
    for found, level in zip(maps, model.levels, strict=True):
        assert found.shape == (1, *expected, level.channels)
        expected = tuple(-(-side // 2) for side in expected)
    assert [level.stride for level in model.levels] == [2, 4, 8, 16, 32]


def test_without_stem_cells():
    model = vitrail.create(replace(SMALL, stem_cells=0, depth=2)).eval()
    with torch.no_grad():
        maps = model.features(torch.randn(1, 3, 31, 28))
    assert [m.shape[1:] for m in maps] == [(31, 28, 40), (16, 14, 80), (8, 7, 160)]
    assert [level.stride for level in model.levels] == [1, 2, 4]


def test_paddings_agree_where_no_even_side_is_halved():
    """323 pixels, as published, and 35: maps of 17, 9, 5, 3, 2. At 40 they differ."""
    state = scattered(vitrail.create(SMALL)).state_dict()
    nets = [
        vitrail.load(replace(SMALL, padding=padding), state, dtype=torch.float64)
        for padding in PADDINGS
    ]
    for side, equal in ((35, True), (40, False)):
        x = torch.randn(1, 3, side, side, dtype=torch.float64)
        with torch.no_grad():
            one, other = (net(x) for net in nets)
        assert ((one - other).abs().max() <= 1e-12) == equal


def test_every_batchnorm_has_the_papers_eps():
    genotype = tuple((name, 0) for name in OPERATIONS)
    model = vitrail.create(replace(SMALL, genotype=genotype))
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) > 50 and {m.eps for m in norms} == {1e-3}


def test_drop_path_rises_with_the_cells():
    model = vitrail.create(replace(SMALL, drop_path=0.5))
    assert [b.drop_path.rate for b in model.blocks] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_drop_path_spares_identities(monkeypatch):
    cell = Cell(
        PNASNET_5, 4, (4, 4), Pointwise(4, 4), concat=range(2, 7), pads=PADDINGS["same"],
        drop_path=0.5,
    )  # fmt: skip
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.ones(*shape))
    x = torch.randn(2, 6, 6, 4).relu()
    y = cell(x, x)
    kept = cell.right(x.movedim(-1, 1)).movedim(1, -1).relu()
    assert not y[..., :16].any() and torch.equal(y[..., 16:], kept) and kept.any()


def test_the_ports_auxiliary_head_is_dropped():
    config = replace(SMALL, padding="symmetric")
    names = ("features.2.weight", "features.3.running_mean", "classifier.weight")
    extra = {f"auxiliary_head.{n}": torch.ones(3) for n in names}
    model = vitrail.create(config)
    theirs = {
        "classifier.weight": model.head.weight,
        "classifier.bias": model.head.bias,
        "conv0.weight": model.stem.conv.conv.weight,
    }
    found = vitrail.checkpoint.rename(
        {**theirs, **extra}, models.module_of(config).NAMES["chenxi116/PNASNet.pytorch"](config)
    )
    assert found.keys() == {"head.weight", "head.bias", "stem.conv.conv.weight"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"padding": "valid"}, "padding is 'valid'; there are same, symmetric"),
        ({"depth": 0}, "depth is 0: expected at least 1"),
        ({"dim": 7}, "dim 7, depth 1 and stem_cells 2 make no net"),
        ({"stem_cells": -1}, "stem_cells is -1: expected at least 0"),
        ({"concat": (1, 2)}, "concat is .*; the nodes of this genotype are states 2 to 6"),
        ({"concat": (2, 2, 3, 5, 6)}, "each at most once"),
        ({"concat": (2, 3, 6)}, "state 5 is neither read nor concatenated"),
        ({"genotype": (("sep_9x9", 0), ("identity", 1))}, "'sep_9x9'; there are 1x7_7x1, "),
        ({"genotype": (("sep_3x3", 0), ("identity", 2))}, "reads state 2; node 0 can read 0 to 1"),
    ],
)
def test_configs_that_make_no_net(changes, words):
    with pytest.raises(ConfigError, match=words):
        vitrail.create(SMALL, **changes)


def test_images_that_are_too_small():
    model = vitrail.create(SMALL)
    with pytest.raises(ValueError, match="image is 2x9; a stem without padding needs 3x3"):
        model(torch.randn(1, 3, 2, 9))
    assert model.eval()(torch.randn(1, 3, 3, 3)).isfinite().all()


def test_search_space_is_cheap():
    configs = [*SPACE.configs(image=(28, 28), channels=1, classes=10)]
    with torch.device("meta"):
        small, large = (PNASNet(configs[k]) for k in (0, -1))
    sizes = [sum(p.numel() for p in model.parameters()) for model in (small, large)]
    assert len(set(configs)) == 24 and 1e4 < sizes[0] < sizes[1] < 3e6


@pytest.mark.slow
def test_exports_with_uneven_padding(tmp_path):
    """Pools that are cut off at the end, and all operations at once."""
    import onnxruntime

    genotype = (*PNASNET_5, *((name, i % 2) for i, name in enumerate(OPERATIONS)))
    model = vitrail.create(replace(SMALL, dim=4, stem_cells=1, genotype=genotype)).eval()
    x, path = torch.randn(2, 3, 28, 33), tmp_path / "model.onnx"
    assert any(isinstance(m, Pool) and m.kind == "avg" for m in model.modules())
    torch.onnx.export(
        deploy(model), (x,), path, dynamo=True, dynamic_shapes=({0: "batch"},), verbose=False
    )
    session = onnxruntime.InferenceSession(path)
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        assert np.abs(got - model(x).numpy()).max() <= 1e-5
