"""Configuration: both ways through JSON, settings from the command line, and clear errors."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.config import override, parse, to_json
from vitrail.errors import ConfigError


@dataclass(frozen=True)
class Adam:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True)
class Momentum:
    lr: float = 0.1
    nesterov: bool = True


@dataclass(frozen=True)
class Crop:
    image: tuple[int, int] = (28, 28)
    scale: tuple[float, float] | None = None
    origin: str = "here"

    def __post_init__(self) -> None:
        if min(self.image) < 1:
            raise ValueError(f"image is {self.image}; it must be positive")


@dataclass(frozen=True)
class Plan:
    name: str
    optimizer: Adam | Momentum = Adam()
    crop: Crop = Crop()
    second: Crop | None = None
    stack: tuple[Adam | Momentum, ...] = ()
    model: dict[str, Any] = field(default_factory=dict)
    steps: int = 10
    ema: float | None = 0.99


@settings(deadline=None)  # the first example imports pydantic
@given(
    st.text(max_size=5),
    st.one_of(
        st.builds(Adam, st.floats(0, 1), st.tuples(st.floats(0, 1), st.floats(0, 1))),
        st.builds(Momentum, st.floats(0, 1), st.booleans()),
    ),
    st.one_of(st.none(), st.builds(Crop, st.tuples(st.integers(1, 99), st.integers(1, 99)))),
    st.lists(st.sampled_from([Adam(), Momentum(0.3)]), max_size=3).map(tuple),
    st.one_of(st.none(), st.floats(0, 1)),
)
def test_every_plan_comes_back_from_its_json(name, optimizer, second, stack, ema):
    plan = Plan(name, optimizer, Crop(), second, stack, {"dims": [1, 2]}, 3, ema)
    assert parse(Plan, json.loads(json.dumps(to_json(plan)))) == plan


def test_a_union_is_told_apart_by_its_kind():
    assert to_json(Plan("a", Momentum()))["optimizer"] == {
        "kind": "momentum",
        "lr": 0.1,
        "nesterov": True,
    }
    assert "kind" not in to_json(Plan("a"))["crop"]


@pytest.mark.parametrize(
    ("setting", "read"),
    [
        ("optimizer.lr=3e-4", lambda p: p.optimizer == Adam(3e-4)),
        ("optimizer=momentum", lambda p: p.optimizer == Momentum()),
        ('optimizer={"kind": "momentum", "lr": 2}', lambda p: p.optimizer == Momentum(2.0)),
        ("optimizer.betas=0.8,0.9", lambda p: p.optimizer.betas == (0.8, 0.9)),
        ("crop.image=[32, 48]", lambda p: p.crop.image == (32, 48)),
        ("crop.scale=0.5,1", lambda p: p.crop.scale == (0.5, 1.0)),
        ("crop.origin=2024", lambda p: p.crop.origin == "2024"),
        ("crop.origin=a,b", lambda p: p.crop.origin == "a,b"),
        ("second=crop", lambda p: p.second == Crop()),
        ("ema=none", lambda p: p.ema is None),
        ("steps=7", lambda p: p.steps == 7),
        ("model.dim=96", lambda p: p.model == {"dim": 96, "depths": [1, 2]}),
        ("model.depths=2,2", lambda p: p.model["depths"] == [2, 2]),
        ("name=x=y", lambda p: p.name == "x=y"),
    ],
)
def test_a_setting_reaches_its_field(setting, read):
    plan = Plan("a", model={"dim": 64, "depths": [1, 2]})
    assert read(override(plan, [setting]))
    assert plan == Plan("a", model={"dim": 64, "depths": [1, 2]})


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("optimizer.lr=abc", "optimizer.lr: 'abc' is not a number"),
        ("optimizer.rl=1", "optimizer.rl: no such field: did you mean 'lr'?"),
        ("optimiser.lr=1", "optimiser: no such field: did you mean 'optimizer'?"),
        ("optimizer=rmsprop", "optimizer: kind 'rmsprop' does not exist"),
        ("steps=1.5", "steps: 1.5 is not a whole number"),
        ("steps.more=1", "steps.more: steps is 10, which has no fields"),
        ("crop.image=0,3", "crop: image is (0, 3); it must be positive"),
        ("crop.image=1,2,3", "crop.image:"),
        ("steps", "'steps' is not a setting: write it as field=value"),
    ],
)
def test_a_wrong_setting_says_where_what_and_the_remedy(setting, said):
    with pytest.raises(ConfigError) as caught:
        override(Plan("a"), [setting])
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "name: is missing and has no default"),
        ({"name": "a", "stepz": 1}, "stepz: no such field: did you mean 'steps'?"),
        ({"name": 3}, "name: 3 is not a text"),
        ({"name": "a", "optimizer": {"lr": 1}}, "optimizer: the field 'kind' is missing"),
        ({"name": "a", "crop": 3}, "crop: 3 is not a mapping of fields"),
        ({"name": "a", "stack": [{"kind": "adam", "lr": "x"}]}, "stack.0.lr: 'x' is not a number"),
        ([], "[] is not a mapping of fields"),
    ],
)
def test_wrong_json_is_refused_with_its_path(value, said):
    with pytest.raises(ConfigError) as caught:
        parse(Plan, value)
    assert str(caught.value).startswith(said)


# ---- configs of models -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("swin_tiny", {"window": "a"}, "window: 'a' is not a whole number"),
        ("swin_tiny", {"depths": 2}, "depths: 2 is not a list: give a list of whole numbers"),
        ("swin_tiny", {"depths": (2, 2)}, "depths is (2, 2) and heads is (3, 6, 12, 24)"),
        ("swin_tiny", {"classes": -1}, "classes is -1: expected at least 0"),
        ("vit_ti16", {"classes": None}, "classes: None is not a whole number"),
        ("vit_ti16", {"heads": 0}, "heads is 0: expected at least 1"),
        ("vit_ti16", {"image": 224}, "image: 224 is not a list: give 2 whole numbers"),
        ("vit_ti16", {"image": (0, 0)}, "image is 0: expected at least 1"),
        ("vit_ti16", {"channels": 0}, "channels is 0: expected at least 1"),
        ("vit_ti16", {"depth": 10**7}, "depth is 10000000: expected at most 1000"),
        ("vit_ti16", {"dim": 10**400}, "expected at most 1000000"),
        ("vit_ti16", {"drop_path": 2}, "drop_path is 2.0: expected a share"),
        ("vit_ti16", {"drop_path": float("nan")}, "drop_path is nan"),
        ("vit_ti16", {"dim": 999_999, "hidden": 999_999}, "there is not enough memory"),
        ("maxvit_tiny", {"window": 0}, "window is 0: expected at least 1"),
        ("levit_128s", {"key_dim": 3.5}, "key_dim: 3.5 is not a whole number"),
        ("pnasnet5_large", {"genotype": ((1,),)}, "genotype"),
        ("hornet_tiny_gf", {"orders": ()}, "orders is ()"),
        ("vit_ti16", {"imagee": 3}, "imagee: no such field of vitrail.models.vit.Config; did you"),
        ("swin", {}, "that is a family, whose variants are swin_tiny, swin_small, swin_base"),
        ("swim_tiny", {}, "did you mean swin_tiny"),
        (3, {}, "int is not the Config of a model"),
    ],
)
def test_a_config_says_what_it_cannot_build(name, changes, said):
    import vitrail

    with pytest.raises(ConfigError) as caught:
        vitrail.create(name, **changes)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_numbers_of_numpy_and_lists_are_taken():
    import numpy as np

    from vitrail.models import resolve

    config = resolve("vit_ti16", dim=np.int64(96), heads=np.int32(2), image=[32, np.int64(64)])
    assert (config.dim, config.heads, config.image) == (96, 2, (32, 64))
    assert type(config.dim) is int


def test_without_classes_every_family_gives_its_embedding():
    import torch

    import vitrail
    from vitrail.models import families

    x = torch.randn(2, 3, 56, 56)
    for family, module in families().items():
        for config in module.SPACE.configs(image=(56, 56), channels=3, classes=0):
            with suppress(ConfigError):  # not every size suits such images
                model = vitrail.create(config).eval()
                break
        else:
            pytest.fail(f"{family} has no small model")
        with torch.no_grad():
            assert torch.equal(model(x), model.embedding(x)), family
            assert model(x).shape == (2, model.width), family
        assert not any(name.startswith("head.") for name in model.state_dict()), family


def wrong_values():
    """Every field of every family, with values of the wrong type and out of range."""
    from dataclasses import fields

    from vitrail.models import networks

    for family, module in networks().items():
        for place, one in enumerate(fields(module.Config)):
            wrong = ("a", None, -1, (), (-1,), float("nan"), object(), {"a": 1}, 10**30)
            # One wrong value a field and day; together they are all kinds.
            yield family, module.Config, one.name, wrong[(place + len(family)) % len(wrong)]


def test_no_field_of_any_family_leaks_a_bare_error():
    import vitrail

    for family, config, name, value in wrong_values():
        try:
            vitrail.create(config(), **{name: value})
        except ConfigError as error:
            assert str(error), (family, name, value)
