"""CoAtNet's own parts against slow twins, what its figures say, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support import golden
from torch import nn

import vitrail
from vitrail import models
from vitrail.errors import ConfigError
from vitrail.layers.conv import channels_first, channels_last
from vitrail.layers.fold import deploy
from vitrail.layers.mbconv import MBConv
from vitrail.measure.counts import counts
from vitrail.models.coatnet import (
    SPACE,
    VARIANTS,
    Config,
    EverySecond,
    FirstBlock,
    Half,
    RelativeAttention,
    RelativeBias,
    grids,
)

SMALL = Config(
    stem=8,
    dims=(16, 24, 32, 64),
    depths=(1, 2, 2, 1),
    channels_per_head=16,
    drop_path=0.0,
    image=(96, 64),
    classes=5,
)


def scattered(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random parameters and statistics, in eval mode and float64."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.double().eval().state_dict().items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
        scale = max(1, value[0].numel()) ** -0.5 if value.ndim > 1 else 0.3
        value.copy_(noise.abs() + 0.5 if name.endswith("running_var") else noise * scale)
    return module


def image(*shape: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("grid", [(1, 1), (3, 4), (5, 2)])
def test_bias_belongs_to_query_minus_key(grid):
    (h, w), bias = grid, RelativeBias(2, grid)
    nn.init.normal_(bias.table)
    dense = bias(grid).view(2, h, w, h, w)
    for y, x, v, u in torch.cartesian_prod(*(torch.arange(n) for n in (h, w, h, w))).tolist():
        row = (y - v + h - 1) * (2 * w - 1) + x - u + w - 1
        assert torch.equal(dense[:, y, x, v, u], bias.table[row])


def test_bias_of_another_map_is_resized():
    bias, other = RelativeBias(3, (4, 3)), RelativeBias(3, (6, 7))
    nn.init.normal_(bias.table)
    table = bias.table.detach().view(1, 7, 5, 3).permute(0, 3, 1, 2)
    table = F.interpolate(table, (11, 13), mode="bilinear", align_corners=False)
    other.table.data = table[0].flatten(1).mT.contiguous()
    assert torch.allclose(bias((6, 7)), other((6, 7)))
    # what a position says of itself stays
    middle = bias((6, 7))[0].diagonal(dim1=1, dim2=2)
    assert torch.allclose(middle, bias.table[17][:, None].expand_as(middle), atol=1e-6)


def test_bias_is_kept_and_notices_changes():
    bias = RelativeBias(2, (3, 3))
    with torch.no_grad():
        first = bias((3, 3))
        assert bias((3, 3)) is first and bias((2, 3)).shape == (1, 2, 6, 6)
        bias.table.add_(1)
        assert torch.equal(bias((3, 3)), first + 1)


def test_attention_twin():
    """softmax of scaled products plus the scalars of offsets, head after head."""
    mixer = scattered(RelativeAttention(12, 32, 4, (3, 5)))
    x = image(2, 3, 5, 12)
    qkv, bias = mixer.qkv(x).flatten(1, 2), mixer.bias((3, 5))[0]
    heads = []
    for n in range(4):
        q, k, v = (qkv[..., 32 * part + 8 * n :][..., :8] for part in range(3))
        heads.append((q @ k.mT / 8**0.5 + bias[n]).softmax(-1) @ v)
    expected = mixer.proj(torch.cat(heads, -1)).view(2, 3, 5, 32)
    assert torch.allclose(mixer(x), expected, atol=1e-12)
    assert torch.allclose(mixer.weights(x).sum(-1), torch.ones((), dtype=x.dtype))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
def test_bottleneck_of_the_paper(size, training):
    """The stride is that of the first 1x1 convolution; its norm has seen the whole map."""
    shortcut = nn.Sequential(Half("max"), nn.Linear(6, 8))
    block = scattered(MBConv(6, 8, thin=EverySecond(), shortcut=shortcut)).train(training)
    x, e = image(2, *size, 6), block.excite

    def normed(norm, y):
        stats = None if training else norm.running_mean, None if training else norm.running_var
        return F.batch_norm(y, *stats, norm.weight, norm.bias, training)

    y = F.conv2d(
        normed(block.norm, channels_first(x)), block.expand.weight[..., None, None], None, 2
    )
    y = F.gelu(normed(block.norm1, y))
    y = F.gelu(normed(block.norm2, F.conv2d(y, block.depthwise.weight, None, 1, 1, 1, 32)))
    y = y * e.fc2(F.silu(e.fc1(y.mean((2, 3))))).sigmoid()[..., None, None]
    assert e.fc1.out_features == 2  # a quarter of the block's width, not of the branch's
    pooled = F.max_pool2d(F.pad(channels_first(x), (0, 1, 0, 1), value=-torch.inf), 2)
    pooled = pooled[:, :, : (size[0] + 1) // 2, : (size[1] + 1) // 2]
    expected = shortcut[1](channels_last(pooled)) + block.project(channels_last(y))
    assert torch.allclose(block(x), expected, atol=1e-12)
    if not training:
        assert torch.allclose(deploy(block)(x), expected, atol=1e-12)


def test_first_block_pools_behind_the_norm():
    mixer = RelativeAttention(6, 16, 1, (3, 2))
    block = scattered(FirstBlock(6, 16, mixer, Half("max"), 0.0))
    x = image(2, 6, 4, 6)
    y = F.layer_norm(x, (6,), block.norm1.weight, block.norm1.bias, 1e-6)
    x, y = (v.unflatten(1, (3, 2)).unflatten(3, (2, 2)).amax((2, 4)) for v in (x, y))
    x = block.shortcut[1](x) + mixer(y)
    assert torch.allclose(block(image(2, 6, 4, 6)), x + block.ffn(block.norm2(x)), atol=1e-12)


def test_pools_at_a_border_take_what_is_there():
    x = -1 - image(1, 3, 5, 2).abs()
    for kind, reduce in (("max", torch.amax), ("average", torch.mean)):
        y = Half(kind)(x)
        assert y.shape == (1, 2, 3, 2)
        assert torch.allclose(y[:, 1, 2], x[:, 2, 4])
        assert torch.allclose(y[:, 1, 0], reduce(x[:, 2, :2], dim=1))


@pytest.mark.parametrize("down", ["max", "average"])
def test_loading_for_another_image_is_resizing_on_the_way(down):
    config = replace(SMALL, down=down)
    model = scattered(vitrail.create(config))
    for size in ((64, 64), (97, 130)):
        moved = vitrail.load(config, model.state_dict(), image=size, dtype=torch.float64)
        x = image(2, 3, *size)
        with torch.no_grad():
            assert torch.allclose(model(x), moved(x), atol=1e-10)
            maps = moved.features(x)
        assert grids(moved.config) == [tuple(m.shape[1:3]) for m in maps]


@pytest.mark.parametrize("down", ["max", "average"])
def test_deployed_in_single_precision(down):
    """Packed weights, fused activations and thinned maps give what float64 gives."""
    exact = scattered(vitrail.create(replace(SMALL, down=down)))
    model = vitrail.load(exact.config, exact.state_dict())
    x = image(2, 3, 75, 101)
    with torch.no_grad():
        expected = exact(x)
        for ours in (model, deploy(model)):
            found = ours(x.float()).double()
            assert (found - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize("layout", ["CCCC", "CCCT", "CCTT", "CTTT", "TTTT"])
def test_layouts(layout):
    """The paper's comparison, with a stem of stride 1 and a first stage of the same size."""
    config = Config(
        stem=16,
        dims=(16, 32, 64, 128),
        depths=(1, 1, 1, 1),
        layout=layout,
        strides=(1, 2, 2, 1),
        stem_stride=1,
        channels_per_head=16,
        image=(28, 28),
        channels=1,
    )
    model = vitrail.create(config)
    assert [(v.stride, v.channels) for v in model.levels] == [(1, 16), (2, 32), (4, 128)]
    assert model(image(2, 1, 28, 28, dtype=torch.float32)).shape == (2, 1000)
    kinds = "".join("C" if isinstance(b, MBConv) else "T" for s in model.stages for b in s.blocks)
    assert kinds == layout


def test_a_run_of_stride_one_belongs_to_the_stage_before():
    with torch.device("meta"):
        model = vitrail.create("coatnet_6")
    assert [(v.stride, v.channels) for v in model.levels] == [
        (4, 192),
        (8, 384),
        (16, 1536),
        (32, 2048),
    ]
    first = model.get_submodule("stages.2.blocks.8")
    assert isinstance(first, FirstBlock) and isinstance(first.pool, nn.Identity)
    assert len(model.stages[2].blocks) == 50 and first.mixer.heads == 12


def test_published_operations():
    """Of sizes 0 to 5 they are the products and 14 for every head and pair of positions."""
    seen = 0
    for name, variant in VARIANTS.items():
        if variant.flops_g is None or name[8] > "5" or name.endswith("timm"):
            continue
        with torch.device("meta"):
            products = counts(vitrail.create(name), variant.config.image, 3).macs
        c, pairs = variant.config, 0
        for kind, dim, depth, (h, w) in zip(c.layout, c.dims, c.depths, grids(c), strict=True):
            pairs += (kind == "T") * depth * dim // c.channels_per_head * (h * w) ** 2
        assert abs((products + 14 * pairs) / 1e9 / variant.flops_g - 1) <= 0.01, name
        seen += 1
    assert seen == 20


def test_figures_of_size_6_are_those_of_a_wider_last_stage():
    config = VARIANTS["coatnet_6_512_jft"].config
    with torch.device("meta"):
        wider = vitrail.create(config, dims=(*config.dims[:-1], 3072))
    found = counts(wider, (512, 512), 3)
    assert abs(found.params / 1470e6 - 1) <= 0.005 and abs(found.macs / 1521e9 - 1) <= 0.02


@pytest.mark.parametrize("size", [(224, 224), (384, 384), (64, 160)])
def test_identified_with_its_image(size):
    with torch.device("meta"):
        state = vitrail.create("coatnet_0", image=size, classes=9).state_dict()
    found = models.identify_state(state)
    assert found.name.startswith("coatnet_0")
    assert found.config.image == size and found.config.classes == 9
    for name in list(state):
        if name.endswith("stages.3.blocks.0.mixer.bias.table"):
            state[name] = state[name][:13]  # tables of no image
    assert models.identify_state(state) is None


def test_names_of_timm_are_taken_for_its_models():
    """Its default way to half the size has the tensors of the paper's."""
    state = golden.state(golden.read(golden.FOLDER / "coatnet_0_224_maxpool.json"))
    found = vitrail.identify(state)
    assert (found.name, found.source) == ("coatnet_0_timm", "timm")


def test_small_models_are_small():
    for config in SPACE.configs(image=(28, 28), channels=1, classes=10):
        try:
            with torch.device("meta"):
                model = vitrail.create(config)
        except ConfigError as refused:
            assert "image is 28x28" in str(refused)
            continue
        assert 2e4 <= sum(p.numel() for p in model.parameters()) <= 6e6


def test_drop_rates_rise_and_tables_do_not_decay():
    model = vitrail.create(replace(SMALL, drop_path=0.5))
    rates = [b.drop_path.rate for s in model.stages for b in s.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert {n.rsplit(".", 2)[1] for n in model.no_decay()} == {"bias"} and len(
        model.no_decay()
    ) == 3


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"depths": (1, 2, 2)}, r"depths is \(1, 2, 2\).*expected as many values"),
        ({"depths": (1, 0, 2, 1)}, "depths is 0: expected at least 1"),
        ({"dims": (2, 24, 32, 64)}, "a width from 4"),
        ({"channels_per_head": 0}, "channels_per_head is 0: expected at least 1"),
        ({"layout": "CCTX"}, "layout 'CCTX'.*a letter C or T"),
        ({"layout": "", "dims": (), "depths": (), "strides": ()}, "a letter C or T"),
        ({"strides": (2, 3, 2, 2)}, r"strides \(2, 3, 2, 2\).*expected strides of 1 or 2"),
        ({"stem_stride": 4}, "stem_stride 4.*expected strides of 1 or 2"),
        ({"down": "min"}, "down 'min'.*max or average"),
        ({"dims": (16, 24, 40, 64)}, "dim 40 does not divide into heads of 16 channels"),
        ({"image": (64, 31)}, "image is 64x31; expected sides from 32"),
    ],
)
def test_bad_sizes(changes, match):
    with pytest.raises(ConfigError, match=match):
        vitrail.create(SMALL, **changes)


def test_bad_input():
    model = vitrail.create(SMALL)
    with pytest.raises(ValueError, match=r"input is \(1, 1, 64, 64\); this coatnet takes \(B, 3"):
        model(torch.zeros(1, 1, 64, 64))
