"""ELSA in plain lines, ghost heads that multiply, and what its hosts ask for."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support import golden
from support.scatter import scattered

import vitrail
from vitrail.errors import ConfigError
from vitrail.layers.windows import WindowAttention
from vitrail.models import elsa, volo
from vitrail.models.elsa import ELSA, Config, MultipliedELSA
from vitrail.models.trunk.fitting import fitted

BLOCKS = Path(__file__).parent / "goldens/blocks"
SWIN = Config(
    dims=(8, 16, 32), depths=(1, 1, 2), heads=(2, 2, 4), kernel=3, image=(56, 40), classes=3
)
VOLO = Config(
    host="volo",
    dims=(8, 16),
    depths=(2, 1, 1),
    heads=(2, 2),
    kernel=3,
    multiplied=True,
    mlp_ratio=2.0,
    stem=4,
    image=(48, 40),
    classes=3,
)


def test_multiplied_golden():
    """The authors' bare layer, with its scale; the file's tensors are channels first."""
    expected = golden.read(BLOCKS / "elsa_module_lam1.json")
    state = golden.state(expected)
    factor, ghost = state["ghost_head"].transpose(1, 2)
    ours = {"factor": factor, "ghost.weight": ghost}
    for leaf in ("weight", "bias"):
        packed = (
            state[f"pre_proj.{leaf}"].flatten(1) if leaf == "weight" else state["pre_proj.bias"]
        )
        ours[f"qk.{leaf}"], ours[f"v.{leaf}"] = packed[:32], packed[32:]
        ours[f"mix.{leaf}"] = state[f"attn.0.{leaf}"]
        ours[f"proj.{leaf}"] = state[f"post_proj.{leaf}"]
        ours[f"logits.{leaf}"] = state[f"attn.2.{leaf}"].reshape(ours_logits(leaf))
    layer = MultipliedELSA(24, 3, kernel=5, group=8, scale=8**-0.5).double()
    layer.load_state_dict(ours)
    with torch.no_grad():
        found = layer(golden.image(expected["input_shape"]).permute(0, 2, 3, 1))
    assert golden.deviation(found.permute(0, 3, 1, 2), expected["outputs"]["logits"]) <= 1e-6


def ours_logits(leaf):
    return (75, 16) if leaf == "weight" else (75,)


def plain(m, x):
    """One map (h, w, C): a filter for each channel of each position, spelled out."""
    h, w, c = x.shape
    k, heads = m.kernel, m.heads
    q, key = m.qk(x).chunk(2, -1)
    product = (q * key * m.scale).permute(2, 0, 1)[None]
    mixed = F.conv2d(product, m.mix.weight, m.mix.bias, padding=k // 2, groups=m.mix.groups)
    logits = m.logits(F.gelu(mixed[0].permute(1, 2, 0))).view(h, w, heads, k * k)
    v, out = m.v(x), torch.zeros_like(x)
    for y in range(h):
        for z in range(w):
            for channel in range(c):
                own = logits[y, z, channel // (c // heads)].softmax(0).view(k, k)
                if isinstance(m, MultipliedELSA):
                    own = own * m.factor[channel, 0]
                own = own + m.ghost.weight[channel, 0]
                for i in range(k):
                    for j in range(k):
                        at = y + i - k // 2, z + j - k // 2
                        if 0 <= at[0] < h and 0 <= at[1] < w:
                            out[y, z, channel] += own[i, j] * v[at[0], at[1], channel]
    return m.proj(out)


@pytest.mark.parametrize("kind", [ELSA, MultipliedELSA])
@pytest.mark.parametrize(("kernel", "size"), [(3, (4, 3)), (5, (2, 4)), (3, (1, 1))])
def test_elsa_in_plain_lines(kernel, size, kind):
    m = scattered(kind(8, 2, kernel=kernel, group=2, scale=0.5))
    x = torch.randn(2, *size, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([plain(m, one) for one in x])
        assert torch.allclose(m(x), expected, atol=1e-12)
        rows = m.weights(x)
    assert rows.shape == (2, 2, size[0] * size[1], kernel**2)
    assert torch.allclose(rows.sum(-1), torch.ones(()).double())


@pytest.mark.parametrize("kind", [ELSA, MultipliedELSA])
def test_elsa_is_differentiable(kind):
    m = scattered(kind(4, 2, kernel=3, group=2))
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
    assert [type(b.mixer) for b in model.stages[0].blocks] == [MultipliedELSA] * 2
    assert isinstance(model, volo.VOLO) and model.config == VOLO


def test_what_is_not_a_transformers_initialisation():
    """Hosts draw linear layers narrowly; those of ELSA's attention are drawn as convolutions."""
    torch.manual_seed(0)
    model = vitrail.create("elsa_volo_d1").requires_grad_(False)
    mixer = model.stages[0].blocks[0].mixer
    assert mixer.factor.std() == pytest.approx(1, abs=0.1)
    assert mixer.ghost.weight.std() == pytest.approx(0.02, abs=0.002)
    assert mixer.qk.weight.std() == pytest.approx((3 * 192) ** -0.5, rel=0.1)
    assert mixer.proj.weight.std() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("config", [SWIN, VOLO], ids=lambda c: c.host)
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
        (SWIN, {"host": "vit"}, "host is 'vit': expected swin or volo"),
        (SWIN, {"dims": (8, 16, 24)}, "a swin doubles its width"),
        (SWIN, {"dims": (8, 16)}, "one entry each"),
        (SWIN, {"kernel": 4}, "kernel is 4, group 4: expected an odd kernel"),
        (SWIN, {"group": 0}, "kernel is 3, group 0"),
        (SWIN, {"heads": (3, 2, 4)}, "does not divide into 3 heads"),
        (SWIN, {"image": (16, 16)}, "image is 16x16"),
        (VOLO, {"dims": (8,)}, "two entries are expected"),
        (VOLO, {"image": (7, 40)}, "needs 8 pixels on each side"),
    ):
        with pytest.raises(ConfigError, match=said):
            vitrail.create(config, **changes)


def test_images_that_do_not_fit():
    with pytest.raises(ValueError, match="image is 7x40"):
        vitrail.create(VOLO)(torch.zeros(1, 3, 7, 40))
    with pytest.raises(ValueError, match=r"takes \(B, 3, H, W\)"):
        vitrail.create(SWIN)(torch.zeros(1, 2, 56, 40))
