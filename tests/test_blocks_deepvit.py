"""DeepViT: both forms of re-attention against the reference's outputs and against plain lines."""

import pytest
import torch
import torch.nn.functional as F
from support import golden

import vitrail
from vitrail import checkpoint
from vitrail.layers.fold import deploy
from vitrail.models.deepvit import NAMES, BatchMix, Config, LayerMix, ReAttention

PORT = [
    ("reattn_weights", "mix.theta", lambda v: v.mT),  # indexed [old head, new head]
    ("reattn_norm.1.", "mix.norm."),
    ("to_qkv.", "qkv."),
    ("to_out.0.", "proj."),
]


def test_batch_form():
    expected = golden.read(golden.FOLDER / "blocks" / "deepvit_reattention_bn.json")
    mixer = ReAttention(48, 4, BatchMix(4, scale=12**-0.5)).double().eval()
    inside = {f".attn.{name}": value for name, value in golden.state(expected).items()}
    state = checkpoint.rename(inside, NAMES["zhoudaquan/dvit_repo"](Config()))
    state = {name.removeprefix(".mixer."): value for name, value in state.items()}
    checkpoint.assign(mixer, state, dtype=torch.float64)
    x = golden.image(expected["input_shape"])
    for module in (mixer, deploy(mixer)):
        with torch.no_grad():
            outputs = {"y": module(x), "attention": module.maps(x)}
        for name, figures in expected["outputs"].items():
            assert golden.deviation(outputs[name], figures) <= 1e-6, name


def test_layer_form():
    expected = golden.read(golden.FOLDER / "blocks" / "deepvit_reattention_ln.json")
    mixer = ReAttention(48, 4, LayerMix(4), qkv_bias=False).double().eval()
    assert sum(p.numel() for p in mixer.parameters()) + 2 * 48 == expected["params"]
    state = golden.state(expected)
    before = state.pop("norm.weight"), state.pop("norm.bias")  # our norms are the block's
    checkpoint.assign(mixer, checkpoint.rename(state, PORT), dtype=torch.float64)
    x = F.layer_norm(golden.image(expected["input_shape"]), (48,), *before)
    with torch.no_grad():
        assert golden.deviation(mixer(x), expected["outputs"]["y"]) <= 1e-6


def mixed(mixer, x):
    """The maps that meet the values, head by head as the papers' lines say."""
    maps = mixer.weights(x)
    maps = torch.einsum("gh,bhij->bgij", mixer.mix.theta, maps)
    if isinstance(mixer.mix, LayerMix):
        return mixer.mix.norm(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    norm = mixer.mix.norm
    if mixer.training:
        mean, variance = maps.mean((0, 2, 3)), maps.var((0, 2, 3), unbiased=False)
    else:
        mean, variance = norm.running_mean, norm.running_var
    scale = norm.weight * (variance + norm.eps).rsqrt() * mixer.mix.scale
    return (maps - mean[:, None, None]) * scale[:, None, None] + (norm.bias * mixer.mix.scale).view(
        -1, 1, 1
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", [BatchMix, lambda n: BatchMix(n, 0.3), LayerMix])
def test_plain_lines(make, training):
    torch.manual_seed(0)
    mixer = ReAttention(15, 3, make(3)).double().train(training)
    with torch.no_grad():
        for value in [*mixer.mix.parameters(), *mixer.mix.buffers()]:
            if value.is_floating_point():
                value.add_(torch.rand_like(value))
    x = torch.randn(2, 7, 15, dtype=torch.float64, requires_grad=True)
    maps = mixed(mixer, x)
    v = mixer.qkv(x)[..., 30:].view(2, 7, 3, 5).transpose(1, 2)
    expected = mixer.proj((maps @ v).transpose(1, 2).flatten(2))
    got = mixer(x)
    assert (expected - got).abs().max() <= 1e-12
    gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in (expected, got)]
    assert (gradients[0] - gradients[1]).abs().max() <= 1e-9
    assert (mixer.maps(x) - maps).abs().max() <= 1e-12


def test_running_statistics():
    """Statistics of a head's map follow those of the reference's BatchNorm over (B, N, N)."""
    torch.manual_seed(0)
    mixer = ReAttention(8, 2, BatchMix(2)).double().train()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    plain = torch.nn.BatchNorm2d(2).double().train()
    with torch.no_grad():
        plain(torch.einsum("gh,bhij->bgij", mixer.mix.theta, mixer.weights(x)))
        mixer(x)
    for name in ("running_mean", "running_var"):
        assert torch.allclose(getattr(plain, name), getattr(mixer.mix.norm, name), atol=1e-14)


def test_scale_adjustment():
    """The norms read half the stream, the branches count twice: x + 2 f(norm(x / 2))."""
    config = Config(dim=16, depth=1, heads=2, hidden=8, reattention=0, adjust=0.5, patch=4)
    torch.manual_seed(0)
    block = vitrail.create(config, image=(8, 8), classes=2).double().eval().blocks[0]
    x = torch.randn(1, 5, 16, dtype=torch.float64) * 1e-3  # so small that eps counts
    with torch.no_grad():
        y = x
        for branch in (block.mixer, block.ffn):
            y = y + branch(F.layer_norm(0.5 * y, (16,), eps=1e-6)) / 0.5
        assert (block(x) - y).abs().max() <= 1e-12


def test_where_blocks_re_attend():
    for name, count in (("deepvit_s", 5), ("deepvit_l", 12), ("deepvit_24b", 24)):
        with torch.device("meta"):
            blocks = vitrail.create(name).blocks
        found = [isinstance(block.mixer, ReAttention) for block in blocks]
        assert found == [False] * (len(blocks) - count) + [True] * count


def test_layer_norm_network():
    """The other normalisation serves in whole networks, and folds away nothing."""
    torch.manual_seed(0)
    config = Config(
        dim=24, depth=3, heads=3, hidden=48, reattention=2, norm="layer", patch=8, inner=8
    )
    model = vitrail.create(config, image=(32, 40), classes=4).double().eval()
    x = torch.randn(2, 3, 32, 40, dtype=torch.float64)
    with torch.no_grad():
        assert (model(x) - deploy(model)(x)).abs().max() <= 1e-12
        assert (model(x)[:1] - model(x[:1])).abs().max() <= 1e-12


def port(state, x, heads, patch, norms):
    """The port's network in functions of its own state; `norms` says whether patches are normed."""

    def layer(y, name):
        return F.layer_norm(y, y.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def linear(y, name):
        return F.linear(y, state[f"{name}.weight"], state.get(f"{name}.bias"))

    tiles = x.unfold(2, patch, patch).unfold(3, patch, patch)
    y = tiles.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
    if norms:
        y = layer(
            linear(layer(y, "to_patch_embedding.1"), "to_patch_embedding.2"),
            ("to_patch_embedding.3"),
        )
    else:
        y = linear(y, "to_patch_embedding.1")
    y = torch.cat([state["cls_token"].expand(len(y), -1, -1), y], 1) + state["pos_embedding"]
    for i in range(2):
        name = f"transformer.layers.{i}"
        z = layer(y, f"{name}.0.norm")
        q, k, v = (
            t.unflatten(2, (heads, -1)).transpose(1, 2)
            for t in linear(z, f"{name}.0.to_qkv").chunk(3, -1)
        )
        maps = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        maps = torch.einsum("bhij,hg->bijg", maps, state[f"{name}.0.reattn_weights"])
        maps = layer(maps, f"{name}.0.reattn_norm.1").permute(0, 3, 1, 2)
        y = y + linear((maps @ v).transpose(1, 2).flatten(2), f"{name}.0.to_out.0")
        z = layer(y, f"{name}.1.net.0")
        y = y + linear(F.gelu(linear(z, f"{name}.1.net.1")), f"{name}.1.net.4")
    return linear(layer(y[:, 0], "mlp_head.0"), "mlp_head.1")


def port_state(dim, heads, hidden, patch, norms):
    """Random weights under the port's names."""
    pixels = 3 * patch**2
    shapes = {"cls_token": (1, 1, dim), "pos_embedding": (1, 7, dim)}
    stem = {"1": (pixels,), "2": (dim, pixels), "3": (dim,)} if norms else {"1": (dim, pixels)}
    linears = {f"to_patch_embedding.{n}": shape for n, shape in stem.items()}
    for i in range(2):
        name = f"transformer.layers.{i}"
        shapes |= {
            f"{name}.0.reattn_weights": (heads, heads),
            f"{name}.0.to_qkv.weight": (3 * dim, dim),
        }
        linears |= {
            f"{name}.0.norm": (dim,),
            f"{name}.0.reattn_norm.1": (heads,),
            f"{name}.0.to_out.0": (dim, dim),
            f"{name}.1.net.0": (dim,),
            f"{name}.1.net.1": (hidden, dim),
            f"{name}.1.net.4": (dim, hidden),
        }
    linears |= {"mlp_head.0": (dim,), "mlp_head.1": (5, dim)}
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    generator = torch.Generator().manual_seed(0)
    return {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}


@pytest.mark.parametrize("first_releases", [False, True])
def test_the_ports_network(first_releases):
    """Under the names of either form, with the norms that it has and without."""
    config = Config(
        dim=12, depth=2, heads=3, hidden=20, reattention=2, norm="layer", patch=4,
        qkv_bias=False, patch_norm=not first_releases, eps=1e-5, image=(8, 12), classes=5,
    )  # fmt: skip
    state = port_state(12, 3, 20, 4, not first_releases)
    x = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    expected = port(state, x, 3, 4, not first_releases)
    if first_releases:
        moved = {
            "1.net.0.": "1.fn.norm.",
            "1.net.1.": "1.fn.fn.net.0.",
            "1.net.4.": ("1.fn.fn.net.3."),
            "0.norm.": "0.fn.norm.",
            "0.to_": "0.fn.fn.to_",
            "0.reattn": "0.fn.fn.reattn",
        }
        for new, old in moved.items():
            state = {n.replace(f"{new}", old) if "layers" in n else n: v for n, v in state.items()}
    model = vitrail.load(config, state, source="lucidrains/vit-pytorch", dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(model(x), expected, atol=1e-10)
        assert torch.allclose(deploy(model)(x), expected, atol=1e-10)


def test_refusals():
    for changes, match in (
        ({"norm": "group"}, "expected batch, shrunk, layer"),
        ({"reattention": 17}, "expected 0 to 16"),
        ({"heads": 7}, "384 does not divide into 7 heads"),
        ({"patch": 7, "inner": 8}, "patch is 7: a stem of convolutions"),
        ({"inner": 8, "patch_norm": True}, "inner is 8 and patch_norm is set: .* take inner=0"),
        ({"image": (224, 200)}, "224x200"),
    ):
        with pytest.raises(vitrail.errors.ConfigError, match=match):
            vitrail.create("deepvit_16b", **changes)
