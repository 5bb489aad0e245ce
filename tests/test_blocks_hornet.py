"""HorNet: the global filter in plain terms, its deployed form, and what cannot be built."""

import math
from itertools import pairwise

import pytest
import torch

import vitrail
from vitrail.errors import ConfigError
from vitrail.models.hornet import Config, FilterByProducts, GlobalFilter, GlobalLocal, widths

SMALL = Config(
    dim=16, depths=(1, 1), orders=(2, 3), kernels=(7, 0), patch=4, image=(32, 48), classes=3
)


@pytest.mark.parametrize("grid", [(4, 6), (5, 7), (3, 8), (1, 1), (2, 2)])
def test_a_table_is_a_circular_convolution(grid):
    """The kernel is what the filter makes of a single point; a sum over all shifts follows."""
    torch.manual_seed(0)
    h, w = grid
    filter = GlobalFilter(3, grid).double()
    with torch.no_grad():
        filter.table.normal_()
        point = torch.zeros(1, h, w, 3, dtype=torch.float64)
        point[:, 0, 0] = 1
        kernel = filter(point)[0]
        x = torch.randn(2, h, w, 3, dtype=torch.float64)
        expected = sum(x.roll((i, j), (1, 2)) * kernel[i, j] for i in range(h) for j in range(w))
        assert torch.allclose(filter(x), expected, atol=1e-12)
        assert torch.allclose(FilterByProducts(filter)(x), expected, atol=1e-12)


def test_a_deployed_filter_transforms_on_maps_of_other_sizes():
    torch.manual_seed(0)
    filter = GlobalFilter(2, (6, 8)).double()
    x = torch.randn(1, 5, 9, 2, dtype=torch.float64)
    assert torch.equal(FilterByProducts(filter)(x), filter(x))


def test_halves_are_interleaved():
    torch.manual_seed(0)
    both = GlobalLocal(8, (4, 4)).double()
    seen = []
    both.post_norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(1, 4, 4, 8, dtype=torch.float64)
    both(x)
    near, far = both.pre_norm(x).chunk(2, -1)
    assert torch.equal(seen[0][..., 0::2], both.local(near))
    assert torch.equal(seen[0][..., 1::2], both.wide(far))


def test_slices_fill_twice_the_width():
    for order in range(1, 6):
        found = widths(64, order)
        assert found[0] + sum(found) == 128 and found[-1] == 64
        assert all(math.isclose(b, 2 * a) for a, b in pairwise(found))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": (7, 48)}, "image is 7x48; a hornet of 2 stages needs 8 pixels"),
        ({"kernels": (6, 0)}, "kernel is 6: expected an odd one"),
        ({"dim": 6, "orders": (2, 5)}, "expected a multiple of 16"),
        ({"orders": (2,)}, "expected as many values"),
        ({"dim": 2, "kernels": (0, 0)}, "has no two halves"),
    ],
)
def test_what_cannot_be_built(changes, said):
    with pytest.raises(ConfigError, match=said):
        vitrail.create(SMALL, **changes)


def test_an_image_smaller_than_the_stride_is_refused_on_the_way():
    with pytest.raises(ValueError, match="image is 32x6; a hornet"):
        vitrail.create(SMALL)(torch.zeros(1, 3, 32, 6))
