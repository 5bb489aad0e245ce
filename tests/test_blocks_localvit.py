"""LocalViT's feed-forward against the authors' outputs and layers, hosts, old files, bad sizes."""

import re

import pytest
import torch
from support import golden
from support.scatter import scattered
from torch import nn

import vitrail
from vitrail import models
from vitrail.checkpoint import rename
from vitrail.errors import ConfigError
from vitrail.layers.fold import deploy
from vitrail.models import deit, pvt, swin, t2t_vit, tnt
from vitrail.models.localvit import NAMES, Config
from vitrail.models.parts.local_feed_forward import LocalFeedForward

SMALL = Config(
    swin.Config(dim=8, depths=(2, 1), heads=(2, 4), window=4), (2, 4), image=(32, 48), classes=3
)


@pytest.mark.parametrize(
    ("name", "act"),
    [("relu6", "relu6"), ("hs_se", "hs+se"), ("hs_eca", "hs+eca"), ("hs_ecah", "hs+ecah")],
)
def test_feed_forward(name, act):
    expected = golden.read(golden.FOLDER / "blocks" / f"localvit_ff_{name}.json")
    theirs = {f".conv.{n}": value for n, value in golden.state(expected).items()}
    named = rename(theirs, NAMES["ofsoundof/LocalViT"](Config(act=act)))
    layer = LocalFeedForward(24, 96, act, 4).double().eval()
    state = {name.removeprefix(".ffn."): value for name, value in named.items()}
    assert not layer.load_state_dict(state, strict=False).unexpected_keys
    x = golden.image(expected["input_shape"])
    b, c, h, w = x.shape
    tokens = torch.cat([torch.ones(b, 1, c, dtype=x.dtype), x.flatten(2).mT], 1)
    with torch.no_grad():
        y = layer(tokens, (h, w))
        assert torch.allclose(layer(x.permute(0, 2, 3, 1)).flatten(1, 2), y[:, 1:])
    assert torch.equal(y[:, 0], tokens[:, 0])  # the class token passes by
    found = y[:, 1:].mT.unflatten(2, (h, w))
    assert golden.deviation(found, expected["outputs"]["y"]) <= 1e-6


class Squeeze(nn.Module):
    """The authors' excitation."""

    def __init__(self, dim, inner):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(dim, inner), nn.ReLU(), nn.Linear(inner, dim))

    def forward(self, x):
        told = self.fc(x.mean((2, 3)))
        return x * ((told + 3).clamp(0, 6) / 6)[:, :, None, None]


def layers(dim, hidden, squeeze, *, local="between", gated=True):
    """The authors' layers of a feed-forward, in their numbers."""
    enter = [nn.Conv2d(dim, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.Hardswish()]
    depthwise = [
        nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False),
        nn.BatchNorm2d(hidden),
        nn.Hardswish(),
    ]
    order = {"between": enter + depthwise, "first": depthwise + enter, "none": enter}[local]
    gate = [Squeeze(hidden, hidden // squeeze)] if gated else []
    leave = [nn.Conv2d(hidden, dim, 1, bias=False), nn.BatchNorm2d(dim)]
    return scattered(nn.Sequential(*order, *gate, *leave))


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("local", ["between", "first", "none"])
def test_orders(local, gated):
    """Of the paper's ablations, under the authors' names."""
    hidden, act = (12 if local == "first" else 24), "hs+se" if gated else "hs"
    theirs = layers(12, hidden, 4, local=local, gated=gated)
    layer = LocalFeedForward(12, hidden, act, 4, local).double().eval()
    state = {f"blocks.0.conv.conv.{n}": value for n, value in theirs.state_dict().items()}
    rows = NAMES["ofsoundof/LocalViT"](Config(act=act, local=local))
    ours = rename(state, rows)
    layer.load_state_dict({n.removeprefix("blocks.0.ffn."): v for n, v in ours.items()})
    x = torch.randn(2, 12, 5, 7, dtype=torch.float64)
    with torch.no_grad():
        expected = (x + theirs(x)).permute(0, 2, 3, 1)
        assert torch.allclose(layer(x.permute(0, 2, 3, 1)), expected, atol=1e-12)
        assert torch.allclose(deploy(layer)(x.permute(0, 2, 3, 1)), expected, atol=1e-12)


def test_orders_of_networks():
    first = deit.Config(dim=16, depth=1, heads=2, hidden=16, patch=8, image=(32, 32))
    for local, host in (("first", first), ("none", first)):
        model = vitrail.create(Config(host, (4,), local=local, classes=3))
        assert ("local" in dict(model.blocks[0].ffn.named_children())) == (local == "first")
        assert model(torch.randn(1, 3, 32, 32)).shape == (1, 3)


def their_name(name):
    """What the authors call a tensor of ours outside of the feed-forwards."""
    name = re.sub(r"stages\.(\d)\.down", lambda m: f"layers.{int(m[1]) - 1}.downsample", name)
    pairs = (
        ("stages.", "layers."),
        ("stem.", "patch_embed."),
        (".mixer.bias.table", ".attn.relative_position_bias_table"),
        (".mixer.", ".attn."),
    )
    for ours, theirs in pairs:
        name = name.replace(ours, theirs)
    return name


def test_in_swin():
    """A Swin whose blocks end in the authors' layers, in place of norm and MLP."""
    host, inside = scattered(vitrail.create(SMALL.host)), {}
    for i, stage in enumerate(host.stages):
        for j, block in enumerate(stage.blocks):
            dim = host.levels[i].channels
            inside[f"layers.{i}.blocks.{j}"] = own = layers(dim, 4 * dim, SMALL.squeeze[i])

            def forward(x, block=block, own=own):
                x = (x + block.mixer(block.norm1(x))).permute(0, 3, 1, 2)
                return (x + own(x)).permute(0, 2, 3, 1)

            block.forward = forward
    state = {
        their_name(name): value
        for name, value in host.state_dict().items()
        if ".norm2." not in name and ".ffn." not in name
    }
    for where, own in inside.items():
        state |= {f"{where}.conv.conv.{n}": value for n, value in own.state_dict().items()}
    model = vitrail.load(SMALL, state, source="ofsoundof/LocalViT", dtype=torch.float64)
    x = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    with torch.no_grad():
        expected = host(x)
        assert torch.allclose(model(x), expected, atol=1e-10)
        assert torch.allclose(deploy(model)(x), expected, atol=1e-10)


def test_swin_learns_and_moves():
    model = scattered(vitrail.create(SMALL)).train()
    model(torch.randn(3, 3, 32, 48, dtype=torch.float64)).square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 0, name
    moved = vitrail.load(SMALL, model.state_dict(), image=(64, 64), dtype=torch.float64)
    assert moved.config.image == moved.config.host.image == (64, 64)
    with torch.no_grad():
        assert moved(torch.randn(1, 3, 64, 64, dtype=torch.float64)).isfinite().all()


@pytest.mark.parametrize(
    ("old", "config"),
    [
        (
            {"host": "deit", "dims": [64], "depths": [3], "heads": [2], "ratios": [2], "patch": 4},
            Config(deit.Config(64, 3, 2, 128, 4), (16,)),
        ),
        (
            {"host": "pvt", "dims": [8, 16], "depths": [1, 2], "heads": [1, 2], "ratios": [4, 4],
             "reductions": [2, 1], "patch": 2},
            Config(pvt.Config((8, 16), (1, 2), (1, 2), (4, 4), (2, 1), 2), (16,)),
        ),
        (
            {"host": "t2t", "dims": [64], "depths": [3], "heads": [2], "ratios": [2], "inner": 12},
            Config(t2t_vit.Config(64, 3, 2, 128), (16,)),
        ),
        (
            {"host": "tnt", "dims": [64], "depths": [3], "heads": [2], "inner": 8,
             "inner_heads": 2, "patch": 8},
            Config(tnt.Config(64, 3, 2, 8, 2, 8), (16,)),
        ),
    ],
    ids=lambda value: value["host"] if isinstance(value, dict) else "",
)  # fmt: skip
def test_configs_of_older_files(old, config):
    """`host` was a word, and the host's sizes stood beside it."""
    whole = {"act": "hs", "drop_path": 0.2, "image": [32, 32], "channels": 1, "classes": 7}
    read = models.config_from_json({"family": "localvit", "squeeze": [16], **old, **whole})
    changes = {"act": "hs", "drop_path": 0.2, "image": (32, 32), "channels": 1, "classes": 7}
    assert read == models.resolve(config, **changes)
    assert models.config_from_json(models.config_json(read)) == read


def test_what_cannot_be_built():
    for changes, said in (
        ({"act": "gelu"}, "act is 'gelu': expected relu6, hs"),
        ({"local": "last"}, "local is 'last', dim 192, hidden 768: expected between, first, none"),
        ({"local": "first"}, "'first' only where hidden is dim"),
        ({"squeeze": (4, 4)}, r"squeeze is \(4, 4\): expected one number for each of 1"),
        ({"host": deit.Config(distilled=True)}, "host.distilled is true"),
        ({"host": {"kind": "swim"}}, "host: kind 'swim' does not exist: did you mean 'swin'"),
        ({"host": {"kind": "deit", "image": (32, 32)}}, "host.image: is the whole network's"),
    ):
        with pytest.raises(ConfigError, match=said):
            vitrail.create("localvit_t", **changes)
    with pytest.raises(ConfigError, match="host: 'swim' is unknown: known are deit, pvt, t2t, tnt"):
        models.config_from_json({"family": "localvit", "host": "swim"})
    with pytest.raises(ConfigError, match="dims: is missing beside host='pvt', the old way"):
        models.config_from_json({"family": "localvit", "host": "pvt"})
