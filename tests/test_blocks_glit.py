"""GLiT: the authors' codes, and each kind of heads against plain lines."""

import pytest
import torch

import vitrail
from vitrail.layers.attention import Attention
from vitrail.layers.fold import deploy
from vitrail.models.glit import Config, GLiT, LocalHeads, MixedHeads, decoded

SMALL = Config(
    dim=12,
    heads=3,
    local=(0, 1, 3),
    attention_ratios=(0.5, 1.0, 1.0),
    kernels=(5, 5, 7),
    local_ratios=(1.0, 4.0, 2.0),
    mlp_ratios=(2.0, 3.0, 2.0),
    patch=4,
    image=(16, 12),
    classes=4,
)


def scattered(module):
    """Random parameters and statistics, in eval mode."""
    torch.manual_seed(0)
    module.double().eval()
    with torch.no_grad():
        for value in [*module.parameters(), *module.buffers()]:
            if value.is_floating_point():
                value.add_(torch.rand_like(value) * 0.5)
    return module


def convolved(m: LocalHeads, x: torch.Tensor) -> torch.Tensor:
    """What local heads make of one sequence (N, C), token by token and channel by channel."""
    hidden, kernel = m.conv.out_channels, m.conv.kernel_size[1]
    both = x @ m.enter.weight.T + m.enter.bias
    gated = both[:, :hidden] / (1 + torch.exp(-both[:, hidden:]))
    rows = []
    for n in range(len(x)):
        y = m.conv.bias.clone()
        for j in range(kernel):
            at = n + j - kernel // 2
            if 0 <= at < len(x):
                y = y + gated[at] * m.conv.weight[:, 0, 0, j]
        y = (y - m.norm.running_mean) / (m.norm.running_var + 1e-5).sqrt()
        y = y * m.norm.weight + m.norm.bias
        rows.append(y / (1 + torch.exp(-y)))
    return torch.stack(rows) @ m.leave.weight.T + m.leave.bias


def attended(m: Attention, x: torch.Tensor) -> torch.Tensor:
    q, k, v = (x @ m.qkv.weight.T + m.qkv.bias).chunk(3, 1)
    heads = []
    for a, b, c in zip(*(part.chunk(m.heads, 1) for part in (q, k, v)), strict=True):
        heads.append(torch.softmax(a @ b.T * a.shape[1] ** -0.5, 1) @ c)
    return torch.cat(heads, 1) @ m.proj.weight.T + m.proj.bias


def test_local_heads():
    module = scattered(LocalHeads(8, 6, 5))
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    with torch.no_grad():
        for row, found, folded in zip(x, module(x), deploy(module)(x), strict=True):
            expected = convolved(module, row)
            assert (found - expected).abs().max() <= 1e-12
            assert (folded - expected).abs().max() <= 1e-12


def test_mixed_heads_do_not_mix():
    module = scattered(MixedHeads(Attention(4, 1, inner=8), LocalHeads(8, 6, 5), 4))
    x = torch.randn(3, 9, 12, dtype=torch.float64)
    with torch.no_grad():
        for row, found in zip(x, module(x), strict=True):
            parts = attended(module.attention, row[:, :4]), convolved(module.local, row[:, 4:])
            assert (found - torch.cat(parts, 1)).abs().max() <= 1e-12
        rows = module.weights(x)
    assert rows.shape == (3, 1, 9, 9) and torch.allclose(rows.sum(-1), torch.ones(()).double())


def test_kinds_of_blocks():
    mixers = [block.mixer for block in GLiT(SMALL).blocks]
    assert [type(m) for m in mixers] == [Attention, MixedHeads, LocalHeads]
    assert mixers[0].proj.in_features == 6  # half of the width
    assert mixers[1].attention.heads == 2 and mixers[1].local.conv.out_channels == 16
    assert mixers[2].conv.kernel_size == (1, 7)


def test_codes():
    fields = decoded((3, 0, 1, 2), (7, 4, 8, 3), heads=6)
    assert fields == {
        "attention_ratios": (2.0, 1.0, 1.0, 1.0),
        "kernels": (31, 31, 31, 31),
        "local_ratios": (1.0, 2.0, 4.0, 2.0),
        "mlp_ratios": (4.0, 4.0, 6.0, 2.0),
        "local": (0, 6, 4, 2),
    }


def test_another_size():
    """A model moved to another size when loaded computes what the unmoved one resamples."""
    model = scattered(vitrail.create(SMALL))
    moved = vitrail.load(SMALL, model.state_dict(), image=(24, 8), dtype=torch.float64)
    x = torch.randn(2, 3, 24, 8, dtype=torch.float64)
    with torch.no_grad():
        assert (model(x) - moved(x)).abs().max() <= 1e-12
        assert moved.features(x)[0].shape == (2, 6, 2, 12)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"heads": 5}, "dim 12 does not divide into 5 heads"),
        ({"local": (0, 1, 4)}, "expected 0 to 3"),
        ({"local": (0, 1)}, "one entry a block"),
        ({"kernels": (5, 5, 6)}, "kernel is 6: expected an odd number"),
        ({"heads": 0}, "heads is 0: expected at least 1"),
        ({"attention_ratios": (0.6, 1.0, 1.0)}, "0.6 in block 0, which makes 7 channels"),
        ({"local": (0, 1, 3), "local_ratios": (1.0, 1.0, 0.0)}, "local_ratios is 0.0 in block 2"),
        ({"image": (18, 12)}, "18x12; patches of 4"),
    ],
)
def test_refusals(changes, match):
    with pytest.raises(vitrail.errors.ConfigError, match=match):
        vitrail.create(SMALL, **changes)
