"""Which models of a race take the methods that were asked for, and what these cost a training."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from torch import nn

from vitrail.errors import ConfigError
from vitrail.methods import Methods, flexivit
from vitrail.models.trunk.catalog import skeleton
from vitrail.recipes.build import changed
from vitrail.run.dialling import macs_of
from vitrail.tasks import Classification


def refusal(config: Any, methods: Sequence[Methods]) -> str | None:
    """Return why the model of a config does not take the methods, None where it does."""
    try:
        _made(config, methods)
    except ConfigError as error:
        return str(error)
    return None


def burden(config: Any, methods: Sequence[Methods]) -> float:
    """Return how many times the multiply-adds of the model's own patch size a training step of such
    methods has, as the mean over the sizes that it draws."""
    if not methods:
        return 1.0
    model = _made(config, methods)
    stems = flexivit.stems(model)
    if not stems or not stems[0].patches:
        return 1.0
    own = macs_of(flexivit.choose(model, stems[0].own))
    each = [macs_of(flexivit.choose(model, patch)) for patch in stems[0].patches]
    return sum(each) / len(each) / own


def _made(config: Any, methods: Sequence[Methods]) -> nn.Module:
    """Return the model without values, with its methods. Raises ConfigError."""
    return changed(deepcopy(skeleton(config)), methods, Classification())
