"""Configuration: both ways through JSON, settings from the command line, and clear errors."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
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
