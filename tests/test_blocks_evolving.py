"""Evolving attention: plain lines, TensorFlow's pools and names, the flow of logits, folding."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support import golden
from support.scatter import scattered
from torch import nn

import vitrail
from vitrail import models
from vitrail.errors import CheckpointError, ConfigError
from vitrail.layers.evolving import Evolution
from vitrail.layers.fold import deploy
from vitrail.models import evolving_series
from vitrail.models.evolving import Config
from vitrail.models.names import evolving as names
from vitrail.models.parts.evolving_conv import (
    EvolvingConv,
    max_pool_same,
    mean_pool_same,
    stretched,
)
from vitrail.models.parts.evolving_series_conv import AugmentedConv, CausalConv

GOLDENS = Path(__file__).parent / "goldens"
SMALL = Config(
    (1, 2, 2, 2), (8, 16, 32, 64), heads=2, beta=0.7, image=(96, 64), classes=3, stem_kernel=3
)
BASIC = replace(SMALL, expansion=1, alpha=0.3)
SERIES = evolving_series.Config(
    features=3, length=12, classes=4, dim=16, hidden=24, depth=2, ffn=20, heads=2, keys=0.5,
    values=0.25,
)  # fmt: skip


def refined(mixed, conv, beta, slope):
    """One map (n, t, s) with its borders padded, offset by offset."""
    padded, (t, s) = F.pad(mixed, (1, 1, 1, 1)), mixed.shape[1:]
    out = conv.bias[:, None, None].expand(-1, t, s).clone()
    for i in range(3):
        for j in range(3):
            weight = conv.weight[:, :, i, j]
            out += torch.einsum("mn,nts->mts", weight, padded[:, i : i + t, j : j + s])
    return beta * torch.where(out > 0, out, slope * out) + (1 - beta) * mixed


@pytest.mark.parametrize("act", [nn.ReLU(), nn.LeakyReLU()], ids=["relu", "leaky"])
@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 1.0), (0.3, 0.7), (1.0, 0.2), (0.4, 0.0)])
def test_evolution_in_plain_lines(act, alpha, beta):
    m = scattered(Evolution(3, alpha, beta, act))
    q, k = torch.randn(2, 2, 3, 7, 4, dtype=torch.float64)
    before = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    with torch.no_grad():
        mixed = alpha * before + (1 - alpha) * (q @ k.mT)
        slope = getattr(act, "negative_slope", 0.0)
        expected = (
            mixed
            if beta == 0
            else torch.stack([refined(one, m.conv, beta, slope) for one in mixed])
        )
        assert torch.allclose(m(q, k, before), expected, atol=1e-12)
        folded = deploy(m)
        assert torch.allclose(folded(q, k, before), expected, atol=1e-12)
    assert folded.factor == 1 or beta == 0
    assert (m.conv is None) == (beta == 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 1.5, 0.5, nn.ReLU()), "alpha is 1.5"),
        ((2, 0.5, -0.1, nn.ReLU()), "beta is -0.1"),
        ((2, 0.5, 0.5, nn.GELU()), "act is a GELU"),
    ],
)
def test_evolution_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        Evolution(*arguments)


@pytest.mark.parametrize("size", [(1, 2), (3, 4), (6, 5), (7, 9), (8, 8)])
def test_same_pools(size):
    """TensorFlow's: the window of place i begins at 2 i, or one before where a side is odd."""
    x = torch.randn(2, 3, *size)
    greatest, mean = max_pool_same(x), mean_pool_same(x)
    assert greatest.shape[2:] == tuple(-(-side // 2) for side in size)
    for i in range(greatest.shape[2]):
        for j in range(greatest.shape[3]):
            rows, columns = (
                slice(max(2 * at - side % 2, 0), 2 * at - side % 2 + 3)
                for at, side in zip((i, j), size, strict=True)
            )
            window = x[:, :, rows, columns].flatten(2)
            assert torch.equal(greatest[:, :, i, j], window.amax(2))
            assert torch.allclose(mean[:, :, i, j], window.mean(2), atol=1e-6)


@pytest.mark.parametrize(("size", "wanted"), [((3, 4), (6, 8)), ((4, 3), (7, 6)), ((1, 2), (1, 3))])
def test_stretched_as_old_tensorflow(size, wanted):
    x = torch.randn(2, *size, 3, dtype=torch.float64)
    found = stretched(x, wanted)
    for i in range(wanted[0]):
        for j in range(wanted[1]):
            y, z = i * size[0] / wanted[0], j * size[1] / wanted[1]
            top, left = int(y), int(z)
            low, right = min(top + 1, size[0] - 1), min(left + 1, size[1] - 1)
            y, z = y - top, z - left
            above = (1 - z) * x[:, top, left] + z * x[:, top, right]
            below = (1 - z) * x[:, low, left] + z * x[:, low, right]
            assert torch.allclose(found[:, i, j], (1 - y) * above + y * below, atol=1e-12)


def plain(m, x, before):
    """One map (C, h, w) and its logits, query by query."""
    far_from = x[None]
    for step in (m.stride, 1 + m.halved):
        far_from = mean_pool_same(far_from) if step == 2 else far_from
    _, h, w = far_from.shape[1:]
    d, e = m.parts[0] // m.heads, m.parts[2] // m.heads
    k, q, v = m.kqv(far_from)[0].flatten(1).T.split(m.parts, 1)
    rows, columns = m.position.rows, m.position.columns
    logits = torch.zeros(m.heads, h * w, h * w, dtype=x.dtype)
    for head in range(m.heads):
        own = slice(head * d, (head + 1) * d)
        for i in range(h * w):
            query = q[i, own] * d**-0.5
            for j in range(h * w):
                placed = rows[j // w - i // w + h - 1] + columns[j % w - i % w + w - 1]
                logits[head, i, j] = query @ (k[j, own] + placed)
    if m.evolution is not None:
        mixed = m.evolution.alpha * before + (1 - m.evolution.alpha) * logits
        logits = refined(mixed, m.evolution.conv, m.evolution.beta, 0.0)
    out = [logits[n].softmax(1) @ v[:, n * e : (n + 1) * e] for n in range(m.heads)]
    near = m.conv(x[None])
    far = stretched(m.proj(torch.cat(out, 1)).view(1, h, w, -1), near.shape[2:])
    return torch.cat([near, far.movedim(3, 1)], 1)[0], logits


@pytest.mark.parametrize("evolves", [False, True])
@pytest.mark.parametrize(("stride", "halved"), [(1, False), (2, False), (1, True), (2, True)])
def test_augmented_convolution_in_plain_lines(stride, halved, evolves):
    size, step = (9, 14), stride * (1 + halved)
    grid = tuple(-(-side // step) for side in size)
    evolution = Evolution(2, 0.4, 0.7, nn.ReLU()) if evolves else None
    sizes = {"keys": 8, "values": 4, "heads": 2, "grid": grid, "evolution": evolution}
    m = scattered(EvolvingConv(10, stride=stride, halved=halved, **sizes))
    x = torch.randn(2, 10, *size, dtype=torch.float64)
    before = torch.randn(2, 2, grid[0] * grid[1], grid[0] * grid[1], dtype=torch.float64)
    with torch.no_grad():
        pairs = [plain(m, *one) for one in zip(x, before, strict=True)]
        expected, logits = (torch.stack(part) for part in zip(*pairs, strict=True))
        folded = deploy(m)
        for layer in (m, folded):
            found = layer(x, before)
            assert torch.allclose(found[0], expected, atol=1e-12)
            assert torch.allclose(found[1], logits, atol=1e-12)
            assert torch.allclose(layer.weights(x, before), logits.softmax(-1), atol=1e-12)
        scale, shift = torch.randn(2, 10, dtype=torch.float64)
        folded.absorb_norm(scale, shift)
        expected = expected * scale[:, None, None] + shift[:, None, None]
        assert torch.allclose(folded(x, before)[0], expected, atol=1e-12)


@pytest.mark.parametrize("sizes", [(6, 3), (16, 4), (0, 4), (8, 16)])
def test_augmented_convolution_refuses(sizes):
    with pytest.raises(ValueError, match=f"keys are {sizes[0]}, values {sizes[1]}"):
        EvolvingConv(16, keys=sizes[0], values=sizes[1], heads=8, grid=(2, 2))


def test_as_many_parameters_as_the_code_says():
    with torch.device("meta"):
        model = vitrail.create("ea_aa_resnet_50")
    assert sum(p.numel() for p in model.parameters()) == 24_967_712


@pytest.mark.parametrize("config", [SMALL, BASIC], ids=["bottleneck", "basic"])
def test_logits_run_through_the_stages(config):
    """From the second stage into the third; the fourth starts anew."""
    model, evolves = scattered(vitrail.create(config)), []
    maps = []
    for i, stage in enumerate(model.stages):
        for block in stage.blocks:
            if i:
                evolves.append((i, block.mixer.evolution is not None))
                block.mixer.register_forward_hook(lambda m, _, out: maps.append(out[1].shape[2]))
    pairs = [(1, False), (1, True), (2, True), (2, True), (3, False), (3, True)]
    assert evolves == pairs
    x = torch.randn(1, 3, 96, 64, dtype=torch.float64)
    with torch.no_grad():
        third = model.features(x)[2]
        assert maps == [24] * 4 + [6] * 2
        # The queries of the second stage reach the third through the logits alone.
        last = model.stages[1].blocks[1].mixer
        last.register_forward_hook(lambda m, _, out: (out[0], out[1] + out[1].roll(1, 3)))
        assert not torch.allclose(model.features(x)[2], third)
        assert torch.allclose(model.features(x)[1], model.features(x, at=[1])[0])


@pytest.mark.parametrize("config", [SMALL, BASIC], ids=["bottleneck", "basic"])
def test_networks_deployed_at_other_sizes(config):
    model = scattered(vitrail.create(config))
    folded = deploy(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    with torch.no_grad():
        for size in ((96, 64), (57, 83), (200, 133)):
            x = torch.randn(2, 3, *size, dtype=torch.float64)
            assert torch.allclose(folded(x), model(x), rtol=1e-9, atol=1e-9)
            moved = vitrail.load(config, model.state_dict(), image=size, dtype=torch.float64)
            assert torch.allclose(moved(x), model(x), rtol=1e-9, atol=1e-9)


def test_tensorflow_checkpoints():
    """Kernels (height, width, in, out), and the names of variables alone."""
    expected = golden.read(GOLDENS / "ea_resnet50_96x128.json")
    config = models.resolve("ea_aa_resnet_50", image=(96, 128))
    listed = golden.state(expected)
    state = {"global_step": torch.tensor(7)}
    for name, value in listed.items():
        if name.endswith("/kernel"):
            value = value.mT if value.ndim == 2 else value.permute(2, 3, 1, 0)
        for leaf in ("weight", "running_mean", "running_var"):
            name = name.removesuffix(f"/{leaf}")
        state[name] = value
    ours = vitrail.load(config, listed, source="pkuyym/EvolvingAttention").state_dict()
    theirs = vitrail.load(config, state, source="tensorflow").state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert vitrail.identify(state).source == "tensorflow"
    assert vitrail.identify(state).config == config


def test_network_refuses():
    for changes, message in (
        ({"depths": (1, 1)}, "expected as many values"),
        ({"heads": 5}, "multiples of 5 heads"),
        ({"alpha": 2.0}, "alpha is 2.0"),
    ):
        with pytest.raises(ConfigError, match=message):
            vitrail.create(SMALL, **changes)


def test_without_evolution():
    """Neither residual nor convolution: plain attention, with no parameter of evolution."""
    model = vitrail.create(SMALL, alpha=0.0, beta=0.0)
    assert not any("evolution" in name for name in model.state_dict())
    residual = vitrail.create(SMALL, beta=0.0)
    assert residual.state_dict().keys() == model.state_dict().keys()


# ---- time series -----------------------------------------------------------------------


def test_causal_convolution():
    """Every output sees its own step and (kernel - 1) dilation before; the norm is its gain."""
    m = scattered(CausalConv(3, 5, 3, 4))
    x = torch.randn(1, 20, 3, dtype=torch.float64, requires_grad=True)
    (seen,) = torch.autograd.grad(m(x)[0, 13].sum(), x)
    assert seen[0].abs().sum(1).nonzero().flatten().tolist() == [5, 9, 13]
    with torch.no_grad():
        kernel = m._kernel()
        assert torch.allclose(kernel.norm(dim=(1, 2), keepdim=True), m.gain.abs())
        expected = F.conv1d(F.pad(x.mT, (8, 8)), kernel, m.bias, dilation=4)[..., :-8].mT
        for layer in (m, deploy(m)):
            assert torch.allclose(layer(x), expected, atol=1e-12)


def test_series_attention_in_plain_lines():
    """What a head yields, (T, d), is read as (d, T) without a transposition."""
    evolution = Evolution(2, 0.4, 0.7, nn.LeakyReLU())
    m = scattered(AugmentedConv(6, 10, keys=4, values=4, heads=2, evolution=evolution))
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    before = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    with torch.no_grad():
        expected = []
        for one, old in zip(x, before, strict=True):
            q, k, v = m.qkv(one).split(4, 1)
            own = [slice(0, 2), slice(2, 4)]
            logits = torch.stack([q[:, s] * 2**-0.5 @ k[:, s].T for s in own])
            logits = refined(0.4 * old + 0.6 * logits, evolution.conv, 0.7, 0.01)
            heads = [logits[n].softmax(1) @ v[:, s] for n, s in enumerate(own)]
            rows = [head.flatten().view(2, 5) for head in heads]
            expected.append(torch.cat([m.conv(one[None])[0], torch.cat(rows).T], 1))
        for layer in (m, deploy(m)):
            found, logits = layer(x, before)
            assert torch.allclose(found, torch.stack(expected), atol=1e-12)
            assert torch.allclose(layer.weights(x, before), logits.softmax(-1), atol=1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"values": 1.0, "keys": 1.0, "hidden": 16},
        {"values": 0.0, "keys": 0.0},
        {"positions": "fixed", "dilated": False, "alpha": 0.0, "beta": 0.0},
        {"depth": 0},
    ],
    ids=["", "no convolution", "no attention", "fixed", "no depth"],
)
def test_series_deployed(changes):
    model = scattered(vitrail.create(SERIES, **changes))
    folded = deploy(model)
    assert not any(isinstance(m, nn.BatchNorm1d) for m in folded.modules())
    x, mask = torch.randn(3, 12, 3, dtype=torch.float64), torch.ones(3, 12)
    mask[1, 7:] = 0
    with torch.no_grad():
        for masks in ((), (mask,), (mask.bool(),)):
            expected = model(x, *masks)
            assert expected.shape == (3, 4)
            assert torch.allclose(folded(x, *masks), expected, rtol=1e-10, atol=1e-10)
            alone = torch.cat([model(x[i : i + 1], *(m[i : i + 1] for m in masks)) for i in (0, 1)])
            assert torch.allclose(alone, expected[:2], atol=1e-10)


def test_padding_does_not_matter():
    model = scattered(vitrail.create(SERIES))
    x, mask = torch.randn(2, 12, 3, dtype=torch.float64), torch.ones(2, 12)
    mask[:, 9:] = 0
    other = x.clone()
    other[:, 9:] = float("nan")
    with torch.no_grad():
        assert torch.equal(model(x, mask), model(other, mask))
        embedding = model.embedding(x, mask).view(2, 12, 16)
        assert (embedding[:, 9:] == 0).all() and (embedding[:, :9] != 0).any()
        maps = model.features(x, mask, at=[0, 2])
        assert [m.shape for m in maps] == [(2, 12, 24), (2, 12, 16)]


def test_series_learn_everywhere():
    model = scattered(vitrail.create(SERIES, dropout=0.0)).train()
    found = []
    for recompute in (False, True):
        model.zero_grad()
        model.recompute(recompute)
        torch.manual_seed(1)
        model(torch.randn(4, 12, 3, dtype=torch.float64)).square().sum().backward()
        found.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.allclose(a, b) for a, b in zip(*found, strict=True))
    assert model.no_decay() == {"position"}
    depths = {model.depth_of(name) for name, _ in model.named_parameters()}
    assert depths == set(range(model.depth + 1))
    for (name, p), gradient in zip(model.named_parameters(), found[0], strict=True):
        # Biases of the keys: a constant of all logits of a row has no gradient in plain softmax.
        assert gradient.abs().max() > 0, (name, p.shape)


def test_series_network_by_its_config(tmp_path):
    """No image backbone: not in the catalog, but created, loaded, named and described."""
    model = vitrail.create(SERIES)
    assert "evolving_series" not in models.families()
    assert not any(v.family == "evolving_series" for v in vitrail.catalog().values())
    assert models.config_from_json(models.config_json(SERIES)) == SERIES
    assert models.config_name(SERIES).startswith("evolving_series-")
    again = vitrail.load(SERIES, model.state_dict())
    x = torch.randn(2, 12, 3)
    with torch.no_grad():
        assert torch.equal(again(x), model.eval()(x))
    assert vitrail.load(replace(SERIES, positions="fixed"), _fixed(model)).position.shape == (
        12,
        16,
    )
    with pytest.raises(CheckpointError, match="does not fit evolving_series"):
        vitrail.load(replace(SERIES, length=9), model.state_dict())


def _fixed(model):
    return {name: value for name, value in model.state_dict().items() if name != "position"}


def test_series_network_refuses():
    model = vitrail.create(SERIES).eval()
    with pytest.raises(ValueError, match="takes \\(B, 12, 3\\)"):
        model(torch.zeros(1, 11, 3))
    with pytest.raises(ValueError, match="mask is \\(2, 12\\)"):
        model(torch.zeros(1, 12, 3), torch.ones(2, 12))
    for changes, message in (
        ({"positions": "rotary"}, "positions are 'rotary'"),
        ({"heads": 3}, "multiples of 3 heads"),
        ({"keys": 0.0}, "or none of both"),
    ):
        with pytest.raises(ConfigError, match=message):
            vitrail.create(SERIES, **changes)
    bare = vitrail.create(SERIES, keys=0.0, values=0.0)
    with pytest.raises(ValueError, match="no attention"):
        bare.blocks[0].mixer1.weights(torch.zeros(1, 12, 16))


def test_evolving_names_fit_any_depth():
    """Every entry of a network has one of their names, for each published depth."""
    for name, variant in vitrail.catalog().items():
        if variant.family == "evolving":
            with torch.device("meta"):
                state = vitrail.create(name).state_dict()
            named = {ours for _, ours in names.layers(variant.config)}
            owners = {key.rpartition(".")[0] for key in state if "position" not in key}
            assert owners == {n for n in named if "position" not in n}, name
