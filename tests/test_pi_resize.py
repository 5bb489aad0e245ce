"""Kernels and position tables move to other patch sizes exactly, as FlexiViT says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import golden

from vitrail.layers.pi_resize import bilinear, inverse, pi_resize, triangle_resize
from vitrail.layers.position import triangle_grid

BLOCK = golden.FOLDER / "blocks" / "flexivit_pi_resize.json"
SIZES = [(4, 7), (7, 4), (16, 48), (16, 20), (32, 8), (32, 30), (8, 9), (5, 5), (2, 1), (1, 3)]


def kernel(h, w, *, dtype=torch.float64):
    return torch.randn(3, 2, h, w, dtype=dtype, generator=torch.Generator().manual_seed(0))


def dense(old, new):
    """The pseudo-inverse of the whole map from patch to patch, by resizing all basis images."""
    basis = torch.eye(old[0] * old[1], dtype=torch.float64).view(-1, 1, *old)
    resized = F.interpolate(basis, new, mode="bilinear", align_corners=False)
    return torch.linalg.pinv(resized.flatten(1))  # B transposed has the basis in its rows


@pytest.mark.parametrize("key", list(golden.read(BLOCK)["outputs"]))
def test_it_computes_what_the_authors_compute(key):
    expected = golden.read(BLOCK)
    (weight,) = golden.state(expected).values()
    size = (int(key.split("x")[0]), int(key.split("x")[1]))
    assert golden.deviation(pi_resize(weight, size), expected["outputs"][key]) <= 1e-6


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_one_dimensional_inverses_are_the_dense_one(old, new):
    value = kernel(old, old + 1)
    expected = (dense((old, old + 1), (new, new + 1)) @ value.flatten(2).mT).mT
    found = pi_resize(value, (new, new + 1)).flatten(2)
    assert torch.allclose(found, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("old", "new"), [s for s in SIZES if s[1] >= s[0]])
def test_growing_answers_resized_patches_as_before(old, new):
    value, patches = kernel(old, old), kernel(old, old)
    resized = F.interpolate(patches, (new, new), mode="bilinear", align_corners=False)
    before = torch.einsum("oihw,bihw->bo", value, patches)
    after = torch.einsum("oihw,bihw->bo", pi_resize(value, (new, new)), resized)
    assert torch.allclose(before, after, rtol=0, atol=1e-11)
    # And so the way there and back is the identity.
    back = bilinear(old, new).mT @ inverse(old, new)
    assert torch.allclose(back, torch.eye(old, dtype=torch.float64), atol=1e-12)


def test_the_same_size_is_the_same_tensor():
    value = kernel(4, 6)
    assert pi_resize(value, (4, 6)) is value
    assert triangle_resize(value, (4, 6)) is value


def test_gradients_are_those_of_the_matrix():
    value = kernel(4, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: pi_resize(v, (3, 6)), (value,))
    assert torch.autograd.gradcheck(lambda v: triangle_resize(v, (3, 6)), (value,))


def test_autocast_does_not_round():
    value = kernel(16, 16, dtype=torch.float32)
    expected = pi_resize(value, (20, 20))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = pi_resize(value, (20, 20))
    assert found.dtype == torch.float32 and torch.equal(found, expected)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_positions_take_an_antialiased_triangle(old, new):
    maps = kernel(old, old + 1)
    expected = F.interpolate(maps, (new, new), mode="bilinear", antialias=True)
    assert torch.allclose(triangle_resize(maps, (new, new)), expected, rtol=0, atol=1e-12)
    table = maps[:1].permute(0, 2, 3, 1).reshape(1, -1, 2)
    found = triangle_grid(table, (old, old + 1), (new, new))
    assert torch.allclose(found[0].T.reshape(2, new, new), expected[0], rtol=0, atol=1e-12)


def test_constant_positions_stay_constant():
    assert np.allclose(triangle_grid(torch.ones(1, 49, 3), (7, 7), (5, 11)), 1, atol=1e-6)
