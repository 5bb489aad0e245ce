"""Attention-augmented convolutions: a repaired port, plain lines, hosts, folding, bad input."""

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
from vitrail.models import aa_resnet, config_from_json, config_json, resnet, resolve
from vitrail.models.aa_resnet import AAConv, Config
from vitrail.models.parts import mnasnet, wide_resnet
from vitrail.models.parts.mnasnet import MnasNet
from vitrail.models.parts.wide_resnet import WideResNet
from vitrail.models.trunk.fitting import fitted

BLOCKS = Path(__file__).parent / "goldens/blocks"
SIZES = {"heads": 2, "image": (32, 32), "classes": 3}
RESNET = Config(resnet.Config((1, 1, 2), (8, 16, 32), 2, stem_stride=1), **SIZES)
WIDE = Config(wide_resnet.Config((1, 1, 1), (8, 16, 32)), **SIZES)
MNAS = Config(
    mnasnet.Config((1, 1, 1, 1, 1, 1), (8, 8, 8, 16, 16, 16, 24)),
    heads=2,
    image=(64, 64),
    classes=3,
)
HOSTS = pytest.mark.parametrize(
    "config", [RESNET, WIDE, MNAS], ids=["resnet", "wide_resnet", "mnasnet"]
)


@pytest.mark.parametrize(("name", "projection"), [("1x1_qkv", 1), ("relative", 3)])
def test_golden(name, projection):
    """A port of the paper's layer, one step repaired; its own q, k and v come from 3x3."""
    expected = golden.read(BLOCKS / f"aa_conv_{name}.json")
    state = golden.state(expected)
    ours = {"position.rows": state["key_rel_h"], "position.columns": state["key_rel_w"]}
    for theirs, mine in (("conv_out", "conv"), ("qkv_conv", "qkv"), ("attn_out", "proj")):
        for leaf in ("weight", "bias"):
            ours[f"{mine}.{leaf}"] = state[f"{theirs}.{leaf}"]
    ours["proj.weight"] = ours["proj.weight"].flatten(1)
    sizes = {"keys": 32, "values": 16, "heads": 4, "grid": (12, 12), "bias": True}
    m = AAConv(16, 40, **sizes, projection=projection).double().eval()
    m.load_state_dict(ours)
    x = golden.image(expected["input_shape"])
    with torch.no_grad():
        for layer in (m, deploy(m)):
            found = layer(x)
            assert golden.deviation(found, expected["outputs"]["output"]) <= 1e-6
            far = found[:, -16:].contiguous()
            assert golden.deviation(far, expected["outputs"]["attention_channels"]) <= 1e-6


def plain(m, x):
    """One map (C, h, w): attention query by query; the convolution's channels come first."""
    far_from = m.pool(x[None])
    _, h, w = far_from.shape[1:]
    d, e = m.parts[0] // m.heads, m.parts[2] // m.heads
    q, k, v = m.qkv(far_from)[0].flatten(1).T.split(m.parts, 1)
    rows, columns = m.position.rows, m.position.columns
    out = torch.zeros(h * w, m.parts[2], dtype=x.dtype)
    for head in range(m.heads):
        own, value = slice(head * d, (head + 1) * d), slice(head * e, (head + 1) * e)
        for i in range(h * w):
            query, y, z = q[i, own] * d**-0.5, h - 1 - i // w, w - 1 - i % w
            keys = [k[j, own] + rows[j // w + y] + columns[j % w + z] for j in range(h * w)]
            logits = torch.stack([query @ key for key in keys])
            out[i, value] = logits.softmax(0) @ v[:, value]
    near = m.conv(x[None])
    far = m.proj(out).T.view(1, -1, h, w)
    far = F.interpolate(far, near.shape[2:], mode="bilinear", align_corners=False)
    return torch.cat([near, far], 1)[0]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("halved", [False, True])
def test_in_plain_lines(stride, halved):
    size, step = (9, 14), stride * (1 + halved)
    grid = tuple(-(-side // step) for side in size)
    sizes = {"keys": 8, "values": 4, "heads": 2, "grid": grid}
    m = scattered(AAConv(6, 10, **sizes, stride=stride, halved=halved))
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([plain(m, one) for one in x])
        assert torch.allclose(m(x), expected, atol=1e-12)
        folded = deploy(m)
        assert torch.allclose(folded(x), expected, atol=1e-12)
        scale, shift = torch.randn(2, 10, dtype=torch.float64)
        folded.absorb_norm(scale, shift)
        expected = expected * scale[:, None, None] + shift[:, None, None]
        assert torch.allclose(folded(x), expected, atol=1e-12)


@pytest.mark.parametrize("projection", [1, 3])
@pytest.mark.parametrize("halved", [False, True])
def test_a_strided_projection_is_every_second_of_a_dense_one(halved, projection):
    """Where means are left out, as in ports: queries, keys and values of every second position."""
    grid = (3, 4) if halved else (5, 7)
    sizes = {"keys": 8, "values": 4, "heads": 2, "grid": grid, "projection": projection}
    m = scattered(AAConv(6, 10, **sizes, stride=2, halved=halved, pooled=False))
    x = torch.randn(2, 6, 9, 14, dtype=torch.float64)
    with torch.no_grad():
        seen = F.avg_pool2d(x, 3, 2, 1) if halved else x
        dense = F.conv2d(seen, m.qkv.weight, m.qkv.bias, padding=projection // 2)
        q, k, v, found = m._heads(x)
        assert found == grid
        parts = [t.transpose(1, 2).flatten(2) for t in (q / m.scale, k, v)]
        expected = dense[:, :, ::2, ::2].flatten(2).mT
        assert torch.allclose(torch.cat(parts, 2), expected, atol=1e-12)
        out = m(x)
        assert torch.allclose(out[:, :6], F.conv2d(x, m.conv.weight, None, 2, 1), atol=1e-12)
        assert torch.allclose(deploy(m)(x), out, atol=1e-12)


@HOSTS
def test_networks_without_means(config):
    """Other numbers where an augmented convolution has a stride, and none where it has not."""
    pooled, strided = (scattered(vitrail.create(config, pooled=pooled)) for pooled in (True, False))
    strided.load_state_dict(pooled.state_dict())
    x = torch.randn(1, 3, *config.image, dtype=torch.float64)
    strides = {m.conv.stride for m in pooled.modules() if isinstance(m, AAConv)}
    with torch.no_grad():
        same = torch.allclose(pooled(x), strided(x), atol=1e-9)
    assert same == (strides == {(1, 1)})


@HOSTS
def test_hosts_deployed_at_other_sizes(config):
    model = scattered(vitrail.create(config))
    folded = deploy(model)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    assert any(isinstance(m, AAConv) for m in folded.modules())
    with torch.no_grad():
        for h, w in ((32, 32), (57, 83), (50, 20)):
            x = torch.randn(2, 3, h, w, dtype=torch.float64)
            assert torch.allclose(folded(x), model(x), rtol=1e-9, atol=1e-9)
            maps = zip(model.features(x), model.levels, strict=True)
            assert all(m.shape[1] == -(-h // level.stride) for m, level in maps)


@HOSTS
def test_hosts_learn_everywhere(config):
    model = scattered(vitrail.create(config)).train()
    model(torch.randn(3, 3, *config.image, dtype=torch.float64)).square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 0, name


@HOSTS
def test_other_images(config):
    """Tables moved on loading compute what the model computes on the way."""
    model = scattered(vitrail.create(config))
    moved = vitrail.load(model.config, model.state_dict(), image=(64, 96), dtype=torch.float64)
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(model(x), moved(x), atol=1e-12)
    square = vitrail.create(config, image=(96, 96))
    assert fitted(config, square.state_dict(), aa_resnet).image == (96, 96)
    assert any(n.endswith("position.rows") for n in model.no_decay())


def test_what_is_augmented():
    """All but the first stage; keys have 20 channels a head, numbers are multiples of 8 heads."""
    model = vitrail.create("aa_resnet_50")
    shapes = {
        i: {b.mixer.parts for b in stage.blocks if isinstance(b.mixer, AAConv)}
        for i, stage in enumerate(model.stages)
    }
    assert shapes == {0: set(), 1: {(160, 160, 16)}, 2: {(160, 160, 24)}, 3: {(160, 160, 48)}}
    grids = [model.stages[i].blocks[0].mixer.position.rows.shape[0] for i in (1, 2, 3)]
    assert grids == [27, 27, 13]


def test_hosts_without_attention():
    """The trunks are the hosts': MnasNet is torchvision's, Wide-ResNet-28-10 as large as told."""
    import torchvision

    theirs = torchvision.models.mnasnet1_0(weights=None).double().eval()
    config = aa_resnet.VARIANTS["aa_mnasnet"].config.host
    ours = MnasNet(config, lambda i, j, a, b: torch.nn.Conv2d(a, b, 1, bias=False)).double().eval()
    with torch.no_grad():
        pairs = list(zip(theirs.state_dict().values(), ours.state_dict().values(), strict=True))
        for value, own in pairs:
            assert value.shape == own.shape
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.1 if value.ndim == 1 else value)
                own.copy_(value)
        x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
        assert torch.allclose(theirs(x), ours(x), rtol=1e-9)
    config = aa_resnet.VARIANTS["aa_wide_resnet_28_10"].config.host
    with torch.device("meta"):
        wide = WideResNet(config, lambda i, j, a, b, s: torch.nn.Conv2d(a, b, 3, s, 1, bias=False))
    assert sum(p.numel() for p in wide.parameters()) == 36_536_884


def test_what_cannot_be_built():
    for config, changes, said in (
        (RESNET, {"host": "vgg"}, "expected one of the kinds resnet, wide_resnet, mnasnet"),
        (RESNET, {"upsilon": 1.0}, "channels left to the convolution"),
        (RESNET, {"host": replace(RESNET.host, dims=(8, 16))}, "differ in length"),
        (WIDE, {"host": replace(WIDE.host, dims=(8, 16))}, "differ in length"),
        (MNAS, {"host": mnasnet.Config((), (8,))}, "a mnasnet has widths"),
    ):
        with pytest.raises(ConfigError, match=said):
            vitrail.create(config, **changes)
    with pytest.raises(ValueError, match="expected multiples of 3 heads"):
        AAConv(8, 16, keys=8, values=4, heads=3, grid=(4, 4))


@pytest.mark.parametrize(
    ("word", "config"), [("resnet", RESNET), ("wide", WIDE), ("mnasnet", MNAS)], ids=str
)
def test_configs_of_older_files(word, config):
    """`host` was a word, and the host's sizes stood beside it."""
    sizes = {"depths": config.host.depths, "dims": config.host.dims}
    more = {"expansion": 2, "stem_stride": 1}  # written for every host
    whole = {"heads": 2, "kappa": 0.3, "upsilon": 0.2, "drop_path": 0.1, "channels": 1}
    old = {**sizes, **more, **whole, "image": [32, 64], "classes": 7}
    read = config_from_json({"family": "aa_resnet", "host": word, **old})
    assert read == resolve(config, **whole, image=(32, 64), classes=7)
    assert config_from_json(config_json(read)) == read
