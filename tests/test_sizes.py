"""Networks cut block by block: heads and neurons that do nothing are taken out, and a Config, a
checkpoint and a deployed model of the rest compute the same."""

from __future__ import annotations

import pytest
import torch
from test_backbones import build, image

import vitrail
from vitrail import models
from vitrail.errors import ConfigError
from vitrail.layers.fold import deploy
from vitrail.models import cait, cvt, deit, levit, pvt, swin, vit, xcit

SMALL = {"image": (32, 32), "classes": 5, "drop_path": 0.0}
FLAT = {"dim": 16, "depth": 2, "heads": 4, "hidden": 24, "patch": 8, **SMALL}
STAGES = {"depths": (1, 2), "heads": (2, 4), **SMALL}
WHOLE = {
    "vit": vit.Config(**FLAT),
    "vit, map": vit.Config(**FLAT, pool="map"),
    "deit": deit.Config(**FLAT, distilled=True),
    "cait": cait.Config(**FLAT, reading=1),
    "xcit": xcit.Config(
        **{k: v for k, v in FLAT.items() if k != "patch"}, strides=(2, 4), reading=1
    ),
    "swin": swin.Config(dim=16, window=4, **STAGES),
    "pvt": pvt.Config(dims=(16, 32), ratios=(2, 2), reductions=(2, 1), **STAGES),
    "cvt": cvt.Config(
        dims=(16, 32), kernels=(7, 3), strides=(4, 2), paddings=(2, 1),
        projections=("conv", "avg"), **STAGES,
    ),
    "levit": levit.Config(dims=(32, 64), key_dim=8, patch=4, **STAGES),
}  # fmt: skip
# A block of each keeps one head fewer, another fewer neurons of its MLP; heads keep their width.
CUT = {
    "vit": {"heads": (4, 3), "inner": (16, 12), "hidden": (10, 24)},
    "vit, map": {"heads": (4, 3, 2), "inner": (16, 12, 8), "hidden": (10, 24, 7)},
    "deit": {"heads": (1, 4), "inner": (4, 16), "hidden": (24, 9)},
    "cait": {"heads": (4, 2, 3), "inner": (16, 8, 12), "hidden": (24, 8, 12)},
    "xcit": {"heads": (3, 4, 2), "inner": (12, 16, 8), "hidden": (24, 8, 12)},
    "swin": {"heads": (1, (4, 2)), "inner": (8, (32, 16)), "hidden": (64, (128, 5))},
    "pvt": {"heads": (1, (4, 2)), "inner": (8, (32, 16)), "hidden": (32, (64, 5))},
    "cvt": {"heads": (1, (4, 2)), "inner": (8, (32, 16)), "hidden": (64, (128, 5))},
    "levit": {"heads": (1, (4, 2)), "shrinking": (3,), "hidden": (64, (100, 128, 5))},
}


@pytest.mark.parametrize("name", CUT)
def test_a_cut_network_is_one_like_any_other(name):
    config = models.resolve(WHOLE[name], **CUT[name])
    model = build(config, torch.float64)
    assert sum(p.numel() for p in model.parameters()) < sum(
        p.numel() for p in vitrail.create(WHOLE[name]).parameters()
    )
    x = image(config, 2, torch.float64)
    again = vitrail.load(
        models.config_from_json(models.config_json(config)), model.state_dict(), dtype=torch.float64
    )
    with torch.no_grad():
        expected = model(x)
        assert expected.isfinite().all()
        assert torch.equal(again(x), expected)
        assert (deploy(model)(x) - expected).abs().max() <= 1e-10 * expected.abs().max()
    for module in model.modules():
        if hasattr(module, "weights"):
            module.register_forward_pre_hook(
                lambda m, args: torch.testing.assert_close(
                    (w := m.weights(*args)).sum(-1), torch.ones(w.shape[:-1]).double()
                )
            )
    model(x)


@pytest.mark.parametrize("name", WHOLE)
def test_one_number_is_that_of_every_block(name):
    """The scalar form is as it was: the same tensors as when every block says so."""
    config = WHOLE[name]
    spelt = {}
    for field in ("heads", "hidden", "inner"):
        value = getattr(config, field, None)
        if isinstance(value, int) and value:
            count = config.depth + getattr(config, "reading", getattr(config, "pool", "") == "map")
            spelt[field] = (value,) * count
        elif isinstance(value, tuple) and value:
            spelt[field] = tuple((v,) * n for v, n in zip(value, config.depths, strict=True))
    assert spelt
    shapes = [
        {k: v.shape for k, v in vitrail.create(c).state_dict().items()}
        for c in (config, models.resolve(config, **spelt))
    ]
    assert shapes[0] == shapes[1]


def test_heads_that_nothing_hears_can_be_cut():
    """The last head and neuron of each block, silenced, are as good as gone."""
    config = WHOLE["deit"]
    model = build(models.resolve(config, distilled=False), torch.float64)
    state = model.state_dict()
    width = config.dim // config.heads
    keep = config.dim - width
    cut = dict(state)
    with torch.no_grad():
        for n, block in enumerate(model.blocks):
            block.mixer.proj.weight[:, keep:] = 0
            block.ffn.fc2.weight[:, -1] = 0
            at = f"blocks.{n}."
            for leaf in ("weight", "bias"):
                rows = state[f"{at}mixer.qkv.{leaf}"].unflatten(0, (3, -1))[:, :keep]
                cut[f"{at}mixer.qkv.{leaf}"] = rows.flatten(0, 1)
                cut[f"{at}ffn.fc1.{leaf}"] = state[f"{at}ffn.fc1.{leaf}"][:-1]
            cut[f"{at}mixer.proj.weight"] = state[f"{at}mixer.proj.weight"][:, :keep]
            cut[f"{at}ffn.fc2.weight"] = state[f"{at}ffn.fc2.weight"][:, :-1]
        smaller = models.resolve(
            model.config, heads=config.heads - 1, inner=keep, hidden=config.hidden - 1
        )
        x = image(config, 2, torch.float64)
        ours = vitrail.load(smaller, cut, dtype=torch.float64)(x)
        assert torch.allclose(ours, model(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("vit", {"heads": (4, 4, 4)}, r"heads is \(4, 4, 4\): expected one number .* or 2 of them"),
        ("vit", {"hidden": (24, 0)}, "hidden is 0: expected at least 1"),
        ("vit", {"inner": 18}, "dim 18 does not divide into 4 heads"),
        ("swin", {"inner": (16,)}, "an entry for each of the 2 stages"),
        ("pvt", {"heads": (2, (4,))}, r"heads is \(4,\): expected one number .* or 2 of them"),
        ("levit", {"shrinking": (3, 3)}, "expected no entries, or 1 and 2"),
    ],
)
def test_sizes_that_do_not_fit(name, changes, said):
    with pytest.raises(ConfigError, match=said):
        vitrail.create(WHOLE[name], **changes)
