"""Positions: every family's rows hold at every size, and shapes tell what a state was made for."""

from __future__ import annotations

import math
from functools import lru_cache

import pytest
import torch
from test_backbones import FAMILIES, tiny

import vitrail
from vitrail import models
from vitrail.errors import CheckpointError, ConfigError
from vitrail.models.trunk import positions
from vitrail.models.trunk.fitting import fitted
from vitrail.models.trunk.told import told

SIZES = ((64, 64), (96, 64), (64, 128), (128, 96))


@lru_cache
def meta(config):
    with torch.device("meta"):
        return vitrail.create(config).state_dict()


def others(config):
    """The config for each of the sizes that such a network can take."""
    for size in SIZES:
        try:
            other = models.resolve(config, image=size)
            meta(other)
        except ConfigError:
            continue
        yield other


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_agree_with_shapes(family):
    """Every tensor that depends on the image is one of a row, whose grid is the tensor's."""
    config, module = tiny(family), models.module_of(tiny(family))
    if hasattr(module, "resample"):
        return  # more than positions depends on the image, or positions depend on more
    state = meta(config)
    rows = positions.rows(config, module)
    seen = dict.fromkeys(rows, 0)
    for name, value in state.items():
        for table in rows:
            if (numbers := table.numbers(name)) is not None:
                seen[table] += 1
                assert table.holds(value, table.grid(config, *numbers)), name
    for other in others(config):
        found = (
            positions.resampled(
                {k: torch.zeros(v.shape) for k, v in state.items()}, config, other, module
            )
            if family not in STAYING
            else {}
        )
        for name, value in found.items():
            assert value.shape == meta(other)[name].shape, (name, other.image)


# Their weights know how many places there are, or how far apart, and cannot grow.
STAYING = {"attention_cnn", "mlp_mixer"}


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_tell_image_classes_and_channels(family):
    """Non-square images, too: where a table is as long for another image, that is as good."""
    config, module = tiny(family), models.module_of(tiny(family))
    own = hasattr(module, "fitted")
    for other in others(config):
        made = models.resolve(other, classes=7, channels=other.channels if own else 1)
        state = meta(made)
        if state.keys() != meta(config).keys():
            continue  # of other names is another network
        found = fitted(config, state, module)
        if own:
            assert found is None or found.classes == 7
            continue
        assert (found.classes, found.channels) == (7, 1)
        assert {k: v.shape for k, v in meta(found).items()} == {
            k: v.shape for k, v in state.items()
        }


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_of_no_model_tell_nothing_and_break_nothing(family):
    """An axis too few, one too many or an empty one, in what tells sizes."""
    config = tiny(family)
    shapes = {name: tuple(value.shape) for name, value in meta(config).items()}
    tables = positions.rows(config, models.module_of(config))
    telling = [n for n in shapes if any(t.numbers(n) is not None for t in tables)][:2]
    telling += [n for n in shapes if n.startswith("head.")][:1] + [*shapes][:1]
    for name in dict.fromkeys(telling):
        own = shapes[name]
        for wrong in ((), own[1:], (*own, 1), (0, *own[1:]), (own[0], 0, *own[2:])):
            if wrong != own:
                assert told(config, shapes | {name: wrong}) is None, (name, wrong)


@pytest.mark.parametrize("name", ["vit_s32", "swin_tiny", "t2t_vit_7", "resnet_50"])
@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_four_channel_stems_are_told(name, channels):
    config = vitrail.catalog()[name].config
    made = models.resolve(config, channels=channels, classes=12)
    assert fitted(config, meta(made), models.module_of(config)) == made


def test_a_table_is_of_the_image_closest_in_shape():
    """8 x 18 places are 12 x 12 to a square model, and 8 x 18 to one of wide images."""
    square = vitrail.catalog()["vit_s16"].config
    wide = models.resolve(square, image=(112, 256))
    state = meta(models.resolve(square, image=(128, 288)))
    module = models.module_of(square)
    assert fitted(square, state, module).image == (192, 192)
    assert fitted(wide, state, module).image == (128, 288)
    prime = {**state, "embed.position": torch.empty(1, 13, square.dim, device="meta")}
    assert fitted(square, prime, module) is None  # 1 x 13 places are not an image


def test_offsets_tell_both_sides():
    """Tables along rows and along columns leave nothing to guess."""
    config = models.resolve(tiny("evolving"), image=(64, 64))
    for size in ((96, 64), (64, 96), (128, 96)):
        state = meta(models.resolve(config, image=size))
        assert fitted(config, state, models.module_of(config)).image == size


@pytest.mark.parametrize(
    ("family", "said"),
    [("mlp_mixer", "of 14x14 tokens, not 28x14"), ("attention_cnn", "offsets of up to")],
)
def test_what_cannot_move_says_why(family, said):
    config = tiny(family)
    if family == "attention_cnn":
        config = models.resolve(config, encoding="learned")
    model = vitrail.create(config)
    with pytest.raises(CheckpointError, match=said) as refused:
        vitrail.load(config, model.state_dict(), image=(112, 56))
    assert "image is 112x56, the weights are for 56x56" in str(refused.value)


def test_a_row_moves_what_lies_in_any_axes():
    """The same table, as (1, n, C), (n, C), (h, w, C) and (C, h, w)."""
    from vitrail.layers.position import bicubic_grid

    torch.manual_seed(0)
    old, new = (3, 5), (6, 4)
    table = torch.randn(1, math.prod(old), 2)
    expected = bicubic_grid(table, old, new)
    forms = {
        (1,): (table, expected),
        (0,): (table[0], expected[0]),
        (0, 1): (table.view(*old, 2), expected.view(*new, 2)),
        (1, 2): (table[0].mT.unflatten(1, old), expected[0].mT.unflatten(1, new)),
    }
    for axes, (given, wanted) in forms.items():
        row = positions.Table("x", lambda config: config, bicubic_grid, axes=axes)
        assert torch.allclose(row.moved(given, old, new), wanted, atol=1e-6), axes
        assert row.moved(given, old, old) is given
    row = positions.Table("x", lambda config: config, bicubic_grid, prefix=1)
    behind = torch.cat([torch.ones(1, 1, 2), table], 1)
    assert torch.equal(row.moved(behind, old, new)[:, 1:], expected)
    assert torch.equal(row.moved(behind, old, new)[:, :1], behind[:, :1])
    assert row.holds(behind, old) and not row.holds(behind, (4, 4))
