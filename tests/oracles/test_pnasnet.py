"""PNASNet-5 against timm's with the same random weights, where SAME padding is uneven."""

from dataclasses import replace

import pytest
import torch
from agree import difference, scatter
from support.peers import timm

import vitrail
from vitrail.models import catalog


@pytest.mark.slow
@pytest.mark.parametrize("image", [(64, 64), (75, 98)])
def test_timm(image):
    model = timm.create_model("pnasnet5large", num_classes=7)
    config = replace(catalog()["pnasnet5_large"].config, image=image, classes=7)
    assert difference(model, config, "timm", image) <= 1e-10


@pytest.mark.slow
def test_maps():
    """timm's taps: the stem as it is, the others rectified."""
    model = scatter(timm.create_model("pnasnet5large", features_only=True))
    whole = scatter(timm.create_model("pnasnet5large", num_classes=7))
    model.load_state_dict(whole.state_dict(), strict=False)
    config = replace(catalog()["pnasnet5_large"].config, image=(66, 90), classes=7)
    ours = vitrail.load(config, whole.state_dict(), source="timm", dtype=torch.float64)
    x = torch.randn(1, 3, 66, 90, dtype=torch.float64)
    with torch.no_grad():
        expected, found = model(x), ours.features(x)
    assert len(found) == len(expected) == 5
    for level, theirs, mine in zip(ours.levels, expected, found, strict=True):
        assert level.channels == mine.shape[-1]
        assert (theirs - mine.movedim(-1, 1)).abs().max() <= 1e-10 * theirs.abs().max()
