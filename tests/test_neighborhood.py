"""Local attention by tiles against its slow twin, which looks at one position at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.layers import neighborhood as local
from vitrail.layers.neighborhood import Neighborhood, NeighborhoodBias, aggregate, halos


def axis(i, length, kernel, dilation, border):
    """The pixels that pixel i sees along an axis (None beyond it), with key minus query."""
    own = list(range(i % dilation, length, dilation))
    place, half = own.index(i), kernel // 2
    first = max(0, min(place - half, len(own) - kernel)) if border == "clamp" else place - half
    for j in range(first, first + kernel):
        if 0 <= j < len(own):
            yield own[j], j - place
        elif border == "zero":
            yield None, j - place


def slow(q, k, v, *, kernel, dilation, border, table, tables=None):
    b, h, w, heads, d = q.shape
    out = torch.empty(b, h, w, heads, v.shape[-1], dtype=v.dtype)
    for y in range(h):
        for x in range(w):
            logits, values = [], []
            for ky, dy in axis(y, h, kernel, dilation, border):
                for kx, dx in axis(x, w, kernel, dilation, border):
                    outside = ky is None or kx is None
                    key = torch.zeros_like(q[:, 0, 0]) if outside else k[:, ky, kx]
                    values.append(torch.zeros_like(v[:, 0, 0]) if outside else v[:, ky, kx])
                    logit = (q[:, y, x] * key).sum(-1) * d**-0.5
                    logit = logit + table[:, dy + kernel - 1, dx + kernel - 1]
                    if tables is not None:
                        r = tables[0][dy + kernel - 1] + tables[1][dx + kernel - 1]
                        logit = logit + (q[:, y, x] * r).sum(-1)
                    logits.append(logit)
            share = torch.stack(logits).softmax(0)
            out[:, y, x] = (share[..., None] * torch.stack(values)).sum(0)
    return out


@pytest.mark.parametrize("limits", [(1, 1 << 24), (1, 0), (100, 1 << 24)], ids=str)
@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([1, 3, 5]),
    st.integers(1, 3),
    st.sampled_from(["clamp", "zero", "mask"]),
    st.integers(2, 5),
)
def test_tiles_are_the_slow_twin(limits, h, w, kernel, dilation, border, tile):
    """With tiles of all sizes: of tables for every tile, shared tables, and one whole map."""
    own = local.FULL, local.DENSE, local.TILE
    local.FULL, local.DENSE = limits
    local.TILE = tile
    try:
        near = Neighborhood(kernel, dilation, border)
        h, w = max(h, near.least), max(w, near.least)
        torch.manual_seed(0)
        q, k, v = (torch.randn(2, h, w, 2, 3, dtype=torch.float64) for _ in range(3))
        v = torch.randn(2, h, w, 2, 4, dtype=torch.float64)
        table = torch.randn(2, 2 * kernel - 1, 2 * kernel - 1, dtype=torch.float64)
        options = {"kernel": kernel, "dilation": dilation, "border": border, "table": table}
        got = local.neighborhood(q, k, v, **options)
        assert torch.allclose(got, slow(q, k, v, **options), atol=1e-12)
        shares = near.weights(q, k, near.bias(table, (h, w), 2, q))
        assert torch.allclose(shares.sum(-1), torch.ones((), dtype=torch.float64))
        options["tables"] = tuple(
            torch.randn(2 * kernel - 1, 3, dtype=torch.float64) for _ in range(2)
        )
        got = local.neighborhood(q, k, v, **options)
        assert torch.allclose(got, slow(q, k, v, **options), atol=1e-12)
    finally:
        local.FULL, local.DENSE, local.TILE = own


def test_gradients_are_those_of_the_slow_twin():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 10, 11, 2, 3, dtype=torch.float64) for _ in range(3))
    table = torch.randn(2, 5, 5, dtype=torch.float64)
    options = {"kernel": 3, "dilation": 1, "border": "clamp"}
    found = []
    for function in (local.neighborhood, slow):
        leaves = [x.clone().requires_grad_() for x in (q, k, v, table)]
        function(*leaves[:3], table=leaves[3], **options).square().sum().backward()
        found.append([leaf.grad for leaf in leaves])
    for got, expected in zip(*found, strict=True):
        assert torch.allclose(got, expected, atol=1e-10)


def test_the_kept_bias_follows_the_table_and_the_map():
    bias = NeighborhoodBias(2, Neighborhood(3))
    with torch.no_grad():
        first = bias((8, 8))
        assert bias((8, 8)) is first
        assert bias((8, 9)).shape != first.shape
        bias.table.add_(1)
        again = bias((8, 8))
    finite = again.isfinite()
    assert torch.allclose(again[finite], first[finite] + 1)


@pytest.mark.parametrize("dilation", [1, 2])
def test_aggregate_is_the_sum_over_offsets(dilation):
    torch.manual_seed(0)
    weights, v = torch.randn(2, 6, 5, 2, 9).double(), torch.randn(2, 6, 5, 2, 3).double()
    expected = torch.zeros_like(v)
    for y in range(6):
        for x in range(5):
            for u in range(9):
                at = y + dilation * (u // 3 - 1), x + dilation * (u % 3 - 1)
                if 0 <= at[0] < 6 and 0 <= at[1] < 5:
                    expected[:, y, x] += weights[:, y, x, :, u, None] * v[:, at[0], at[1]]
    got = aggregate(weights, v, kernel=3, dilation=dilation)
    assert torch.allclose(got, expected, atol=1e-12)


def test_halos_surround_their_blocks():
    x = torch.arange(1.0, 17.0).view(1, 4, 4, 1)
    found = halos(x, 2, 1)
    assert found.shape == (1, 2, 2, 16, 1)
    corner = found[0, 0, 0, :, 0].view(4, 4)
    assert corner.tolist() == [[0, 0, 0, 0], [0, 1, 2, 3], [0, 5, 6, 7], [0, 9, 10, 11]]


def test_what_cannot_be_asked():
    x = torch.zeros(1, 5, 6, 1, 2)
    with pytest.raises(ValueError, match="kernel is 4"):
        local.neighborhood(x, x, x, kernel=4)
    with pytest.raises(ValueError, match="map is 5x6"):
        local.neighborhood(x, x, x, kernel=7)
