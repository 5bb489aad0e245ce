"""ELSA in plain lines, ghost heads that multiply, and what its hosts ask for."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support import golden
from support.scatter import scattered

import vitrail
from vitrail.checkpoint import rename
from vitrail.errors import ConfigError
from vitrail.layers.windows import WindowAttention
from vitrail.models import config_from_json, config_json, elsa, resolve, swin, volo
from vitrail.models.elsa import ELSA, Config
from vitrail.models.names import elsa as names
from vitrail.models.trunk.fitting import fitted

BLOCKS = Path(__file__).parent / "goldens/blocks"
SWIN = Config(
    swin.Config(8, depths=(1, 1, 2), heads=(2, 2, 4)), kernel=3, image=(56, 40), classes=3
)
VOLO = Config(
    volo.Config((8, 16), (2, 2), (2, 1, 1), mlp_ratio=2.0, stem=4, patch=4),
    kernel=3,
    ghost=("mul", "add"),
    image=(48, 40),
    classes=3,
)
GHOSTS = pytest.mark.parametrize("ghost", [(), ("add",), ("mul",), ("mul", "add")], ids=str)


def test_multiplied_golden():
    """The authors' bare layer, with its scale; the file's tensors are channels first."""
    expected = golden.read(BLOCKS / "elsa_module_lam1.json")
    rows = names.layer("theirs.", "ours.", 24, VOLO)
    named = rename({f"theirs.{n}": v for n, v in golden.state(expected).items()}, rows)
    sizes = {"kernel": 5, "group": 8, "scale": 8**-0.5, "ghost": ("mul", "add")}
    layer = ELSA(24, 3, **sizes).double()
    layer.load_state_dict({name.removeprefix("ours."): value for name, value in named.items()})
    with torch.no_grad():
        found = layer(golden.image(expected["input_shape"]).permute(0, 2, 3, 1))
    assert golden.deviation(found.permute(0, 3, 1, 2), expected["outputs"]["logits"]) <= 1e-6


def plain(m, x):
    """One map (h, w, C): a filter for each channel of each position, spelled out."""
    h, w, c = x.shape
    k, r, heads = m.kernel, m.dilation, m.heads
    q, key = m.qk(x).chunk(2, -1)
    product = (q * key * m.scale).permute(2, 0, 1)[None]
    near = {"padding": k // 2 * r, "dilation": r, "groups": m.mix.groups}
    mixed = F.conv2d(product, m.mix.weight, m.mix.bias, **near)
    logits = m.logits(F.gelu(mixed[0].permute(1, 2, 0))).view(h, w, heads, k * k)
    v, out = m.v(x), torch.zeros_like(x)
    for y in range(h):
        for z in range(w):
            for channel in range(c):
                own = logits[y, z, channel // (c // heads)].softmax(0).view(k, k)
                if m.factor is not None:
                    own = own * m.factor[channel, 0]
                if m.ghost is not None:
                    own = own + m.ghost.weight[channel, 0]
                for i in range(k):
                    for j in range(k):
                        at = y + r * (i - k // 2), z + r * (j - k // 2)
                        if 0 <= at[0] < h and 0 <= at[1] < w:
                            out[y, z, channel] += own[i, j] * v[at[0], at[1], channel]
    return m.proj(out)


@GHOSTS
@pytest.mark.parametrize(
    ("kernel", "size", "dilation"),
    [(3, (4, 3), 1), (5, (2, 4), 1), (3, (1, 1), 1), (3, (5, 4), 2), (5, (4, 3), 3)],
)
def test_elsa_in_plain_lines(kernel, size, dilation, ghost):
    sizes = {"kernel": kernel, "group": 2, "dilation": dilation, "scale": 0.5}
    m = scattered(ELSA(8, 2, **sizes, ghost=ghost))
    x = torch.randn(2, *size, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([plain(m, one) for one in x])
        assert torch.allclose(m(x), expected, atol=1e-12)
        rows = m.weights(x)
    assert rows.shape == (2, 2, size[0] * size[1], kernel**2)
    assert torch.allclose(rows.sum(-1), torch.ones(()).double())


@GHOSTS
def test_elsa_is_differentiable(ghost):
    m = scattered(ELSA(4, 2, kernel=3, group=2, dilation=2, ghost=ghost))
    x = torch.randn(1, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(m, x)


def test_groups_are_whole():
    """Two thirds of the channels, rounded up to groups: the published 128 channels take 88."""
    assert ELSA(128, 4, group=8).mix.weight.shape == (88, 8, 7, 7)
    assert ELSA(96, 3, group=4).mix.weight.shape == (64, 4, 7, 7)


def test_where_it_stands():
    swin = vitrail.create(SWIN)
    kinds = [type(block.mixer) for stage in swin.stages for block in stage.blocks]
    assert kinds == [ELSA, ELSA, WindowAttention, WindowAttention]
    model = vitrail.create(VOLO)
    assert all(b.mixer.factor is not None for b in model.stages[0].blocks)
    assert isinstance(model, volo.VOLO) and model.config == VOLO


def packed(own):
    """A layer's tensors, as the authors' code packs and calls them."""
    found = {"ghost_head": [own[n].transpose(0, 1) for n in ("factor", "ghost.weight") if n in own]}
    found["ghost_head"] = torch.stack(found["ghost_head"]) if found["ghost_head"] else None
    if found["ghost_head"] is not None and len(found["ghost_head"]) == 1:
        found["ghost_head"] = found["ghost_head"][0]
    for leaf in ("weight", "bias"):
        if f"qk.{leaf}" in own:
            found[f"pre_proj.{leaf}"] = torch.cat([own[f"qk.{leaf}"], own[f"v.{leaf}"]])
        found[f"attn.0.{leaf}"] = own[f"mix.{leaf}"]
        found[f"attn.2.{leaf}"] = own[f"logits.{leaf}"]
        found[f"post_proj.{leaf}"] = own[f"proj.{leaf}"]
    kernels = ("pre_proj.weight", "attn.2.weight")
    found = {n: v[:, :, None, None] if n in kernels else v for n, v in found.items()}
    return {n: v for n, v in found.items() if v is not None}


@GHOSTS
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("config", "stages"), [(SWIN, "layers.{}.blocks."), (VOLO, "network.{}.")], ids=["swin", "volo"]
)
def test_names_of_every_ghost_head(config, stages, bias, ghost):
    """Layers packed by the authors' code in either host give our weights back."""
    config = replace(config, ghost=ghost, qkv_bias=bias)
    state = scattered(vitrail.create(config)).state_dict()
    places = sorted({n.partition("mixer.")[0] for n in state if ".mixer.mix." in n})
    theirs, wanted = {}, {}
    for place in places:
        _, i, _, j, _ = place.split(".")
        own = {n: v for n, v in state.items() if n.startswith(f"{place}mixer.")}
        wanted |= own
        layer = packed({n.removeprefix(f"{place}mixer."): v for n, v in own.items()})
        theirs |= {f"{stages.format(i)}{j}.attn.{n}": v for n, v in layer.items()}
    ours = rename(theirs, elsa.NAMES["damo-cv/ELSA"](config))
    assert len(places) == 2 and ours.keys() == wanted.keys()
    assert all(torch.equal(ours[name], value) for name, value in wanted.items())


def test_what_is_not_a_transformers_initialisation():
    """Hosts draw linear layers narrowly; those of ELSA's attention are drawn as convolutions."""
    torch.manual_seed(0)
    model = vitrail.create("elsa_volo_d1").requires_grad_(False)
    mixer = model.stages[0].blocks[0].mixer
    assert mixer.factor.std() == pytest.approx(1, abs=0.1)
    assert mixer.ghost.weight.std() == pytest.approx(0.02, abs=0.002)
    assert mixer.qk.weight.std() == pytest.approx((3 * 192) ** -0.5, rel=0.1)
    assert mixer.proj.weight.std() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("config", [SWIN, VOLO], ids=["swin", "volo"])
def test_other_sizes(config):
    model = scattered(vitrail.create(config)).float()
    with torch.no_grad():
        for h, w in ((200, 333), (57, 90)):
            for x, level in zip(model.features(torch.randn(1, 3, h, w)), model.levels, strict=True):
                assert x.shape[1:3] == (-(-h // level.stride), -(-w // level.stride))


def test_moved_to_another_image():
    """Of a Swin the last stage's bias tables where its window changes, of a VOLO its positions."""
    model = scattered(vitrail.create(SWIN))
    moved = vitrail.load(SWIN, model.state_dict(), image=(112, 112), dtype=torch.float64)
    name = "stages.2.blocks.0.mixer.bias.table"
    rows = [m.state_dict()[name].shape[0] for m in (model, moved)]
    assert rows == [(2 * 3 - 1) ** 2, (2 * 7 - 1) ** 2]
    model = scattered(vitrail.create(VOLO))
    moved = vitrail.load(VOLO, model.state_dict(), image=(64, 96), dtype=torch.float64)
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(moved(x), model(x))
    assert fitted(VOLO, moved.state_dict(), elsa).image == (64, 96)


def test_what_cannot_be_built():
    for config, changes, said in (
        (SWIN, {"host": swin.Config(8, (1, 1), (2,))}, "one each a stage"),
        (SWIN, {"kernel": 4}, "kernel is 4, group 4, dilation 1: expected an odd kernel"),
        (SWIN, {"group": 0}, "group is 0: expected at least 1"),
        (SWIN, {"dilation": 0}, "dilation is 0: expected at least 1"),
        (SWIN, {"ghost": ("sub",)}, r"ghost is \('sub',\): expected mul, add"),
        (SWIN, {"host": replace(SWIN.host, heads=(3, 2, 4))}, "does not divide into 3 heads"),
        (SWIN, {"image": (16, 16)}, "image is 16x16"),
        (VOLO, {"host": replace(VOLO.host, dims=(8,))}, "two entries are expected"),
        (VOLO, {"image": (7, 40)}, "needs 8 pixels on each side"),
    ):
        with pytest.raises(ConfigError, match=said):
            vitrail.create(config, **changes)


def test_images_that_do_not_fit():
    with pytest.raises(ValueError, match="image is 7x40"):
        vitrail.create(VOLO)(torch.zeros(1, 3, 7, 40))
    with pytest.raises(ValueError, match=r"takes \(B, 3, H, W\)"):
        vitrail.create(SWIN)(torch.zeros(1, 2, 56, 40))


@pytest.mark.parametrize(
    ("old", "config"),
    [
        (
            {"host": "swin", "dims": [8, 16], "depths": [1, 2], "heads": [2, 4], "window": 4,
             "multiplied": False, "mlp_ratio": 4.0, "stem": 64, "reading": 2, "patch": 2},
            Config(swin.Config(8, (1, 2), (2, 4), 4, 2), 3, 2),
        ),
        (
            {"host": "volo", "dims": [8, 16], "depths": [2, 1], "heads": [2, 2], "window": 7,
             "multiplied": True, "mlp_ratio": 2.0, "stem": 4, "reading": 1, "patch": 4},
            Config(
                volo.Config((8, 16), (2, 2), (2, 1), 2.0, 4, 4, reading=1), 3, 2,
                ghost=("mul", "add"),
            ),
        ),
    ],
    ids=["swin", "volo"],
)  # fmt: skip
def test_configs_of_older_files(old, config):
    """`host` was a word, and the host's sizes stood beside it."""
    whole = {"kernel": 3, "group": 2, "drop_path": 0.2, "image": [32, 48], "channels": 1}
    read = config_from_json({"family": "elsa", **old, **whole, "classes": 7})
    changes = {"drop_path": 0.2, "image": (32, 48), "channels": 1, "classes": 7}
    assert read == resolve(config, **changes)
    assert config_from_json(config_json(read)) == read
