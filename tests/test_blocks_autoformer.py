"""AutoFormer: the released shared network and two of its candidates, positions, refusals."""

from dataclasses import replace

import pytest
import torch
from support import golden

import vitrail
from vitrail import checkpoint
from vitrail.models.autoformer import Config, Offsets
from vitrail.search.supernets.autoformer import NAMES, Super
from vitrail.search.supernets.indices import Prefix


def test_released_shared_network():
    expected = golden.read(golden.FOLDER / "blocks" / "autoformer_tiny.json")
    widest = Config(dim=256, heads=(4,) * 14, mlp_ratios=(4.0,) * 14)
    model = Super(widest).double().eval()
    # The class token's position is part of the token here.
    assert sum(p.numel() for p in model.parameters()) + widest.dim == expected["params"]
    checkpoint.assign(model, checkpoint.rename(golden.state(expected), NAMES), dtype=torch.float64)
    image = golden.image(expected["input_shape"])
    searched = vitrail.catalog()["autoformer_tiny"].config
    for name, config in (("logits_searched", searched), ("logits_largest", widest)):
        with torch.no_grad():
            logits = model(image, config, Prefix())
        assert golden.deviation(logits, expected["outputs"][name]) <= 1e-6, name


def test_offsets_are_between_keys_and_queries():
    """Of rows and columns by themselves; the class token has the first entry of both tables."""
    table = Offsets()
    with torch.no_grad():
        table.rows.copy_(torch.arange(30.0)[:, None].expand(30, 64))
        table.columns.copy_(100 * torch.arange(30.0)[:, None].expand(30, 64))
        found = table((2, 20))[..., 0]
    assert found[0].eq(0).all() and found[:, 0].eq(0).all()
    assert found[1, 1] == 1515 and found[1, 2] == 1615 and found[2, 1] == 1415
    assert found[1, 21] == 1516  # the row below
    assert found[1, 20] == 2915 and found[1, 19] == 2915  # clipped at 14


def test_refusals():
    with pytest.raises(vitrail.errors.ConfigError, match="one entry a block"):
        vitrail.create(Config(heads=(3, 3), mlp_ratios=(4.0,)))
    small = Config(dim=32, heads=(1,), mlp_ratios=(2.0,), image=(32, 32), classes=2)
    with pytest.raises(ValueError, match=r"48x32; this autoformer was built for 32x32"):
        vitrail.create(small)(torch.zeros(1, 3, 48, 32))
    with pytest.raises(ValueError, match="2 blocks and patch 16"):
        Super(small).inherited(replace(small, heads=(1, 1), mlp_ratios=(2.0, 2.0)), Prefix())
