"""Windows against their slow twins, and what moving Swin and LeViT to another size does."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import vitrail
from vitrail.errors import ConfigError
from vitrail.layers.windows import WindowAttention, pad, partition, reverse, shift_mask
from vitrail.models import levit, swin

SIDES = st.integers(1, 9)


@settings(max_examples=30, deadline=None)
@given(h=SIDES, w=SIDES, window=st.integers(1, 4))
def test_partition_cuts_and_reverse_restores(h, w, window):
    x = torch.randn(2, h, w, 3)
    padded = pad(x, window)
    grid = (padded.shape[1], padded.shape[2])
    assert all(g % window == 0 and 0 <= g - s < window for g, s in zip(grid, (h, w), strict=True))
    assert torch.equal(padded[:, :h, :w], x) and padded.abs().sum() <= x.abs().sum() + 1e-4
    windows = partition(padded, window)
    across = grid[1] // window
    for n in range(windows.shape[0] // 2):
        top, left = n // across * window, n % across * window
        tile = padded[0, top : top + window, left : left + window].flatten(0, 1)
        assert torch.equal(windows[n], tile)
    assert torch.equal(reverse(windows, window, grid), padded)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 3), m=st.integers(1, 3), window=st.integers(2, 4), across=st.booleans())
def test_shift_mask_parts_what_was_apart(n, m, window, across):
    """Two positions of a window may mix if rolling did not bring them together."""
    h, w, s = n * window, m * window, window // 2
    shift = (s, s if across else 0)
    rows = torch.arange(h)[:, None].expand(h, w).roll((-shift[0], -shift[1]), (0, 1))
    columns = torch.arange(w)[None].expand(h, w).roll((-shift[0], -shift[1]), (0, 1))
    y, x = (partition(p[None, :, :, None], window)[..., 0] for p in (rows, columns))
    together = [(p[:, :, None] - p[:, None]).abs() < window for p in (y, x)]
    # A map of one window is always together; its rolled parts are apart all the same.
    if n == 1:
        together[0] = (y[:, :, None] < s) == (y[:, None] < s)
    if m == 1 and across:
        together[1] = (x[:, :, None] < s) == (x[:, None] < s)
    mask = shift_mask((h, w), window, shift)
    assert torch.equal(mask == 0, together[0] & together[1])
    assert set(mask.unique().tolist()) <= {0.0, -100.0}


def test_kept_bias_follows_image_and_weights():
    attention = WindowAttention(8, 2, window=4, shifted=True, grid=(8, 8)).eval()
    with torch.no_grad():
        for size in ((8, 8), (8, 12), (8, 8)):
            attention(torch.randn(3, *size, 8))
            attention.bias.table.normal_()
            x = torch.randn(2, *size, 8)
            kept = attention(x)
            with torch.enable_grad():
                fresh = attention(x)
            assert torch.allclose(kept, fresh, atol=1e-5)


def test_swin_moves_by_bicubic_tables():
    """At 48 pixels the last map is 3x3: its window shrinks from 4 to 3."""
    config = swin.Config(dim=8, depths=(1, 1, 2), heads=(1, 2, 2), window=4, image=(64, 64))
    config = replace(config, position="both")
    state = vitrail.create(config).state_dict()
    moved = vitrail.load(config, state, image=(48, 48)).state_dict()
    name = "stages.2.blocks.1.mixer.bias.table"
    table = state[name].mT.view(1, 2, 7, 7)
    expected = F.interpolate(table, (5, 5), mode="bicubic").view(2, 25).mT
    assert torch.allclose(moved[name], expected, atol=1e-6)
    name = "stages.1.blocks.0.mixer.bias.table"
    assert torch.equal(moved[name], state[name])
    assert moved["stem.position"].shape == (1, 144, 8)


def test_levit_moves_and_keeps_distance_zero():
    config = levit.SPACE.base
    state = vitrail.create(config).state_dict()
    for name, table in state.items():
        if name.endswith("bias.table"):
            table.normal_()
    model = vitrail.load(config, state, image=(160, 288))
    for name, table in model.state_dict().items():
        if name.endswith("bias.table"):
            assert torch.equal(table[0], state[name][0])
            assert torch.allclose(table[-1], state[name][-1], atol=1e-6)
    assert model(torch.randn(1, 3, 160, 288)).shape == (1, 1000)
    with pytest.raises(ValueError, match=r"image is 224x224.*image=\(224, 224\)"):
        model(torch.randn(1, 3, 224, 224))


@pytest.mark.parametrize(
    ("config", "image"), [(swin.Config(), (32, 32)), (levit.Config(), (64, 64))]
)
def test_too_small_an_image_is_one_sentence(config, image):
    with pytest.raises(ConfigError, match=f"image is {image[0]}x{image[1]}.*smaller patch"):
        vitrail.create(replace(config, image=image))
