"""AirBench against its layers written out one by one, and its start."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import vitrail
from vitrail.errors import ConfigError
from vitrail.models.airbench import CHANNELS, NOISE, PIXELS, Unit, whitening


def written_out(state, x, depths):
    """The network as the paper lists it: convolution, pool, norm and GELU, each on its own."""

    def unit(name, x, pool=1):
        x = F.conv2d(x, state[f"{name}.conv.weight"], padding=1)
        x = F.max_pool2d(x, pool) if pool > 1 else x
        mean, var = (
            state[f"{name}.norm.running_{part}"][:, None, None] for part in ("mean", "var")
        )
        return (x - mean) / (var + 1e-5).sqrt() + state[f"{name}.norm.bias"][:, None, None]

    x = F.gelu(F.conv2d(x, state["stem.conv.weight"], state["stem.conv.bias"]))
    for i, depth in enumerate(depths):
        start = x = F.gelu(unit(f"stages.{i}.down", x, 2))
        for j in range(depth - 1):
            x = unit(f"stages.{i}.blocks.0.units.{j}", F.gelu(x) if j else x)
        x = F.gelu(x + start if depth > 2 else x)
    return x.amax((2, 3)) / 9 @ state["head.weight"].T


@pytest.mark.parametrize("depths", [(2, 2, 2), (3, 3, 3), (2, 3, 4)])
@pytest.mark.parametrize("image", [(32, 32), (27, 45)])
def test_it_is_the_paper_s_network(depths, image):
    torch.manual_seed(0)
    model = vitrail.create("airbench94", dims=(8, 12, 16), depths=depths, filters=10, image=image)
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.bias.data.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    model = model.double().eval()
    x = torch.randn(3, 3, *image, dtype=torch.float64)
    with torch.no_grad():
        assert (model(x) - written_out(model.state_dict(), x, depths)).abs().max() < 1e-12


@pytest.mark.parametrize("channels", [1, 3])
def test_the_first_convolution_whitens_what_it_was_made_for(channels):
    filters = whitening(8 * channels, channels).double().flatten(1)
    near = torch.tensor([[1.0, PIXELS], [PIXELS, 1.0]], dtype=torch.float64)
    alike = torch.full((channels, channels), CHANNELS, dtype=torch.float64).fill_diagonal_(1.0)
    covariance = torch.kron(alike, torch.kron(near, near))
    half = filters[: 4 * channels]
    values = torch.linalg.eigvalsh(covariance).flip(0)
    expected = (values / (values + NOISE)).diag()
    assert (half @ covariance @ half.T - expected).abs().max() < 1e-5
    assert torch.equal(filters[4 * channels :], -half)


def test_a_unit_begins_as_the_identity_in_what_it_can_copy():
    unit = Unit(4, 6)
    x = torch.randn(2, 4, 5, 5)
    assert (unit.conv(x)[:, :4] - x).abs().max() < 1e-6


def test_an_image_too_small_is_one_sentence():
    with pytest.raises(ConfigError, match="image is 8x8; 3 stages that halve it need more than 8"):
        vitrail.create("airbench94", image=(8, 8))


def test_drop_path_leaves_a_branch_out():
    model = vitrail.create("airbench96", dims=(4, 4, 4), filters=4, drop_path=0.9).train()
    block = model.stages[-1].blocks[0]
    x = torch.randn(64, 4, 4, 4)
    torch.manual_seed(0)
    left = (block(x) - block.act(x)).abs().amax((1, 2, 3)) < 1e-6
    assert 40 < left.sum() < 64
