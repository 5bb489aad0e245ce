"""HaloNet's attention against the goldens and plain lines, whole blocks, and bad sizes."""

from pathlib import Path

import pytest
import torch
from support import golden
from support.scatter import scattered

import vitrail
from vitrail.checkpoint import assign, rename
from vitrail.errors import ConfigError
from vitrail.layers.fold import deploy
from vitrail.layers.neighborhood import neighborhood
from vitrail.models import botnet, halonet
from vitrail.models.halonet import Config, HaloAttention
from vitrail.models.parts.attention_resnet import ExcitedConvNorm

BLOCKS = Path(__file__).parent / "goldens/blocks"
SMALL = Config(
    depths=(1, 2),
    dims=(8, 16),
    heads=(2, 4),
    block=4,
    halo=1,
    stem_stride=2,
    image=(32, 32),
    classes=3,
)


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("halo_attn", lambda: HaloAttention(64, 4, block=8, halo=3, scaled=True)),
        (
            "halo_attn_stride2",
            lambda: HaloAttention(64, 6, block=8, halo=3, stride=2, width=96, inner=48),
        ),
    ],
)
def test_goldens(name, build):
    expected = golden.read(BLOCKS / f"{name}.json")
    layer, prefix = build().double(), "stages.3.0.self_attn."
    named = rename(
        {prefix + k: v for k, v in golden.state(expected).items()}, halonet.NAMES["timm"]
    )
    state = {k.removeprefix("stages.3.blocks.0.mixer."): v for k, v in named.items()}
    assign(layer, state, dtype=torch.float64)
    with torch.no_grad():
        found = layer(golden.image(expected["input_shape"]))
    assert golden.deviation(found, expected["outputs"]["output"]) <= 1e-6


def plain(layer, x, step):
    """Query by query: a map (C, H, W) of whole blocks, of which every `step`-th pixel asks."""
    _, h, w = x.shape
    b, halo, d, e = layer.block, layer.halo, layer.d, layer.width // layer.heads
    side = b + 2 * halo
    rows, columns = layer.position.rows, layer.position.columns
    q = torch.einsum("oc,chw->ohw", layer.q.weight, x)
    kv = torch.einsum("oc,chw->ohw", layer.kv.weight, x)
    kv = torch.nn.functional.pad(kv, (halo,) * 4)
    out = torch.zeros(layer.width, h // step, w // step, dtype=x.dtype)
    for n in range(layer.heads):
        k, v = kv[n * (d + e) :][:d], kv[n * (d + e) + d :][:e]
        for i in range(0, h, step):
            for j in range(0, w, step):
                top, left = i - i % b, j - j % b
                asks, logits = q[n * d :][:d, i, j], torch.zeros(side, side, dtype=x.dtype)
                for a in range(side):
                    for c in range(side):
                        r = rows[a - i % b // step + side - 1]
                        r = r + columns[c - j % b // step + side - 1]
                        content = d**-0.5 * asks @ k[:, top + a, left + c]
                        factor = d**-0.5 if layer.scaled else 1.0
                        logits[a, c] = content + factor * asks @ r
                window = v[:, top : top + side, left : left + side]
                share = logits.flatten().softmax(0)
                out[n * e :][:e, i // step, j // step] = window.flatten(1) @ share
    return out


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("halo", [0, 1, 3])
def test_attention_in_plain_lines(halo, stride, scaled):
    layer = scattered(
        HaloAttention(8, 2, block=4, halo=halo, stride=stride, width=12, inner=4, scaled=scaled)
    )
    x = torch.randn(2, 8, 8, 12, dtype=torch.float64)
    expected = torch.stack([plain(layer, one, stride) for one in x])
    assert torch.allclose(layer(x), expected, atol=1e-12)
    with torch.no_grad():
        assert torch.allclose(layer(x), expected, atol=1e-12)


def test_a_block_that_the_stride_does_not_divide():
    """Attention at full size, then the mean of cells."""
    layer = scattered(HaloAttention(8, 2, block=3, halo=1, stride=2))
    x = torch.randn(1, 8, 6, 6, dtype=torch.float64)
    expected = torch.nn.functional.avg_pool2d(plain(layer, x[0], 1)[None], 2)
    assert torch.allclose(layer(x), expected, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(5, 7), (2, 3), (9, 8)])
def test_other_sizes_are_padded_to_whole_blocks(size, stride):
    layer = scattered(HaloAttention(8, 2, block=4, halo=1, stride=stride))
    x = torch.randn(1, 8, *size, dtype=torch.float64)
    h, w = size
    whole = torch.nn.functional.pad(x, (0, -w % 4, 0, -h % 4))
    expected = plain(layer, whole[0], stride)[None, :, : -(-h // stride), : -(-w // stride)]
    assert torch.allclose(layer(x), expected, atol=1e-12)


def test_a_block_of_one_is_a_neighborhood():
    """The paper's equivalence: b = 1 and h = 1 attend to the 3x3 nearest, padded by zeros."""
    layer = scattered(HaloAttention(8, 2, block=1, halo=1))
    x = torch.randn(1, 8, 5, 6, dtype=torch.float64)
    maps = x.permute(0, 2, 3, 1)
    k, v = layer.kv(maps).unflatten(3, (2, 8)).split(4, 4)
    q = layer.q(maps).unflatten(3, (2, 4))
    # A window starts a halo above its block: so far are the tables' rows shifted.
    tables = (layer.position.rows.roll(-1, 0), layer.position.columns.roll(-1, 0))
    expected = neighborhood(q, k, v, kernel=3, border="zero", tables=tables)
    assert torch.allclose(layer(x), expected.flatten(3).permute(0, 3, 1, 2), atol=1e-12)


def test_shares_sum_to_one():
    layer = scattered(HaloAttention(8, 2, block=4, halo=1, stride=2))
    shares = layer.weights(torch.randn(2, 8, 7, 9, dtype=torch.float64))
    assert shares.shape == (2 * 6, 2, 4, 36)
    assert torch.allclose(shares.sum(-1), torch.ones((), dtype=torch.float64))


def test_a_final_convolution():
    model = vitrail.create(SMALL, final=24).eval()
    with torch.no_grad():
        assert model.embedding(torch.randn(2, 3, 32, 32)).shape == (2, 24)
    assert model.levels[-1].channels == 16


SQUEEZED = {
    "excite": 4, "final": 24, "stem_strides": (2, 1), "stem_dims": (6, 8), "expansion": (2, 3),
    "attending": ((), (1,)), "stem_kernel": 3, "act": "silu",
}  # fmt: skip


@pytest.mark.parametrize("small", [SMALL, botnet.Config(
    depths=(1, 2), dims=(8, 16), stem_stride=2, image=(32, 32), classes=3
)], ids=["halo", "bot"])  # fmt: skip
def test_excited_blocks_deployed(small):
    """Blocks without attention excite before their last convolution; folding changes nothing."""
    model = scattered(vitrail.create(small, **SQUEEZED))
    excited = [
        isinstance(block.conv3, ExcitedConvNorm) for stage in model.stages for block in stage.blocks
    ]
    assert excited == [True, True, False]
    assert [level.channels for level in model.levels] == [16, 48] and model.width == 24
    x, folded = torch.randn(2, 3, 32, 24, dtype=torch.float64), deploy(model)
    with torch.no_grad():
        assert torch.allclose(folded(x), model(x), atol=1e-10)
        block, y = model.stages[0].blocks[0], torch.randn(2, 8, 5, 6, dtype=torch.float64)
        gate = block.conv3.excite
        told = gate.fc2(gate.fc1(y.mean((2, 3))).relu()).sigmoid()[:, :, None, None]
        expected = block.conv3.norm(block.conv3.conv(y * told))
        assert torch.allclose(block.conv3(y), expected, atol=1e-12)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())


def test_tables_have_no_decay():
    assert "stages.1.blocks.0.mixer.position.rows" in vitrail.create(SMALL).no_decay()


def test_what_cannot_be_built():
    for changes, said in (
        ({"block": 0}, "block is 0: expected at least 1"),
        ({"halo": -1}, "halo is -1: expected at least 0"),
        ({"heads": (2,)}, "expected as many values"),
        ({"heads": (3, 4)}, "8 channels of queries do not divide into 3 heads"),
        ({"value_ratio": 1.1, "dims": (16, 32)}, "17 channels of values do not divide"),
        ({"attending": ((0, 1), ())}, r"attending has blocks \(0, 1\) of stage 0, which has 1"),
        ({"act": "gelu"}, "act is 'gelu'"),
        ({"excite": -1}, "excite is -1: expected at least 0"),
        ({"stem_strides": (2, 2)}, r"stem_strides are \(2, 2\): expected one for each of 0"),
        ({"expansion": (2, 0)}, r"expansion is 0: expected at least 1"),
    ):
        with pytest.raises(ConfigError, match=said):
            vitrail.create(SMALL, **changes)
