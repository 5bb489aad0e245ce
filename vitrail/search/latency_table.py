"""Latency of whole networks from a table of their operations: each kind is measured once.

As once-for-all does (Cai et al., ICLR 2020, arXiv 1908.09791). An operation is a part of a block,
such as a mixer or an MLP, or what stands outside of the blocks, at the shapes that it is given; a
network takes the sum of its operations times one factor, which a few whole networks tell.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.layers.fold import deploy
from vitrail.measure.latency import threads_set
from vitrail.models import create
from vitrail.models.trunk.backbone import input_shape
from vitrail.models.trunk.catalog import skeleton

# Seconds for which a network is run for each of its operations that is new, and runs at least.
LOOK_S, RUNS = 0.02, 8
Calls = dict[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Deviation:
    """How far predictions are from `networks` that were measured whole, in shares: the mean and
    the largest."""

    networks: int
    mean: float
    largest: float


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """Seconds of each operation at its shapes, in torch with folded weights at batch 1.

    A network takes `factor` times the sum of its operations.
    """

    threads: int
    factor: float = 1.0
    known: dict[str, float] = field(default_factory=dict)

    def seconds(self, config: Any) -> float:
        """Return how long the network of a config is expected to take for one image.

        Operations that were not met before are measured.
        """
        keys = kinds(config)
        if not self.known.keys() >= {*keys.values()}:
            self._measure(config, keys)
        return self.factor * sum(self.known[key] for key in keys.values())

    def fitted(self, configs: Sequence[Any], seconds: Sequence[float]) -> LatencyTable:
        """Return a table whose factor is the median over networks that were measured whole."""
        pairs = zip(configs, seconds, strict=True)
        return replace(self, factor=self.factor * median(s / self.seconds(c) for c, s in pairs))

    def deviation(self, configs: Sequence[Any], seconds: Sequence[float]) -> Deviation:
        """Return how far predictions are from networks that were measured whole."""
        off = [abs(self.seconds(c) / s - 1) for c, s in zip(configs, seconds, strict=True)]
        return Deviation(len(off), fmean(off), max(off))

    def _measure(self, config: Any, keys: dict[str, str]) -> None:
        model = deploy(create(config)).eval()
        image = torch.randn(1, *input_shape(config))
        with threads_set(self.threads), torch.inference_mode():
            # What was folded into its neighbour is there no more, and takes no time.
            there = called(model, image)
            new = {key: path for path, key in keys.items() if key not in self.known}
            paths = [path for path in new.values() if path in there]
            spent = in_place(model, image, paths, LOOK_S * max(1, len(paths)))
            for key, path in new.items():
                self.known[key] = spent.get(path, 0.0)


def kinds(config: Any) -> dict[str, str]:
    """Return what distinguishes each operation of a network, by its path."""
    model = skeleton(config)
    image = torch.empty(1, *input_shape(config), device="meta")
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            calls = called(model, image)
    finally:
        model.train(training)
    return {path: _kind(model.get_submodule(path), given) for path, given in calls.items()}


def called(model: nn.Module, image: Tensor) -> Calls:
    """Return what each operation of a model is given for an image, by its path."""
    found: Calls = {}

    def noting(path: str) -> Any:
        return lambda module, given: found.setdefault(path, given)

    hooks = [
        module.register_forward_pre_hook(_silent(noting(path))) for path, module in parts(model)
    ]
    try:
        model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def in_place(
    model: nn.Module, image: Tensor, paths: Sequence[str], seconds: float
) -> dict[str, float]:
    """Return the quickest run of each operation inside of its model, in seconds.

    Run by itself again and again an operation finds its weights and maps in the caches: whole
    networks took 1.2 to 1.4 times the sum of such times, by the space.
    """
    quickest, begun = dict.fromkeys(paths, math.inf), {}

    def begins(path: str, module: nn.Module, given: Any) -> None:
        begun[path] = time.perf_counter()

    def ends(path: str, module: nn.Module, given: Any, made: Any) -> None:
        quickest[path] = min(quickest[path], time.perf_counter() - begun[path])

    with ExitStack() as hooks:
        for path in paths:
            module = model.get_submodule(path)
            for handle in (
                module.register_forward_pre_hook(partial(begins, path)),
                module.register_forward_hook(partial(ends, path)),
            ):
                hooks.callback(handle.remove)
        stop, runs = time.perf_counter() + seconds, 0
        while runs < RUNS or time.perf_counter() < stop:
            model(image)
            runs += 1
    return quickest


def parts(model: nn.Module, path: str = "", depth: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """Yield the operations of a model with their paths: parts of the blocks, and what else there
    is."""
    for name, module in model.named_children():
        at = f"{path}{name}"
        if isinstance(module, nn.ModuleList | nn.ModuleDict):
            yield from parts(module, f"{at}.", depth)
        elif path.startswith("blocks.") and not depth and [*module.children()]:
            yield from parts(module, f"{at}.", depth + 1)
        else:
            yield at, module


def _silent(hook: Any) -> Any:
    """Return a hook whose result replaces nothing."""

    def run(module: nn.Module, given: Any) -> None:
        hook(module, given)

    return run


def _kind(module: nn.Module, given: tuple[Any, ...]) -> str:
    """Return the classes, sizes and plain settings of a module, and the shapes that it is given."""
    plain = [
        (name, value)
        for inner in module.modules()
        for name, value in sorted(vars(inner).items())
        if not name.startswith("_") and isinstance(value, bool | int | float | str | tuple)
    ]
    shapes = [tuple(one.shape) if isinstance(one, Tensor) else one for one in given]
    sizes = [tuple(p.shape) for p in module.parameters()]
    return f"{type(module).__name__} {module!r} {plain} {sizes} {shapes}"
