"""MLP-Mixer: the tokens it is tied to, its padding, and the paper's way to larger images."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import vitrail
from vitrail.errors import CheckpointError
from vitrail.models.mlp_mixer import Config, enlarged

SMALL = Config(dim=12, depth=2, tokens=5, hidden=16, patch=4, image=(8, 12), classes=3)


def scattered(config):
    torch.manual_seed(0)
    model = vitrail.create(config).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return model


def test_enlarged_mixes_each_block_of_the_grid_by_itself():
    small = scattered(SMALL)
    config, state = enlarged(SMALL, small.state_dict(), 2)
    big = vitrail.load(config, state, dtype=torch.float64)
    x = torch.randn(2, 6, 4, 12, dtype=torch.float64).flatten(1, 2)  # a grid of 4 by 6 tokens
    got = big.blocks[0].mixer(x).view(2, 4, 6, 12)
    for top in (0, 2):
        for left in (0, 3):
            part = x.view(2, 4, 6, 12)[:, top : top + 2, left : left + 3]
            expected = small.blocks[0].mixer(part.reshape(2, 6, 12)).view(2, 2, 3, 12)
            found = got[:, top : top + 2, left : left + 3]
            assert torch.allclose(found, expected, atol=1e-12)
    image = torch.randn(1, 3, 8, 12, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(big(image.tile(2, 2)), small(image), atol=1e-12)


def test_a_side_that_the_patch_does_not_divide_is_padded_on_both_ends():
    config = replace(SMALL, image=(7, 10))
    model = scattered(config)
    image = torch.randn(1, 3, 7, 10, dtype=torch.float64)
    padded = F.pad(image, (1, 1, 0, 1))
    whole = vitrail.load(replace(SMALL, image=(8, 12)), model.state_dict(), dtype=torch.float64)
    assert torch.equal(model(image), whole(padded))


def test_other_images_are_refused_with_a_remedy():
    model = scattered(SMALL)
    with pytest.raises(ValueError, match=r"image is 12x8; .* 2x3 patches .* image=\(12, 8\)"):
        model(torch.zeros(1, 3, 12, 8, dtype=torch.float64))
    with pytest.raises(CheckpointError, match=r"16x24, .* of 2x3 tokens"):
        vitrail.load(SMALL, model.state_dict(), image=(16, 24))
