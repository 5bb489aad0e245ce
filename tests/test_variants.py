"""The papers' tables, executed: every variant has the published parameters and operations."""

import math

import pytest
import torch

import vitrail
from vitrail.measure.counts import counts
from vitrail.models.trunk.backbone import input_shape


def names():
    """All variants; all but the three smallest of each family are slow."""
    families = {}
    for name, variant in sorted(vitrail.catalog().items()):
        families.setdefault(variant.family, []).append((variant.params_m or math.inf, name))
    for own in families.values():
        for place, (_, name) in enumerate(sorted(own)):
            yield pytest.param(name, marks=pytest.mark.slow if place >= 3 else ())


@pytest.mark.parametrize("name", names())
def test_published_figures(name):
    variant = vitrail.catalog()[name]
    with torch.device("meta"):
        model = vitrail.create(name)
    found = counts(model, input_shape(variant.config)[1:], channels=variant.config.channels)
    if variant.params_m is not None:
        assert abs(found.params / 1e6 - variant.params_m) <= max(
            0.005 * variant.params_m, _half_a_digit(variant.params_m)
        )
    if variant.flops_g is not None and not variant.note:
        assert abs(found.macs / 1e9 - variant.flops_g) <= max(
            0.02 * variant.flops_g, _half_a_digit(variant.flops_g)
        )


def _half_a_digit(figure: float) -> float:
    """What rounding may hide: half a unit of the last published digit."""
    _, _, decimals = str(figure).partition(".")
    return 0.5 * 10.0 ** -(len(decimals) if decimals != "0" else 0)


def test_every_family_has_what_a_model_file_has():
    for family, module in vitrail.models.families().items():
        assert module.__doc__ and "arXiv" in module.__doc__, family
        for part in ("Config", "VARIANTS", "NAMES", "SPACE", "MODEL"):
            assert hasattr(module, part), (family, part)
        assert module.SPACE.choices, family


def test_json_round_trip():
    for name, variant in vitrail.catalog().items():
        data = vitrail.models.config_json(variant.config)
        assert vitrail.models.config_from_json(data) == variant.config, name
