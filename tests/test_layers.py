"""Fast paths against slow twins of a few plain lines."""

from __future__ import annotations

import copy
import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import vitrail
from vitrail.layers import conv, position, protocols
from vitrail.layers.attention import Attention, attend, attention_weights
from vitrail.layers.ffn import Mlp, QuickGELU, QuickMlp
from vitrail.layers.fold import deploy
from vitrail.layers.gates import Gate
from vitrail.layers.linear import Linear
from vitrail.layers.residual import Block, DropPath, LayerScale, rising
from vitrail.layers.tokens import SequencePool
from vitrail.models.parts.clip_towers import Biased
from vitrail.models.parts.vatt_encoder import BiasedAttention

SIZES = st.integers(1, 5)


@settings(max_examples=30, deadline=None)
@given(SIZES, SIZES, SIZES, SIZES, SIZES, st.booleans())
def test_attend_is_softmax_attention(b, heads, t, s, d, biased):
    torch.manual_seed(b + 10 * t)
    q, k, v = (torch.randn(b, heads, n, d, dtype=torch.float64) for n in (t, s, s))
    bias = torch.randn(heads, t, s, dtype=torch.float64) if biased else None
    expected = torch.empty(b, heads, t, d, dtype=torch.float64)
    for i in range(b):
        for h in range(heads):
            logits = q[i, h] @ k[i, h].T / d**0.5
            if bias is not None:
                logits = logits + bias[h]
            expected[i, h] = logits.exp() / logits.exp().sum(1, keepdim=True) @ v[i, h]
    assert torch.allclose(attend(q, k, v, bias=bias), expected, atol=1e-12)
    assert torch.allclose(attention_weights(q, k, bias=bias) @ v, expected, atol=1e-12)


def test_weights_take_what_forward_takes():
    """Who asks an attention for its weights hands over the inputs of its forward."""
    found = 0
    for part in ("layers", "models"):
        for path in sorted((Path(vitrail.__file__).parent / part).rglob("*.py")):
            relative = path.relative_to(Path(vitrail.__file__).parents[1]).with_suffix("")
            module = importlib.import_module(".".join(relative.parts).removesuffix(".__init__"))
            for one in vars(module).values():
                if isinstance(one, type) and issubclass(one, nn.Module) and hasattr(one, "weights"):
                    forward, weights = (
                        list(inspect.signature(getattr(one, name)).parameters)
                        for name in ("forward", "weights")
                    )
                    assert forward == weights, one
                    found += 1
    assert found > 30


@pytest.mark.parametrize("kind", [BiasedAttention, Biased])
def test_weights_of_an_attention_with_a_bias_are_those_of_its_forward(kind):
    torch.manual_seed(0)
    layer, x = kind(12, 3).double().eval(), torch.randn(2, 5, 12, dtype=torch.float64)
    bias = torch.randn(2, 1, 5, 5, dtype=torch.float64)
    v = layer._heads(x)[2]
    expected = layer.proj((layer.weights(x, bias) @ v).transpose(1, 2).reshape(2, 5, 12))
    assert torch.allclose(layer(x, bias), expected, atol=1e-12)


def test_attention_weights_are_those_of_forward():
    torch.manual_seed(0)
    layer = Attention(12, 3).double()
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    v = layer.qkv(x)[..., 24:].view(2, 7, 3, 4).transpose(1, 2)
    expected = layer.proj((layer.weights(x) @ v).transpose(1, 2).reshape(2, 7, 12))
    assert torch.allclose(layer(x), expected, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.sampled_from([1, 3]), st.sampled_from([1, 2]), st.sampled_from([1, 2]))
def test_kept_kernel_is_the_same_convolution(batch, kernel, stride, groups):
    torch.manual_seed(0)
    fast = conv.Conv2d(4, 8, kernel, stride, kernel // 2, groups=groups)
    slow = nn.Conv2d(4, 8, kernel, stride, kernel // 2, groups=groups)
    slow.load_state_dict(fast.state_dict())
    with torch.no_grad():
        for size in ((9, 12), (5, 5), (9, 12)):
            x = torch.randn(batch, 4, *size).contiguous(memory_format=torch.channels_last)
            assert torch.allclose(fast(x), slow(x), atol=1e-5)
        for change in (lambda w: w.mul_(2), lambda w: w.add_(1)):
            change(fast.weight), change(slow.weight)
            assert torch.allclose(fast(x), slow(x), atol=1e-5)
        fast.weight = slow.weight = nn.Parameter(torch.randn_like(slow.weight))
        assert torch.allclose(fast(x), slow(x), atol=1e-5)
        again = copy.deepcopy(fast)
        again.weight.zero_(), again.bias.zero_()
        assert again(x).abs().max() == 0 and fast(x).abs().max() > 0


ACTIVATIONS = [nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.ReLU(), nn.Hardswish(), nn.Tanh()]


@pytest.mark.parametrize("act", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_kept_weight_is_the_same_linear_layer(act, bias):
    torch.manual_seed(0)
    fast, slow = Linear(12, 20, bias=bias), nn.Linear(12, 20, bias=bias)
    slow.load_state_dict(fast.state_dict())
    with torch.no_grad():
        for shape in ((3, 12), (2, 5, 12), (2, 3, 4, 12), (7, 12), (8, 12), (9, 12)):
            x = torch.randn(shape)
            assert torch.allclose(fast(x), slow(x), atol=1e-5)
            assert torch.allclose(fast.then(x, act), act(slow(x)), atol=1e-5)
        assert len(fast._kept[1]) <= fast.room
        for change in (lambda w: w.mul_(2), lambda w: w.add_(1)):
            change(fast.weight), change(slow.weight)
            assert torch.allclose(fast(x), slow(x), atol=1e-5)
    again = copy.deepcopy(fast)
    assert again._kept is None
    fast.weight.data.fill_(1), slow.weight.data.fill_(1)
    with torch.no_grad():
        assert torch.allclose(fast.eval()(x), slow(x), atol=1e-5)
    assert torch.equal(fast.then(x, act), act(slow(x)))  # with gradients: torch's own
    assert fast._kept is None
    assert torch.equal(fast.double()(x.double()), slow.double()(x.double()))


@settings(max_examples=20, deadline=None)
@given(st.booleans(), st.floats(0.1, 2.0))
def test_layer_scale_is_folded_into_both_branches(quick, start):
    torch.manual_seed(0)
    ffn = QuickMlp(8, 16) if quick else Mlp(8, 16)
    block = Block(8, Attention(8, 2), ffn, scale=start).double().eval()
    with torch.no_grad():
        block.scale1.gamma.normal_(), block.scale2.gamma.normal_()
        x = torch.randn(2, 5, 8, dtype=torch.float64)
        y = x + block.mixer(block.norm1(x)) * block.scale1.gamma
        expected = y + block.ffn(block.norm2(y)) * block.scale2.gamma
        assert torch.allclose(block(x), expected, atol=1e-12)
        folded = deploy(block)
        assert torch.allclose(folded(x), expected, atol=1e-12)
    assert not any(isinstance(m, LayerScale) for m in folded.modules())


@pytest.mark.parametrize(
    ("kind", "has", "lacks"),
    [
        (protocols.Deployable, conv.ConvNorm(2, 2, 1), nn.Conv2d(2, 2, 1)),
        (protocols.Absorbs, Mlp(2, 4), nn.Linear(2, 2)),
        (protocols.Attends, Attention(2, 1), nn.MultiheadAttention(2, 1)),
        (protocols.Fuses, Linear(2, 2), nn.Linear(2, 2)),
        (protocols.Joins, conv.Conv2d(2, 2, 1), Linear(2, 2)),
        (protocols.Adds, Gate(), Linear(2, 2)),
        (protocols.Scales, Linear(2, 2), conv.Conv2d(2, 2, 1)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_a_module_offers_is_asked_by_its_protocol(kind, has, lacks):
    assert isinstance(has, kind) and not isinstance(lacks, kind)


def test_every_protocol_is_spoken_somewhere():
    """A method that no module has, or that none asks for, is not a language."""
    package = Path(vitrail.__file__).parent
    written = "\n".join(
        path.read_text()
        for room in ("layers", "models", "methods")
        for path in (package / room).rglob("*.py")
        if path.name != "protocols.py"
    )
    for kind in vars(protocols).values():
        if isinstance(kind, type) and getattr(kind, "_is_protocol", False) and kind is not Protocol:
            assert len(inspect.getdoc(kind).splitlines()) >= 3, kind
            for method in (n for n, v in vars(kind).items() if inspect.isfunction(v)):
                if not method.startswith("_"):
                    assert f"def {method}(self" in written or f"def {method}(\n" in written, method


def test_quick_gelu_is_its_formula_by_every_way():
    torch.manual_seed(0)
    ffn, x = QuickMlp(8, 16).double(), torch.randn(3, 8, dtype=torch.float64)
    assert torch.allclose(QuickGELU()(x), x * (1.702 * x).sigmoid(), atol=1e-14)
    found = []
    for forward in (ffn, lambda x: ffn.fc2(ffn.fc1(x) * (1.702 * ffn.fc1(x)).sigmoid())):
        y = forward(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), list(ffn.parameters()))])
    for ours, expected in zip(*found, strict=True):
        assert torch.allclose(ours, expected, atol=1e-12)
    with torch.no_grad():
        assert torch.allclose(ffn(x), found[1][0], atol=1e-12)


NARROW = """
import itertools, torch
from vitrail.layers.conv import Conv2d
torch.manual_seed(0)
sizes = ((3, 16), (4, 4), (4, 8), (7, 7), (8, 8)) * 20
for threads, (dim_in, dim) in itertools.product((1, 2), sizes):
    torch.set_num_threads(threads)
    conv = Conv2d(dim_in, dim, 1, 2, bias=False).to(memory_format=torch.channels_last)
    x = torch.randn(2, 14, 14, dim_in).permute(0, 3, 1, 2)
    kernel = conv.weight[:, :, 0, 0].double()
    exact = torch.einsum("bchw,oc->bohw", x[:, :, ::2, ::2].double(), kernel)
    (wanted,) = torch.autograd.grad(exact.square().sum(), conv.weight)
    (found,) = torch.autograd.grad(conv(x).square().sum(), conv.weight)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)
"""


def test_strided_kernels_on_few_channels_have_right_gradients():
    """With AVX2, oneDNN's own gradient is wrong or ends the process, by one thread or by two."""
    limit = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(
        [sys.executable, "-c", NARROW], env=os.environ | limit, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


WIDE = """
import torch
from vitrail.layers.conv import Conv2d
torch.manual_seed(0)
for dim, wide in ((4, 15), (16, 31), (24, 31)):
    conv = Conv2d(dim, dim, (1, wide), padding=(0, wide // 2), groups=dim)
    x = torch.randn(4, 1, 49, dim).permute(0, 3, 1, 2)
    wanted = torch.autograd.grad(conv(x).square().mean(), conv.weight)[0]
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
    assert y.dtype == torch.bfloat16
    found = torch.autograd.grad(y.float().square().mean(), conv.weight)[0]
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.02 * float(wanted.abs().max()))
    assert conv.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
"""


def test_wide_depthwise_kernels_of_few_channels_end_in_bfloat16():
    """On some processors oneDNN's own would never return, so another process is waited for."""
    done = subprocess.run([sys.executable, "-c", WIDE], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_kept_kernel_follows_a_fused_optimizer():
    """A fused step changes weights without raising their version."""
    torch.manual_seed(0)
    layer = conv.Conv2d(3, 4, 3)
    x = torch.randn(2, 3, 8, 8)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    for _ in range(3):
        layer(x).square().mean().backward()
        optimizer.step()
        with torch.no_grad():
            expected = nn.functional.conv2d(x, layer.weight, layer.bias)
            assert torch.allclose(layer(x), expected, atol=1e-5)


def test_bias_table_cache():
    torch.manual_seed(0)
    table = position.BiasTable(25, 2, position.offset_index((3, 3)))
    nn.init.normal_(table.table)

    def slow(p, r):
        row = (p // 3 - r // 3 + 2) * 5 + (p % 3 - r % 3 + 2)
        return table.table[row]

    for _ in range(2):
        with torch.no_grad():
            kept = table()
            assert table() is kept
        expected = torch.stack([torch.stack([slow(p, r) for r in range(9)]) for p in range(9)])
        assert torch.equal(kept, expected.permute(2, 0, 1)[None])
        assert torch.equal(table(), kept) and table().requires_grad
        with torch.no_grad():
            table.table.add_(1)


@pytest.mark.parametrize("stride", [1, 2])
def test_distance_index_numbers_offsets_in_order_of_use(stride):
    """Square grids: the reference gives each new offset the next number as it meets it."""
    side, seen, rows = 5, {}, []
    points = [(y, x) for y in range(side) for x in range(side)]
    for qy, qx in [(y, x) for y, x in points if y % stride == 0 and x % stride == 0]:
        offsets = [(abs(qy - y), abs(qx - x)) for y, x in points]
        rows.append([seen.setdefault(o, len(seen)) for o in offsets])
    assert position.distance_index((side, side), stride).tolist() == rows


def test_zoom_keeps_corners_and_is_linear():
    ramp = torch.linspace(0, 1, 4)[:, None] + torch.linspace(0, 2, 3)
    grown = position.zoom_grid(ramp.reshape(1, 12, 1), (4, 3), (7, 5)).view(7, 5)
    expected = torch.linspace(0, 1, 7)[:, None] + torch.linspace(0, 2, 5)
    assert torch.allclose(grown, expected, atol=1e-6)


def test_sine_tables():
    sine = position.sine_1d(7, 6)[0]
    assert torch.allclose(sine[3, 2], torch.tensor(3 / 10000 ** (2 / 6)).sin(), atol=1e-6)
    assert torch.allclose(sine[3, 3], torch.tensor(3 / 10000 ** (2 / 6)).cos(), atol=1e-6)
    table = position.sincos_2d((2, 3), 8)[0]
    assert table.shape == (6, 8)
    assert torch.allclose(table[5, :4], torch.tensor([2.0, 2e-4, 0, 0]).sin() + torch.tensor(
        [0, 0, torch.tensor(2.0).cos(), torch.tensor(2e-4).cos()]), atol=1e-6)  # fmt: skip


def test_sequence_pool():
    torch.manual_seed(0)
    pool, x = SequencePool(4), torch.randn(2, 5, 4)
    weights = pool.score(x).softmax(1)
    assert torch.allclose(pool(x), (weights * x).sum(1), atol=1e-6)


def test_drop_path():
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 2, 1)
    kept = drop(x)[:, 0, 0]
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.75]) and abs(kept.mean() - 1) < 0.05
    assert torch.equal(drop.eval()(x), x)
    assert rising(0.3, 4) == pytest.approx([0, 0.1, 0.2, 0.3]) and rising(0.3, 1) == [0]


@pytest.mark.parametrize("kind", ["conv", "linear", "head"])
def test_folding_is_exact(kind):
    torch.manual_seed(0)
    layer, x = {
        "conv": (conv.ConvNorm(4, 6, 3, stride=2, groups=2), torch.randn(2, 4, 7, 9)),
        "linear": (conv.LinearNorm(4, 6), torch.randn(2, 5, 4)),
        "head": (conv.NormLinear(4, 6), torch.randn(3, 4)),
    }[kind]
    layer, x = layer.double(), x.double()
    for _ in range(3):
        layer.train()(x + 1)
    nn.init.normal_(layer.norm.weight), nn.init.normal_(layer.norm.bias)
    model = nn.Sequential(layer).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        assert torch.allclose(deploy(model)(x), model(x), atol=1e-12)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(p.requires_grad for p in deploy(model).parameters())
