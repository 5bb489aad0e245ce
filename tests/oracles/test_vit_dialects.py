"""ViT's dialects of names, its scaled shapes, and what cannot be built or read."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from agree import difference

import vitrail
from vitrail.errors import CheckpointError, ConfigError
from vitrail.measure.counts import counts
from vitrail.models.vit import Config
from vitrail.models.vit_hybrid import Config as Hybrid

SMALL = Config(dim=16, depth=2, heads=2, hidden=32, patch=4, image=(8, 12), classes=3)


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


@pytest.mark.parametrize(
    "missing",
    [
        "Transformer/encoderblock_1/MlpBlock_3/Dense_0/bias",
        "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/key/kernel",
    ],
)
def test_an_npz_with_a_missing_tensor(missing, tmp_path):
    state = flax(SMALL, old=True)
    del state[missing]
    np.savez(tmp_path / "weights.npz", **state)
    with pytest.raises(CheckpointError, match=r"1 missing \(.*blocks\.[01]\.(ffn|mixer)") as caught:
        vitrail.load(SMALL, tmp_path / "weights.npz", source="npz")
    assert "\n" not in str(caught.value)


def test_map_pooling_of_timm():
    peer = timm.models.VisionTransformer(
        img_size=(32, 48),
        patch_size=8,
        embed_dim=48,
        depth=2,
        num_heads=3,
        mlp_ratio=2,
        num_classes=7,
        act_layer="gelu_tanh",
        class_token=False,
        global_pool="map",
    )
    config = Config(48, 2, 3, 96, 8, pool="map", image=(32, 48), classes=7)
    assert difference(peer, config, "timm", (32, 48)) <= 1e-6


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
    config = Hybrid(dim=16, depth=1, heads=2, hidden=32, units=(1, 1), root=8, image=size)
    model = vitrail.create(config).eval()
    assert model(torch.zeros(1, 3, *size)).shape == (1, 1000)
    assert model(torch.zeros(1, 3, 80, 72)).shape == (1, 1000)


def test_sizes_that_do_not_fit():
    with pytest.raises(ConfigError, match="image is 9x12; vit needs multiples of its patch 4"):
        vitrail.create(SMALL, image=(9, 12))
    with pytest.raises(ConfigError, match="dim 16 does not divide into 3 heads"):
        vitrail.create(SMALL, heads=3)
    with pytest.raises(ConfigError, match="pool is 'max': expected token, mean, map"):
        vitrail.create(SMALL, pool="max")
    with pytest.raises(ConfigError, match=r"image is 40x40; its map of 10x10 .* multiples of 32"):
        vitrail.create("vit_r_ti16", image=(40, 40))
