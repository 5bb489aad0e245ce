"""SASA's layers against the goldens and plain lines, its stem's mixtures, and bad sizes."""

from pathlib import Path

import pytest
import torch
from support import golden

import vitrail
from vitrail.checkpoint import assign, rename
from vitrail.errors import ConfigError
from vitrail.layers.fold import deploy
from vitrail.models import sasa
from vitrail.models.sasa import AttentionStem, Config, LocalAttention

BLOCKS = Path(__file__).parent / "goldens/blocks"
SMALL = Config(dims=(16, 32), depths=(1, 2), expansion=2, heads=4, image=(32, 32), classes=3)


def filled(module, state, prefix):
    """The module with a golden's state, whose names are those of `prefix` in a network."""
    (rows,) = (names(Config()) for names in sasa.NAMES.values())
    named = rename({prefix + k: v for k, v in state.items()}, rows)
    module.double().eval()
    assign(module, {k.removeprefix(prefix): v for k, v in named.items()}, dtype=torch.float64)
    return module


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("sasa_layer", lambda: LocalAttention(32, 8, 7)),
        ("sasa_single_head", lambda: LocalAttention(16, 1, 7, dim=32)),
    ],
)
def test_layer_goldens(name, build):
    expected = golden.read(BLOCKS / f"{name}.json")
    layer = filled(build(), golden.state(expected), "stages.0.blocks.0.")
    with torch.no_grad():
        found = layer(golden.image(expected["input_shape"]))
    assert golden.deviation(found, expected["outputs"]["output"]) <= 1e-6


def test_stem_golden():
    expected = golden.read(BLOCKS / "sasa_stem.json")
    stem = filled(AttentionStem(Config()), golden.state(expected), "stem.")
    x = golden.image(expected["input_shape"])
    with torch.no_grad():
        for found in (stem(x), deploy(stem)(x)):
            figures = expected["outputs"]["output"]
            assert golden.deviation(found.permute(0, 3, 1, 2), figures) <= 1e-6


def plain(layer, x):
    """Position by position, head by head: a map (C, H, W) to the same."""
    kernel, side = layer.local.kernel, layer.local.kernel // 2
    qkv = torch.einsum("oc,chw->ohw", layer.qkv.weight, x)
    q, k, v = qkv.chunk(3)
    d = len(q) // layer.heads
    out = torch.zeros_like(q)
    for n in range(layer.heads):
        part = slice(n * d, (n + 1) * d)
        for i in range(x.shape[1]):
            for j in range(x.shape[2]):
                logits, values = [], []
                for a in range(kernel):
                    for b in range(kernel):
                        y, z = i + a - side, j + b - side
                        inside = 0 <= y < x.shape[1] and 0 <= z < x.shape[2]
                        r = torch.cat([layer.columns[b], layer.rows[a]])
                        key = k[part, y, z] if inside else torch.zeros_like(r)
                        logits.append(q[part, i, j] @ (key + r))
                        values.append(v[part, y, z] if inside else torch.zeros_like(r))
                out[part, i, j] = torch.stack(logits).softmax(0) @ torch.stack(values)
    return out


@pytest.mark.parametrize("size", [(3, 4), (5, 21), (20, 19)])
@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_attention_in_plain_lines(kernel, size):
    """On maps smaller than the kernel, of one tile and of several; padding is attended to."""
    torch.manual_seed(0)
    layer = LocalAttention(8, 2, kernel).double()
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    expected = torch.stack([plain(layer, one) for one in x])
    assert torch.allclose(layer(x), expected, atol=1e-12)
    with torch.no_grad():
        assert torch.allclose(layer(x), expected, atol=1e-12)
        shares = layer.weights(x)
    assert torch.allclose(shares.sum(-1), torch.ones((), dtype=torch.float64))


def test_shares_are_those_that_act():
    """The weights of a tile that is the whole map give the output, by values with zeros around."""
    torch.manual_seed(0)
    layer = LocalAttention(8, 2, 3).double()
    x = torch.randn(1, 8, 4, 5, dtype=torch.float64)
    shares = layer.weights(x)
    v = torch.einsum("oc,bchw->bohw", layer.qkv.weight.chunk(3)[2], x)
    v = torch.nn.functional.pad(v, (1, 1, 1, 1)).unflatten(1, (2, 4)).flatten(3).mT
    assert shares.shape == (1, 2, 20, 42)
    assert torch.allclose((shares @ v).mT.reshape(1, 8, 4, 5), layer(x), atol=1e-12)


def test_stride_is_a_mean_of_cells():
    torch.manual_seed(0)
    layer = LocalAttention(8, 2, 3, stride=2).double()
    x = torch.randn(1, 8, 5, 6, dtype=torch.float64)
    whole = plain(layer, x[0])
    found = layer(x)[0]
    assert found.shape == (8, 3, 3)
    assert torch.allclose(found[:, 0, 0], whole[:, :2, :2].mean((1, 2)))
    assert torch.allclose(found[:, 2, 2], whole[:, 4, 4:].mean(1))


def test_stem_takes_any_image():
    """Missing pixels are black ones."""
    torch.manual_seed(0)
    stem = AttentionStem(SMALL).eval()
    x = torch.randn(1, 3, 9, 14)
    with torch.no_grad():
        found = stem(x)
        assert found.shape == (1, 3, 4, 16)
        assert torch.equal(found, stem(torch.nn.functional.pad(x, (0, 2, 0, 3))))


def test_tables_have_no_decay():
    free = vitrail.create(SMALL).no_decay()
    assert {"stem.rows", "stem.mixes", "stages.1.blocks.0.mixer.columns"} <= free


def test_what_cannot_be_built():
    for changes, said in (
        ({"kernel": 4}, "kernel is 4: expected an odd number"),
        ({"heads": 3}, "dim 16 does not divide into two halves of 3 heads"),
        ({"stem_heads": 3}, "dim 16 does not divide into 3 heads"),
        ({"stem_stride": 1}, "stem_stride is 1; blocks"),
    ):
        with pytest.raises(ConfigError, match=said):
            vitrail.create(SMALL, **changes)
