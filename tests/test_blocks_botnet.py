"""BoTNet's attention against the goldens and plain lines, resampled tables, and bad sizes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import golden
from support.scatter import scattered
from torch import nn

import vitrail
from vitrail.checkpoint import assign, rename
from vitrail.errors import ConfigError
from vitrail.layers import relative
from vitrail.layers.relative import AbsolutePosition, RelativePosition, attend_by_parts, resized
from vitrail.models import botnet
from vitrail.models.botnet import BottleneckAttention, Config
from vitrail.models.trunk.fitting import fitted

BLOCKS = Path(__file__).parent / "goldens/blocks"
SMALL = Config(
    depths=(1, 2),
    dims=(8, 16),
    expansion=2,
    attending=((), (0, 1)),
    stem_stride=2,
    image=(32, 48),
    classes=3,
)


def test_attention_golden():
    expected = golden.read(BLOCKS / "botnet_mhsa.json")
    layer = BottleneckAttention(64, 4, RelativePosition((8, 12), 16)).double()
    prefix = "stages.3.0.self_attn."
    named = rename({prefix + k: v for k, v in golden.state(expected).items()}, botnet.NAMES["timm"])
    state = {k.removeprefix("stages.3.blocks.0.mixer."): v for k, v in named.items()}
    assign(layer, state, dtype=torch.float64)
    with torch.no_grad():
        found = layer(golden.image(expected["input_shape"]))
    assert golden.deviation(found, expected["outputs"]["output"]) <= 1e-6


def test_stack_golden():
    """The port's stack of three blocks, whose shortcut is a 3x3 convolution."""
    expected = golden.read(BLOCKS / "botnet_stack.json")
    config = Config(
        depths=(1, 3), dims=(32, 64), attending=((), (0, 1, 2)), image=(48, 64), stem_stride=4
    )
    stage = vitrail.create(config).stages[1].double().eval()
    stage.blocks[0].shortcut[0].conv = nn.Conv2d(128, 256, 3, 2, 1, bias=False).double()
    named = rename(
        {f"layer4.{k}": v for k, v in golden.state(expected).items()},
        botnet.NAMES["lucidrains/bottleneck-transformer-pytorch"](config),
    )
    assign(stage, {k.removeprefix("stages.3."): v for k, v in named.items()}, dtype=torch.float64)
    with torch.no_grad():
        found = stage(golden.image(expected["input_shape"]).permute(0, 2, 3, 1))
    assert golden.deviation(found.permute(0, 3, 1, 2), expected["outputs"]["output"]) <= 1e-6


def plain(layer, x, absolute):
    """Position by position: a map (C, H, W) to the same, before the mean of cells."""
    _, h, w = x.shape
    q, k, v = torch.einsum("oc,chw->ohw", layer.qkv.weight, x).chunk(3)
    d = len(q) // layer.heads
    rows, columns = layer.position.rows, layer.position.columns
    factor = d**-0.5 if layer.scaled else 1.0
    out = torch.zeros_like(q)
    for n in range(layer.heads):
        part = slice(n * d, (n + 1) * d)
        for i in range(h):
            for j in range(w):
                logits = torch.zeros(h, w, dtype=x.dtype)
                for p in range(h):
                    for r in range(w):
                        place = rows[p] + columns[r]
                        if not absolute:
                            place = rows[p - i + h - 1] + columns[r - j + w - 1]
                        logits[p, r] = d**-0.5 * q[part, i, j] @ k[part, p, r]
                        logits[p, r] += factor * q[part, i, j] @ place
                shares = logits.flatten().softmax(0)
                out[part, i, j] = v[part].flatten(1) @ shares
    return out


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("kind", [RelativePosition, AbsolutePosition])
def test_attention_in_plain_lines(kind, scaled):
    layer = scattered(BottleneckAttention(8, 2, kind((4, 5), 4), scaled=scaled))
    x = torch.randn(2, 8, 4, 5, dtype=torch.float64)
    expected = torch.stack([plain(layer, one, kind is AbsolutePosition) for one in x])
    assert torch.allclose(layer(x), expected, atol=1e-12)
    shares = layer.weights(x)
    assert torch.allclose(shares.sum(-1), torch.ones((), dtype=torch.float64))


def test_parts_are_the_whole(monkeypatch):
    """Without gradients a batch goes part by part."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(5, 2, 6, 3) for _ in range(3))
    table = torch.randn(3, 6)
    whole = attend_by_parts(q, k, v, lambda part: part @ table, scale=0.3)
    for size in (1, 2 * 6 * 6, 3 * 2 * 6 * 6):
        monkeypatch.setattr(relative, "PART", size)
        with torch.no_grad():
            found = attend_by_parts(q, k, v, lambda part: part @ table, scale=0.3)
        assert torch.allclose(found, whole, atol=1e-6)


def test_cells_at_the_border_average_what_they_have():
    layer = scattered(BottleneckAttention(8, 2, RelativePosition((5, 4), 4), stride=2))
    x = torch.randn(1, 8, 5, 4, dtype=torch.float64)
    whole, found = plain(layer, x[0], False), layer(x)[0]
    assert found.shape == (8, 3, 2)
    assert torch.allclose(found[:, 0, 1], whole[:, :2, 2:].mean((1, 2)))
    assert torch.allclose(found[:, 2, 0], whole[:, 4, :2].mean(1))


def test_tables_are_interpolated():
    """The offset zero stays the middle, and a line stays a line inside."""
    table = torch.arange(7.0)[:, None] - 3
    found = resized(table, 13)[:, 0]
    assert torch.allclose(found, -found.flip(0), atol=1e-6)
    assert torch.allclose(found[1:-1].diff(), torch.tensor(7 / 13))
    assert resized(table, 7) is table


@pytest.mark.parametrize("position", ["relative", "absolute"])
def test_other_images_are_the_same_loaded_or_given(position):
    model = scattered(vitrail.create(SMALL, position=position))
    config = model.config
    x = torch.randn(1, 3, 50, 41, dtype=torch.float64)
    moved = vitrail.load(config, model.state_dict(), image=(50, 41), dtype=torch.float64)
    assert moved.state_dict()["stages.1.blocks.0.mixer.position.rows"].shape[0] == (
        2 * 25 - 1 if position == "relative" else 25
    )
    with torch.no_grad():
        assert torch.allclose(moved(x), model(x), atol=1e-12)


@pytest.mark.parametrize("position", ["relative", "absolute"])
def test_tables_tell_the_image(position):
    other = replace(SMALL, position=position, image=(64, 96), classes=7)
    found = fitted(replace(SMALL, position=position), vitrail.create(other).state_dict(), botnet)
    assert found == other


def test_the_gist_and_timm_differ_in_the_shortcut():
    x = torch.randn(2, 32, 48, 3, dtype=torch.float64).permute(0, 3, 1, 2)
    outputs = []
    for active in (True, False):
        model = scattered(vitrail.create(SMALL, active_shortcut=active))
        with torch.no_grad():
            outputs.append(model(x))
    assert not torch.allclose(*outputs)


def test_blocks_start_as_their_shortcut():
    """The last norm of an attending block starts at zero."""
    for block in vitrail.create(SMALL).stages[1].blocks:
        assert not block.conv3.norm.weight.any()


def test_tables_have_no_decay():
    assert "stages.1.blocks.0.mixer.position.rows" in vitrail.create(SMALL).no_decay()


def test_what_cannot_be_built():
    for changes, said in (
        ({"attending": ((), (2,))}, r"attending has blocks \(2,\) of stage 1, which has 2"),
        ({"attending": ((),)}, "expected as many values, one for each stage"),
        ({"heads": 3}, "dim 16 does not divide into 3 heads"),
        ({"heads": 4000}, "dim 16 does not divide into 4000 heads"),
        ({"position": "polar"}, "position is 'polar': expected relative or absolute"),
        ({"act": "tanh"}, "act is 'tanh': expected relu or silu"),
        ({"squeeze": -1}, "squeeze is -1"),
    ):
        with pytest.raises(ConfigError, match=said):
            vitrail.create(SMALL, **changes)
