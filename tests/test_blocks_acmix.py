"""ACmix's module and its hosts: the authors' module, plain lines, folding, borders, bad input."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support import golden
from support.scatter import scattered

import vitrail
from vitrail.errors import ConfigError
from vitrail.layers.fold import deploy
from vitrail.models import acmix, config_from_json, config_json, pvt, resolve, swin
from vitrail.models.acmix import (
    ACmix,
    Config,
    PatchwiseACmix,
    ReducedACmix,
    Resnet,
    WindowACmix,
)
from vitrail.models.parts import san
from vitrail.models.parts.acmix_paths import JoinedShift, Shift

BLOCKS = Path(__file__).parent / "goldens/blocks"
SIZES = {"image": (64, 48), "classes": 3}
RESNET = Config(Resnet((1, 2), (8, 16), 2, heads=(2, 4), window=5), **SIZES)
SWIN = Config(swin.Config(12, (2, 2), (3, 6), window=4), drop_path=0.0, **SIZES)
PVT = Config(pvt.Config((8, 16), (1, 2), (1, 2), (2, 2), (2, 1)), drop_path=0.0, **SIZES)
SAN = Config(san.Config((32, 64, 64), (1, 1, 2), window=5), **SIZES)
ALL = [RESNET, SWIN, PVT, SAN]
HOSTS = pytest.mark.parametrize("config", ALL, ids=["resnet", "swin", "pvt", "san"])


def test_module_golden():
    """The authors' module alone: 24 to 32 channels, window 5, 2 heads, stride 2."""
    expected = golden.read(BLOCKS / "acmix_module_k5.json")
    state = golden.state(expected)
    ours = {
        f"qkv.{leaf}": torch.cat([state[f"conv{n}.{leaf}"] for n in (1, 2, 3)])
        for leaf in ("weight", "bias")
    }
    ours |= {f"position.{leaf}": state[f"conv_p.{leaf}"] for leaf in ("weight", "bias")}
    ours |= {"path.fc.weight": state["fc.weight"], "path.conv.weight": state["dep_conv.weight"]}
    ours |= {"rates.attention": state["rate1"], "rates.convolution": state["rate2"]}
    m = ACmix(24, 32, 2, window=5, stride=2).double().eval()
    shapes = {k: v.shape for k, v in m.state_dict().items()}
    m.load_state_dict({k: v.reshape(shapes[k]) for k, v in ours.items()})
    with torch.no_grad():
        for layer in (m, deploy(m)):
            found = layer(golden.image(expected["input_shape"]))
            assert golden.deviation(found, expected["outputs"]["logits"]) <= 1e-6


def plain(m, x):
    """One map (C, h, w): the paper's formulas, query by query, mirroring as often as it takes."""
    window, stride, heads = m.local.kernel, m.local.stride, m.heads
    _, h, w = x.shape
    q, k, v = m.qkv(x.permute(1, 2, 0)).unflatten(2, (3, heads, -1)).unbind(2)
    d = q.shape[3]
    x_at, y_at = (torch.linspace(-1, 1, side, dtype=torch.float64) for side in (w, h))
    places = torch.stack([x_at.expand(h, w), y_at[:, None].expand(h, w)], -1)
    pe = places @ m.position.weight.T + m.position.bias
    half = window // 2
    out = []
    for y in range(0, h, stride):
        for z in range(0, w, stride):
            near = [
                (san.mirrored(y + a, h), san.mirrored(z + b, w))
                for a in range(-half, half + 1)
                for b in range(-half, half + 1)
            ]
            logits = torch.stack(
                [q[y, z] @ (k[n] + pe[y, z] - pe[n]).mT / d**0.5 for n in near], -1
            )
            a = torch.stack([logits[i, i] for i in range(heads)]).softmax(-1)
            out.append(sum(a[:, u, None] * v[n] for u, n in enumerate(near)).flatten())
    rows, columns = -(-h // stride), -(-w // stride)
    attended = torch.stack(out, -1).view(-1, rows, columns)
    numbers = torch.cat([q, k, v], 2).permute(2, 3, 0, 1)  # (3 heads, d, h, w)
    mixed = torch.einsum("sj,jdhw->dshw", m.path.fc.weight, numbers).flatten(0, 1)
    conv = m.path.conv
    convolved = F.conv2d(mixed[None], conv.weight, None, stride, conv.padding, 1, d)[0]
    return m.rates.attention * attended + m.rates.convolution * convolved


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(5, 7), (2, 9), (1, 3), (17, 9)], ids=str)
def test_module_in_plain_lines(size, stride):
    m = scattered(ACmix(6, 8, 2, window=5, stride=stride))
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([plain(m, one) for one in x])
        assert torch.allclose(m(x), expected, atol=1e-12)
        assert torch.allclose(deploy(m)(x), expected, atol=1e-12)
        rows = m.weights(x)
        assert torch.allclose(rows.sum(-1), torch.ones_like(rows[..., 0]))


def test_the_path_starts_with_shifts():
    """Input s of every group is moved by offset s; hosts do not overwrite that."""
    for config in (RESNET, SWIN, PVT, SAN):
        torch.manual_seed(0)
        model = vitrail.create(config)
        for m in model.modules():
            if isinstance(m, Shift):
                expected = torch.eye(9).view(9, 3, 3).expand_as(m.conv.weight)
                assert torch.equal(m.conv.weight, expected)
                assert m.fc.weight.std() > 0.05


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("heads", "joined"), [(1, True), (4, True), (6, False)])
def test_shift_is_folded_where_that_is_cheaper(heads, joined, bias):
    m = scattered(Shift(3 * heads, 5, heads, kernel=3, stride=1, bias=bias))
    folded = deploy(m)
    assert isinstance(folded, JoinedShift) == joined
    scale, shift = torch.randn(2, 5 * heads, dtype=torch.float64)
    with torch.no_grad():
        for size in ((4, 6), (1, 1), (3, 2)):  # the bias of `fc` makes the border special
            x = torch.randn(2, *size, 15 * heads, dtype=torch.float64)
            assert torch.allclose(m(x), folded(x), atol=1e-12)
        folded.absorb(scale, shift)
        expected = m(x) * scale[:, None, None] + shift[:, None, None]
        assert torch.allclose(folded(x), expected, atol=1e-12)


@HOSTS
def test_hosts_deployed_at_other_sizes(config):
    model = scattered(vitrail.create(config))
    folded = deploy(model)
    norms = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)
    assert not any(isinstance(m, norms) for m in folded.modules())
    with torch.no_grad():
        for h, w in ((64, 48), (57, 83), (200, 333), (16, 24)):
            x = torch.randn(1, 3, h, w, dtype=torch.float64)
            expected = model(x)
            assert torch.allclose(folded(x), expected, rtol=1e-9, atol=1e-9)
            if config is not PVT:  # its patches leave out what does not fill one
                maps = zip(model.features(x), model.levels, strict=True)
                assert all(m.shape[1] == -(-h // level.stride) for m, level in maps)


@HOSTS
def test_hosts_learn_everywhere(config):
    model = scattered(vitrail.create(replace(config, drop_path=0.0))).train()
    model(torch.randn(3, 3, 64, 48, dtype=torch.float64)).square().sum().backward()
    # A position's own part moves all logits of a query alike; nobody reads the map that PVT's last
    # block makes, since its class token has attention only.
    depths = config.host.depths
    last = f"stages.{len(depths) - 1}.blocks.{depths[-1] - 1}.mixer."
    idle = (f"{last}path.", f"{last}rates.convolution") if config is PVT else ()
    for name, p in model.named_parameters():
        if not name.endswith("position.bias") and not name.startswith(idle):
            assert p.grad is not None and p.grad.abs().max() > 0, name


def test_windows_see_the_map_shifted():
    """The convolution runs on the rolled map, with zeros beyond its border, in every window."""
    m = scattered(WindowACmix(12, 3, window=4, shifted=True, grid=(12, 8)))
    x = torch.randn(2, 12, 8, 12, dtype=torch.float64)
    with torch.no_grad():
        rolled = m.path(m.qkv(x.roll((-2, -2), (1, 2)))).permute(0, 2, 3, 1).roll((2, 2), (1, 2))
        whole, rate = m(x), m.rates.convolution.clone()
        m.rates.convolution.zero_()
        assert torch.allclose(whole - m(x), rolled * rate, atol=1e-12)


def test_a_class_token_has_attention_only():
    m = scattered(ReducedACmix(8, 2, 1))
    x = torch.randn(2, 1 + 15, 8, dtype=torch.float64)
    with torch.no_grad():
        first = m(x, (3, 5))
        m.rates.convolution.zero_()
        second = m(x, (3, 5))
    assert torch.equal(first[:, 0], second[:, 0])
    assert not torch.allclose(first[:, 1:], second[:, 1:])


def test_reduced_keys_stand_for_what_they_summarise():
    m = scattered(ReducedACmix(8, 2, 2))
    x = torch.randn(1, 25, 8, dtype=torch.float64)
    with torch.no_grad():
        q, k, v = m._heads(x, (5, 5))
        found = m._map(q, k, v, (5, 5)).unflatten(3, (3, 2, 4))
    for y in range(5):
        for z in range(5):
            place = min(y // 2, 1) * 2 + min(z // 2, 1)
            for n, part in enumerate((k, v), 1):
                assert torch.equal(found[0, y, z, n], part[0, :, place])


def test_patchwise_attention_in_plain_lines():
    m = scattered(PatchwiseACmix(64, window=3))
    x = torch.randn(1, 64, 4, 5, dtype=torch.float64)
    with torch.no_grad():
        q, k, v = m.qkv(x.permute(0, 2, 3, 1))[0].split((4, 4, 16), 2)
        norm, out = m.draw.norm, torch.zeros(4, 5, 16, dtype=torch.float64)
        for y in range(4):
            for z in range(5):
                near = [
                    (san.mirrored(y + a, 4), san.mirrored(z + b, 5))
                    for a in (-1, 0, 1)
                    for b in (-1, 0, 1)
                ]
                both = torch.cat([q[y, z], torch.stack([k[n] for n in near], 1).flatten()])
                both = norm(both[None, :, None, None]).flatten().relu()
                weights = m.draw.leave(m.draw.enter(both[None]).relu())[0].view(2, 9)
                for c in range(16):
                    out[y, z, c] = sum(weights[c // 8, u] * v[n][c] for u, n in enumerate(near))
        m.rates.convolution.zero_()
        found = m(x)[0].permute(1, 2, 0) / m.rates.attention
        assert torch.allclose(found, out, atol=1e-12)


def test_published_names_are_read_back():
    """Random weights under the authors' names; a Swin's windows move to another image."""
    model = vitrail.create(SWIN)
    moved = vitrail.load(SWIN, model.state_dict(), image=(32, 24))
    assert moved.config.image == (32, 24)
    assert vitrail.identify(vitrail.create("acmix_pvt_tiny", classes=7).state_dict()).name == (
        "acmix_pvt_tiny"
    )


def test_what_cannot_be_built():
    for config, changes, said in (
        (RESNET, {"host": "vgg"}, "expected one of the kinds resnet, swin, pvt, san"),
        (RESNET, {"host": replace(RESNET.host, heads=(3, 4))}, "8 does not divide into 3 heads"),
        (RESNET, {"host": replace(RESNET.host, heads=(4,))}, "differ in length"),
        (RESNET, {"host": replace(RESNET.host, window=4)}, "window is 4: expected an odd number"),
        (RESNET, {"kernel": 2}, "kernel is 2: expected an odd number"),
        (SWIN, {"host": swin.Config(12, (2, 2), (3,))}, "differ in length"),
        (SAN, {"host": san.Config((32, 48, 64), (1, 1, 1))}, "dim is 48: a san needs multiples"),
        (SAN, {"host": replace(SAN.host, dims=(32, 64))}, "differ in length"),
        (SAN, {"host": replace(SAN.host, patch=4)}, "patch is 4"),
    ):
        with pytest.raises(ConfigError, match=said):
            vitrail.create(config, **changes)
    assert acmix.MODEL is acmix.build


@pytest.mark.parametrize(
    ("old", "config"),
    [
        (
            {"host": "resnet", "dims": [8, 16], "depths": [1, 2], "heads": [2, 4], "expansion": 2,
             "window": 5, "patch": 4},
            RESNET,
        ),
        (
            {"host": "swin", "dims": [12, 24], "depths": [2, 2], "heads": [3, 6], "window": 4,
             "expansion": 4, "patch": 4},
            SWIN,
        ),
        (
            {"host": "pvt", "dims": [8, 16], "depths": [1, 2], "heads": [1, 2], "ratios": [2, 2],
             "reductions": [2, 1], "window": 7, "patch": 4},
            PVT,
        ),
        (
            {"host": "san", "dims": [32, 64, 64], "depths": [1, 1, 2], "heads": [1, 1, 1],
             "window": 5, "patch": 2},
            SAN,
        ),
    ],
    ids=["resnet", "swin", "pvt", "san"],
)  # fmt: skip
def test_configs_of_older_files(old, config):
    """`host` was a word, and the host's sizes stood beside it."""
    whole = {"kernel": 5, "drop_path": 0.2, "channels": 1, "classes": 7}
    read = config_from_json({"family": "acmix", **old, **whole, "image": [32, 48]})
    assert read == resolve(config, **whole, image=(32, 48))
    assert config_from_json(config_json(read)) == read
