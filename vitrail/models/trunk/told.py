"""What the shapes of a state tell of a config: classes, channels, the size of the image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import torch

from vitrail.errors import ConfigError
from vitrail.models.trunk.catalog import module_of, shapes, skeleton
from vitrail.models.trunk.fitting import fitted

Shapes = Mapping[str, tuple[int, ...]]
WRONG = 0.4  # part of a model's tensors that depend on the image and its channels, at most
ASPECT = 4  # of images that a table alone may tell
TRIES = 12  # images of which a model is built to compare its shapes

# How long an axis of a table is for a map of h x w positions.
_FORMS: tuple[Callable[[int, int], int], ...] = (
    lambda h, w: h * w,
    lambda h, w: h * w + 1,
    lambda h, w: h,
    lambda h, w: w,
    lambda h, w: 2 * h - 1,
    lambda h, w: 2 * w - 1,
    lambda h, w: w // 2 + 1,
    lambda h, w: (2 * h - 1) * (2 * w - 1),
    lambda h, w: 2 * h * w - 1,
)


def told(config: Any, state: Shapes, image: tuple[int, int] | None = None) -> Any:
    """Return `config` with the classes, channels and image that a state's shapes tell, or None.

    `image` is looked at first: where a table of positions fits several sizes, only who asks knows
    which it is. Else it is the squarest, wide rather than tall.
    """
    for found in _guesses(config, state, image):
        if found is not None and _shapes(found) == state:
            return found
    return None


def _shapes(config: Any) -> Shapes:
    try:
        return shapes(config)
    except ConfigError:
        return {}


def _guesses(config: Any, state: Shapes, image: tuple[int, int] | None) -> Iterator[Any]:
    config = headed(config, state)
    if config is None:
        return
    if image is not None:
        yield _moved(config, image)
    yield config
    ours = _shapes(config)
    if sum(state.get(n) != s for n, s in ours.items()) > WRONG * len(ours):
        return
    yield (config := _own(config, state))
    yield (config := _channels(config, state))
    for size in _images(config, state):
        yield _moved(config, size)


def _moved(config: Any, image: tuple[int, int]) -> Any:
    return replace(config, image=image)


def headed(config: Any, state: Shapes) -> Any:
    """Return the config with the head that the state has, by the rows of its linear layers."""
    heads = {n: s for n, s in state.items() if n.startswith("head.")}
    if not heads:
        return replace(config, classes=0)
    if not config.classes:
        config = replace(config, classes=1)
    ours = _shapes(config)
    own = getattr(module_of(config), "CLASSES", "")  # the tensor with a row for each class
    counted = {own: heads[own]} if own in heads else heads
    rows = (s[0] for n, s in counted.items() if len(s) == 2 and len(ours.get(n, ())) == 2)
    classes = next(rows, config.classes)
    return replace(config, classes=classes) if classes > 0 else None


def _own(config: Any, state: Shapes) -> Any:
    """Return what the family itself reads in a state; the config where it cannot."""
    heads = {n: s for n, s in _shapes(config).items() if n.startswith("head.")}
    known = {n: torch.empty(s, device="meta") for n, s in {**heads, **state}.items()}
    found = fitted(config, known, module_of(config))
    return config if found is None else replace(found, classes=config.classes)


def _channels(config: Any, state: Shapes) -> Any:
    """Return the config with the channels of the image that the state's kernels are for."""
    ours = _shapes(config)
    wrong = {n: s for n, s in ours.items() if n in state and state[n] != s}
    if not wrong:
        return config
    more = _shapes(replace(config, channels=config.channels + 1))
    for name, shape in wrong.items():
        other, mine = more.get(name, shape), state[name]
        if other == shape or len(mine) != len(shape):
            continue
        axis = next(i for i, (a, b) in enumerate(zip(shape, other, strict=True)) if a != b)
        step = other[axis] - shape[axis]
        channels = config.channels + (mine[axis] - shape[axis]) // step
        return replace(config, channels=channels) if 0 < channels <= 4096 else config
    return config


def _images(config: Any, state: Shapes) -> list[tuple[int, int]]:
    """Return sizes for which tables of positions would be as long as
    the state's, squarest first.
    """
    ours = _shapes(config)
    wrong = [
        (mine, its)
        for n, s in ours.items()
        if n in state and len(state[n]) == len(s)
        for mine, its in zip(s, state[n], strict=True)
        if mine != its
    ]
    if not wrong:
        return []
    found: set[tuple[int, int]] = set()
    patch = getattr(config, "patch", 1)
    square = {patch} if isinstance(patch, int) else set()
    for stride in sorted({level.stride for level in skeleton(config).levels} | square):
        grid = (math.ceil(config.image[0] / stride), math.ceil(config.image[1] / stride))
        sides: tuple[set[int], set[int]] = {grid[0]}, {grid[1]}
        for mine, its in dict.fromkeys(wrong):
            for form in _FORMS:
                if form(*grid) == mine:
                    found |= {(h * stride, w * stride) for h, w in _solved(form, its, sides)}
        found |= {(h * stride, w * stride) for h, w in product(*sides)}
    found.discard(tuple(config.image))
    ordered = sorted(found, key=lambda size: (aspect(size), size[0] > size[1]))
    return [size for size in ordered if aspect(size) <= ASPECT][:TRIES]


def aspect(image: tuple[int, int]) -> float:
    """Return how many times as long as the shorter side the longer one is."""
    return max(image) / min(image)


def _solved(
    form: Callable[[int, int], int], length: int, sides: tuple[set[int], set[int]]
) -> set[tuple[int, int]]:
    """Return maps of which `form` is `length`; sides that it tells alone are added to `sides`."""
    if not 0 < length < 2**20:
        return set()
    if form(5, 7) != form(5, 9) and form(5, 7) != form(6, 7):  # of both sides
        return {
            (h, w)
            for h in range(1, math.isqrt(2 * length) + 2)
            for h, w in ((h, _other(form, h, length)), (_other(form, h, length), h))
            if h and w and form(h, w) == length
        }
    axis = int(form(5, 7) != form(5, 9))
    near = (length, (length + 1) // 2, 2 * (length - 1), 2 * length - 1)
    sides[axis].update(side for side in near if side > 0 and form(side, side) == length)
    return set()


def _other(form: Callable[[int, int], int], side: int, length: int) -> int:
    """Return the other side of a map, as far as there may be one."""
    for other in {length // side, (length - 1) // side, (length + 1) // 2 // side,
                  (length // (2 * side - 1) + 1) // 2}:  # fmt: skip
        if other > 0 and length in (form(side, other), form(other, side)):
            return other
    return 0
