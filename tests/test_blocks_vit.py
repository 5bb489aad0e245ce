"""ViT's dialects of names, its scaled shapes, and what cannot be built or read."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import vitrail
from vitrail.errors import CheckpointError, ConfigError
from vitrail.measure.counts import counts
from vitrail.models import vit
from vitrail.models.trunk.fitting import fitted
from vitrail.models.vit import Config
from vitrail.models.vit_hybrid import Config as Hybrid
from vitrail.models.vit_hybrid import pooled

SMALL = Config(dim=16, depth=2, heads=2, hidden=32, patch=4, image=(8, 12), classes=3)
HYBRID = Hybrid(
    dim=16, depth=1, heads=2, hidden=32, units=(1, 2), root=8, image=(24, 32), classes=3
)


def flax(config, *, old, scan=False):
    """Random weights under the names and in the layouts of the released files."""
    rng = np.random.default_rng(0)
    d, heads, hidden = config.dim, config.heads, config.hidden
    h, w = (side // config.patch for side in config.image)

    def norm(prefix):
        return {f"{prefix}/{leaf}": rng.normal(size=(d,)) for leaf in ("scale", "bias")}

    def attention(prefix):
        found = {
            f"{prefix}/{name}/{leaf}": rng.normal(size=shape)
            for name in ("query", "key", "value")
            for leaf, shape in (("kernel", (d, heads, d // heads)), ("bias", (heads, d // heads)))
        }
        out = {"kernel": (heads, d // heads, d), "bias": (d,)}
        return found | {f"{prefix}/out/{k}": rng.normal(size=s) for k, s in out.items()}

    def mlp(prefix):
        shapes = {"0/kernel": (d, hidden), "0/bias": (hidden,)}
        shapes |= {"1/kernel": (hidden, d), "1/bias": (d,)}
        return {f"{prefix}/Dense_{k}": rng.normal(size=s) for k, s in shapes.items()}

    names = (0, 1, 2, 3) if old else (0, 0, 1, 0)
    state = {
        "embedding/kernel": rng.normal(size=(config.patch, config.patch, 3, d)),
        "embedding/bias": rng.normal(size=(d,)),
        "head/kernel": rng.normal(size=(d, 3)),
        "head/bias": rng.normal(size=(3,)),
        **norm("Transformer/encoder_norm"),
    }
    if config.pool == "token":
        state["cls"] = rng.normal(size=(1, 1, d))
        where = "Transformer/posembed_input/pos_embedding"
        state[where] = rng.normal(size=(1, 1 + h * w, d))
    else:
        state["pos_embedding"] = rng.normal(size=(1, h * w, d))
    if config.pre_logits:
        state["pre_logits/kernel"] = rng.normal(size=(d, config.pre_logits))
        state["pre_logits/bias"] = rng.normal(size=(config.pre_logits,))
        state["head/kernel"] = rng.normal(size=(config.pre_logits, 3))
    if config.pool == "map":
        state["MAPHead_0/probe"] = rng.normal(size=(1, 1, d))
        state |= attention("MAPHead_0/MultiHeadDotProductAttention_0")
        state |= norm("MAPHead_0/LayerNorm_0") | mlp("MAPHead_0/MlpBlock_0")
    blocks = []
    for _ in range(config.depth):
        blocks.append(
            norm(f"LayerNorm_{names[0]}")
            | attention(f"MultiHeadDotProductAttention_{names[1]}")
            | norm(f"LayerNorm_{names[2]}")
            | mlp(f"MlpBlock_{names[3]}")
        )
    for i, block in enumerate(blocks):
        for name, value in block.items():
            if scan:
                stacked = np.stack([other[name] for other in blocks])
                state[f"Transformer/encoderblock/{name}"] = stacked
            else:
                state[f"Transformer/encoderblock_{i}/{name}"] = value
    return state


@pytest.mark.parametrize("pool", ["token", "map"])
def test_numberings_and_stacked_blocks_are_the_same_weights(pool, tmp_path):
    config = replace(SMALL, pool=pool)
    image = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    found = []
    for kind in ({"old": True}, {"old": False}, {"old": False, "scan": True}):
        path = tmp_path / f"{len(found)}.npz"
        np.savez(path, **flax(config, **kind))
        model = vitrail.load(config, path, dtype=torch.float64)
        with torch.no_grad():
            found.append(model(image))
    assert torch.equal(found[0], found[1]) and torch.equal(found[1], found[2])
    if pool == "token":
        state = flax(config, old=True)
        row = state["Transformer/posembed_input/pos_embedding"][:, :1]
        assert torch.allclose(model.embed.token, torch.from_numpy(state["cls"] + row))


def renamed(state, *changes):
    """The state with the beginnings of some names replaced."""
    for old, new in changes:
        state = {new + k.removeprefix(old) if k.startswith(old) else k: v for k, v in state.items()}
    return state


TRAINING = {"opt/0/count": np.zeros(()), "opt/1/mu/cls": np.zeros(2), "chrono/steps": np.ones(())}
OLDER = {  # what releases between the first and the last call the same tensors
    "token": ("Transformer/posembed_input/pos_embedding", "Transformer/pos_embedding"),
    "mean": ("pos_embedding", "Transformer/posembed_input/pos_embedding"),
    "map": ("MAPHead_0/", ""),
}


@pytest.mark.parametrize("pool", OLDER)
def test_older_names_and_training_states_are_the_same_weights(pool):
    config = replace(SMALL, pool=pool)
    state = flax(config, old=False)
    expected = vitrail.load(config, tensors(state), source="npz").state_dict()
    older = renamed(state, OLDER[pool])
    assert older.keys() != state.keys()
    for same in (older, renamed(state, ("", "params/")) | TRAINING):
        found = vitrail.load(config, tensors(same)).state_dict()
        assert all(torch.equal(found[k], v) for k, v in expected.items())


def tensors(state):
    return {k: torch.from_numpy(np.asarray(v)) for k, v in state.items()}


def test_pre_logits():
    config = replace(SMALL, pre_logits=8)
    state = tensors(flax(config, old=True))
    model = vitrail.load(config, state, dtype=torch.float64)
    x = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    with torch.no_grad():
        token = model.tokens(x)[:, 0]
        inner = torch.tanh(token @ state["pre_logits/kernel"] + state["pre_logits/bias"])
        assert torch.allclose(model.embedding(x), inner)
        assert torch.allclose(model(x), inner @ state["head/kernel"] + state["head/bias"])
    assert model.width == 8


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("Transformer/encoderblock_1/MlpBlock_3/Dense_0/bias", "1 missing (blocks.1.ffn.fc1.bias)"),
        (
            "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/key/kernel",
            "has 2 of the 3 parts of blocks.0.mixer.qkv.weight",
        ),
        ("cls", "has 1 of the 2 summands of embed.token"),
        ("pre_logits/kernel", "1 missing (pre_logits.0.weight)"),
        ("head/bias", "1 missing (head.bias)"),
    ],
)
def test_an_npz_with_a_missing_tensor(missing, named, tmp_path):
    config = replace(SMALL, pre_logits=8)
    state = flax(config, old=True)
    del state[missing]
    np.savez(tmp_path / "weights.npz", **state)
    with pytest.raises(CheckpointError) as caught:
        vitrail.load(config, tmp_path / "weights.npz", source="npz")
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_an_npz_of_a_hybrid():
    """Convolutions are (h, w, in, out), entries of GroupNorms may be (1, 1, 1, C)."""
    rng = np.random.default_rng(1)
    state = flax(HYBRID, old=True)
    shapes = {"embedding": (1, 1, 64, 16), "conv_root": (7, 7, 3, 8), "gn_root": 8}
    before = 8
    for block, units in enumerate(HYBRID.units, 1):
        dim = 4 * 2**block
        for unit in range(1, units + 1):
            place = f"block{block}/unit{unit}/"
            shapes |= {
                place + "conv1": (1, 1, before, dim),
                place + "conv2": (3, 3, dim, dim),
                place + "conv3": (1, 1, dim, 4 * dim),
                place + "gn1": dim,
                place + "gn2": dim,
                place + "gn3": 4 * dim,
            }
            if unit == 1:
                shapes |= {place + "conv_proj": (1, 1, before, 4 * dim), place + "gn_proj": 4 * dim}
            before = 4 * dim
    for name, shape in shapes.items():
        leaves = {"kernel": shape}
        if isinstance(shape, int):
            leaves = {"scale": (1, 1, 1, shape), "bias": (1, 1, 1, shape)}
        state |= {f"{name}/{leaf}": rng.normal(size=size) for leaf, size in leaves.items()}
    rows = math.prod(-(-side // 8) for side in HYBRID.image)
    place = "Transformer/posembed_input/pos_embedding"
    state[place] = rng.normal(size=(1, 1 + rows, 16))
    trunk = vitrail.load(HYBRID, tensors(state), dtype=torch.float64).embed.trunk
    for theirs, ours in (
        ("conv_root", "conv"),
        ("block2/unit1/conv_proj", "stages.1.0.shortcut.conv"),
    ):
        expected = torch.from_numpy(state[f"{theirs}/kernel"]).permute(3, 2, 0, 1)
        assert torch.equal(trunk.get_parameter(f"{ours}.weight"), expected)
    expected = state["block2/unit2/gn3/scale"].ravel()
    assert torch.equal(trunk.stages[1][1].norm3.weight, torch.from_numpy(expected))


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, pool="map"), HYBRID])
def test_weights_move_to_another_image_size(config):
    """What `load` resamples is what the model resamples on the way."""
    model = vitrail.create(config).double().eval()
    with torch.no_grad():
        model.head.weight.normal_()
    size = (48, 40)
    moved = vitrail.load(config, model.state_dict(), image=size, dtype=torch.float64)
    assert moved.config.image == size
    assert moved.embed.position.shape != model.embed.position.shape
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(moved(x), model(x), rtol=1e-10, atol=1e-10)


def test_positions_without_parameters_tell_no_size():
    config = replace(SMALL, position="sincos", pool="mean")
    state = vitrail.create(config, classes=5).state_dict()
    assert fitted(config, state, vit) == replace(config, classes=5)


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (8, 7), (1, 2)])
def test_pooling_pads_as_jax_does(size):
    """Half of the padding, rounded down, above and left: none of an even side."""
    x = torch.randn(1, 2, *size)
    edges = [edge for side in size[::-1] for edge in (side % 2, 1)]
    assert torch.equal(pooled(x), F.max_pool2d(F.pad(x, edges, value=-torch.inf), 3, 2))


# Parameters in 10^6 of the papers' tables: of the blocks, embedding and last norm; for SoViT with
# the pooling; for e/14 with that and a head for the 29,593 classes of JFT.
@pytest.mark.parametrize(
    ("name", "params_m", "also"),
    [
        ("scaling_vit_s28", 5.4, ""),
        ("scaling_vit_s16", 5.0, ""),
        ("scaling_vit_S32", 22, ""),
        ("scaling_vit_Ti16", 5.5, ""),
        ("scaling_vit_B32", 87, ""),
        ("scaling_vit_S16", 22, ""),
        ("scaling_vit_B28", 87, ""),
        ("scaling_vit_B16", 86, ""),
        ("scaling_vit_L16", 303, ""),
        ("scaling_vit_g14", 1011, ""),
        ("scaling_vit_G14", 1843, ""),
        ("scaling_vit_e14", 3926, "pool, head"),
        ("sovit_150m_14", 137.4, "pool"),
        ("sovit_400m_14", 427.7, "pool"),
    ],
)
def test_scaled_shapes_have_the_published_parameters(name, params_m, also):
    with torch.device("meta"):
        model = vitrail.create(name, classes=29593)
    found = counts(model, model.config.image, 3).params
    for part in {"pool", "head"} - {*also.split(", ")}:
        found -= sum(p.numel() for p in model.get_submodule(part).parameters())
    digits = 1 if isinstance(params_m, float) else 0
    assert abs(found / 1e6 - params_m) <= max(0.005 * params_m, 0.5 * 10**-digits)


@pytest.mark.parametrize("size", [(56, 84), (57, 99), (64, 64)])
def test_hybrids_take_images_of_any_size(size):
    model = vitrail.create(HYBRID, image=size).eval()
    assert model(torch.zeros(1, 3, *size)).shape == (1, 3)
    assert model(torch.zeros(1, 3, 80, 72)).shape == (1, 3)


def test_sizes_that_do_not_fit():
    with pytest.raises(ConfigError, match="image is 9x12; vit needs multiples of its patch 4"):
        vitrail.create(SMALL, image=(9, 12))
    with pytest.raises(ConfigError, match="dim 16 does not divide into 3 heads"):
        vitrail.create(SMALL, heads=3)
    with pytest.raises(ConfigError, match="pool is 'max': expected token, mean, map"):
        vitrail.create(SMALL, pool="max")
    with pytest.raises(ConfigError, match=r"image is 40x40; its map of 10x10 .* multiples of 32"):
        vitrail.create("vit_r_ti16", image=(40, 40))
