"""Configs that hold their host's: in step with it, as JSON, by settings, in recipes, by name."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest

import vitrail
from vitrail import models
from vitrail.config import hints, members, override, to_json
from vitrail.errors import ConfigError
from vitrail.models import elsa, swin, volo
from vitrail.models.trunk.hosts import SHARED, Hosted
from vitrail.recipes.recipe import Data, Recipe, amend
from vitrail.training.steps import Steps

FAMILIES = sorted(n for n, m in models.families().items() if issubclass(m.Config, Hosted))


def small(family):
    sizes = {"image": (56, 56), "channels": 3, "classes": 5}
    return [*models.families()[family].SPACE.configs(**sizes)]


def test_which_families_have_hosts():
    assert {"acmix", "aa_resnet", "elsa", "localvit"} <= set(FAMILIES)


def test_host_and_whole_are_in_step():
    small = swin.Config(dim=8, image=(32, 48), channels=1, classes=7, drop_path=0.3)
    config = elsa.Config(small)
    assert (config.image, config.channels, config.classes) == ((32, 48), 1, 7)
    assert config.drop_path == 0.3 and config.host == small
    other = replace(config, image=(64, 64), classes=3)
    assert other.host == replace(small, image=(64, 64), classes=3)
    again = replace(other, host=swin.Config(dim=16))  # the whole's stay
    assert again.host == swin.Config(dim=16, image=(64, 64), channels=1, classes=3, drop_path=0.3)
    assert hash(config) == hash(elsa.Config(small)) and config != other


@pytest.mark.parametrize("family", FAMILIES)
def test_json_of_every_config(family):
    """Published ones and those of the search space; what both share is said once."""
    module = models.families()[family]
    space = small(family)
    for config in [*space, *(v.config for v in module.VARIANTS.values())]:
        data = models.config_json(config)
        assert not set(data["host"]) & set(SHARED) and data["host"]["kind"]
        assert models.config_from_json(to_json(data)) == config


@pytest.mark.parametrize("family", FAMILIES)
def test_names_tell_configs_apart(family):
    space = small(family)
    names = [models.config_name(config) for config in space]
    assert all(one != other for one, other in combinations(names, 2))
    assert all(name.startswith(f"{family}-") and len(name) < 80 for name in names)


def test_settings_reach_into_the_host():
    config = vitrail.catalog()["elsa_swin_tiny"].config
    assert override(config, ["host.window=4"]).host.window == 4
    chosen = override(config, ["host=volo", "host.stem=32", "image=64,64"])
    assert chosen.host == volo.Config(stem=32, image=(64, 64), drop_path=0.1)
    with pytest.raises(ConfigError, match=r"host.windw: no such field: did you mean 'window'"):
        override(config, ["host.windw=4"])
    with pytest.raises(ConfigError, match="host: kind 'vit' does not exist"):
        override(config, ["host=vit"])


def test_recipes_hold_hosts():
    model = to_json(models.config_json(vitrail.catalog()["elsa_volo_d1"].config))
    recipe = Recipe(model=model, data=Data("photos/"), steps=Steps(1, 1))
    changed = amend(recipe, ["model.host.stem=32", "model.kernel=3"])
    assert changed.config.host.stem == 32 and changed.config.kernel == 3
    assert amend(recipe, ["model=elsa_swin_tiny"]).config.host == swin.Config(drop_path=0.1)


def test_what_a_host_cannot_be():
    for host, said in (
        ("vit", "host is 'vit': expected one of the kinds swin, volo"),
        ({"dim": 8}, "host: the field 'kind' is missing: give one of swin, volo"),
        ({"kind": "swin", "classes": 3}, "host.classes: is the whole network's"),
        ({"kind": "swin", "depths": 3}, "host.depths: 3 is not a list"),
    ):
        with pytest.raises(ConfigError, match=said):
            vitrail.create("elsa_swin_tiny", host=host)


@pytest.mark.parametrize("name", ["acmix_resnet26", "elsa_volo_d1", "elsa_swin_tiny", "localvit_t"])
@pytest.mark.parametrize("heads", [0, -1, 7])
def test_heads_that_a_host_cannot_have(name, heads):
    host = vitrail.catalog()[name].config.host
    given = (heads,) * len(host.heads) if isinstance(host.heads, tuple) else heads
    with pytest.raises(ConfigError, match=rf"into {heads} heads|heads is {heads}"):
        vitrail.create(name, host=replace(host, heads=given))


HEADS = [n for n, m in models.networks().items() if "host" in hints(m.Config)]


@pytest.mark.parametrize("head", HEADS)
def test_a_host_is_read_again_or_refused(head):
    """A config that derives from a host's own is none by that alone: its kind must be known."""
    kinds = members(hints(models.networks()[head].Config)["host"])
    for family, module in models.families().items():
        host = next(iter(small(family)))
        if module.Config in kinds:
            config = models.networks()[head].Config(host)
            assert models.config_from_json(models.config_json(config)) == config
        elif isinstance(host, kinds):
            with pytest.raises(ValueError, match=r"host is .*: expected one of the kinds"):
                models.networks()[head].Config(host)
