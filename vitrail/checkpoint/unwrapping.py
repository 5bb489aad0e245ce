"""The weights in what a training script saved: beside an optimizer, averages, arguments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from vitrail.checkpoint.arrays import plain
from vitrail.checkpoint.pickles import Made
from vitrail.checkpoint.stored import Stored, Strange, Unfit, flattened

# Averaged weights come first: they are what a script evaluates.
AVERAGES = (
    "model_ema", "state_dict_ema", "ema_state", "ema_state_dict", "model_ema_state_dict", "ema",
    "ema_model", "averaged_model", "teacher", "target", "shadow",
)  # fmt: skip
WRAPPERS = (
    "model", "state_dict", "model_state_dict", "model_state", "module", "net", "network",
    "params", "weights", "backbone", "student", "encoder", "generator",
)  # fmt: skip
_BESIDE = re.compile(r"optim|sched|scaler|criterion|loss|queue|rng|metric|random|callback|loop")
# What averagers and profilers leave among weights.
_LEFT = re.compile(r"(^|\.)(n_averaged|total_ops|total_params)$")
DEPTH = 12


class Unwrapped(NamedTuple):
    """Named tensors, and what a script wrote beside them that says which model they are."""

    state: dict[str, Any]
    about: dict[str, Any]


def unwrap(value: Any) -> Unwrapped:
    """Return the weights in `value`, without their wrappers. Raises Unfit where there are none."""
    found = _Search().weights(value)
    if found is None:
        raise Unfit(_lack(value))
    state = {name: v for name, v in found.items() if not _LEFT.search(name)}
    state = _unpruned(_unprefixed(state))
    return Unwrapped(state, _about(value))


def _lack(value: Any) -> str:
    value = plain(value)
    if isinstance(value, Mapping):
        some = ", ".join([name[:40] for name in value if isinstance(name, str)][:3])
        return f"holds no tensors: expected a state dict, it has {some or 'nothing'}"
    kind = value.kind if isinstance(value, Made) else type(value).__name__
    return f"holds a {kind}: expected named tensors"


def _opened(value: Any) -> Mapping[Any, Any] | None:
    """Return what has names in a value: a mapping, a pickled network, an object's attributes."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, Made):
        network = flattened(value)
        if network is not None:
            return network
        return value.items or (value.state if isinstance(value.state, dict) else None)
    return None


class _Search:
    """The named tensors of a value or of what it wraps; each part of it is looked at once."""

    def __init__(self) -> None:
        self.known: dict[int, dict[str, Any] | None] = {}

    def weights(self, value: Any, depth: int = 0) -> dict[str, Any] | None:
        inside = _opened(value)
        if inside is None or depth > DEPTH:
            return None
        if id(value) not in self.known:
            self.known[id(value)] = None  # a part of itself has nothing more
            self.known[id(value)] = self._within(inside, depth + 1)
        return self.known[id(value)]

    def _within(self, inside: Mapping[Any, Any], depth: int) -> dict[str, Any] | None:
        wrapped = {str(k): v for k, v in inside.items() if isinstance(v, Mapping | Made)}
        plainly = (self.weights(wrapped[name], depth) for name in WRAPPERS if name in wrapped)
        base = next(filter(None, plainly), None)
        for name in AVERAGES:
            average = self.weights(wrapped[name], depth) if name in wrapped else None
            if average and (base is None or 2 * _size(average) > _size(base)):
                # Some averages are of parameters alone: the buffers are the model's.
                return {**base, **average} if base and average.keys() < base.keys() else average
        if base is not None:
            return base
        own = {str(k): plain(v) for k, v in inside.items() if _is_leaf(plain(v))}
        rest = (v for k, v in wrapped.items() if not _BESIDE.search(k.lower()))
        others = [found for v in rest if (found := self.weights(v, depth))]
        return max([own, *others], key=_size) or None


def _size(state: Mapping[str, Any]) -> int:
    return sum(v.numel() for v in state.values() if _counts(v))


def _counts(value: Any) -> bool:
    return isinstance(value, Tensor | Stored)


def _is_leaf(value: Any) -> bool:
    return isinstance(value, Tensor | Stored | Strange)


def _unprefixed(state: dict[str, Any]) -> dict[str, Any]:
    """Remove what wrappers of PyTorch put before names, in any order and nesting."""
    while True:
        renamed = {_shorter(name, state): v for name, v in state.items()}
        if renamed.keys() == state.keys() or len(renamed) != len(state):
            return state
        state = renamed


def _shorter(name: str, state: Mapping[str, Any]) -> str:
    # A model may have a module of this name: only all names together tell a wrapper.
    for prefix in ("module.", "_orig_mod.", "_fsdp_wrapped_module."):
        if name.startswith(prefix) and all(n.startswith(prefix) for n in state):
            return name.removeprefix(prefix)
    return re.sub(r"(^|\.)(?:_orig_mod|_fsdp_wrapped_module)\.", r"\1", name)


def _unpruned(state: dict[str, Any]) -> dict[str, Any]:
    """Put pruned weights in place of what they are made of: `weight_orig` and `weight_mask`."""
    for name in [n for n in state if n.endswith("_orig")]:
        mask, whole = f"{name.removesuffix('_orig')}_mask", name.removesuffix("_orig")
        if mask in state and whole not in state and _counts(state[name]):
            value, kept = (v.tensor() if isinstance(v, Stored) else v for v in
                           (state.pop(name), state.pop(mask)))  # fmt: skip
            state[whole] = value * kept
    return state


# ---- what is written beside --------------------------------------------------------------


# No mean or deviation is larger, and not every int becomes a float.
MOST = 1e6
_KEYS = ("arch", "architecture", "model", "model_name", "name", "variant", "backbone")


def _about(value: Any) -> dict[str, Any]:
    """Collect the names of models and normalisations that a script kept with its weights."""
    found: dict[str, Any] = {"words": []}
    for depth, part in _parts(value):
        for key, said in part.items():
            if key in _KEYS and isinstance(said, str) and len(said) < 200:
                found["words"].append(said)
            numbers = isinstance(said, list | tuple) and all(
                isinstance(v, int | float) and abs(v) < MOST for v in said
            )
            if depth and key in ("mean", "std") and numbers and said:
                found.setdefault(key, tuple(map(float, said)))
            if depth and key in ("interpolation", "crop_pct") and isinstance(said, str | float):
                found.setdefault(key, said)
    return found


def _parts(value: Any) -> Iterator[tuple[int, Mapping[Any, Any]]]:
    """Yield the value and the records of arguments and settings in it."""
    top = _opened(value)
    if top is None:
        return
    yield 0, top
    for key in (
        "args",
        "config",
        "cfg",
        "hyper_parameters",
        "pretrained_cfg",
        "default_cfg",
        "meta",
    ):
        inner = _opened(top.get(key))
        if inner is not None and inner is not top:
            yield 1, inner
