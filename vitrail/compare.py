"""Two models on the same input: the first layer whose outputs deviate, and by how much.

This is how a port is debugged: an epsilon, an activation or the order of heads shows in the
layer where it is, while logits only say that something is wrong.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.errors import ConfigError


@dataclass(frozen=True)
class Layer:
    """Outputs of a layer that both models have, by how much they differ: at most `difference`,
    which is `relative` to the largest value of the first. `other` is the second's name of it."""

    name: str
    other: str
    shape: tuple[int, ...]
    difference: float
    relative: float


@dataclass(frozen=True)
class Comparison:
    """`layers` in the order in which they finish; `paired` says by "name" or "shape"."""

    layers: tuple[Layer, ...]
    logits: Layer
    parameters: tuple[str, ...]
    paired: str
    tolerance: float

    @property
    def first(self) -> Layer | None:
        """The first layer that deviates by more than the tolerance, relative to its size."""
        found = (layer for layer in self.layers if not layer.relative <= self.tolerance)
        return next(found, None if self.logits.relative <= self.tolerance else self.logits)

    def said(self) -> str:
        """One sentence."""
        if self.first is None:
            worst = max((*self.layers, self.logits), key=lambda layer: layer.relative)
            return (
                f"equal: {len(self.layers)} layers and the logits agree to {worst.relative:.1e} "
                "relative to their size"
            )
        named = self.first.name if self.first.name == self.first.other else (
            f"{self.first.name} ({self.first.other} of the second)"
        )  # fmt: skip
        place = [layer.name for layer in self.layers].index(self.first.name) if self.layers else 0
        return (
            f"first deviation: {named}, layer {place + 1} of {len(self.layers)}: at most "
            f"{self.first.difference:.2g}, relative {self.first.relative:.1e}; logits differ by "
            f"{self.logits.difference:.2g}"
        )


def opened(what: str | os.PathLike | nn.Module, *, seed: int = 0) -> nn.Module:
    """A model: of a catalog name (random weights of `seed`), a run folder, a file of weights
    (known by its tensors), or `NAME=FILE`. Raises VitrailError."""
    from vitrail.models import catalog, create, identify, load
    from vitrail.run_folder import RunFolder

    if isinstance(what, nn.Module):
        return what
    text = os.fspath(what)
    if text in catalog():
        torch.manual_seed(seed)
        return create(text)
    if Path(text).is_dir():
        return RunFolder.open(text).load_model()[0]
    name, _, file = text.partition("=")
    if file and name in catalog():
        return load(name, file)
    found = identify(text)
    return load(found.config, text, source=found.source)


def compare(
    a: str | os.PathLike | nn.Module,
    b: str | os.PathLike | nn.Module,
    *,
    image: tuple[int, int] | None = None,
    tolerance: float = 1e-6,
    seed: int = 0,
) -> Comparison:
    """Run both models on one random image in float64 and eval mode; see `opened` for what may
    be given.

    Layers are paired by name where both models share names, else in order by the shapes of
    their outputs. Raises ConfigError for models that do not take the same images.
    """
    first, second = (opened(what, seed=seed).double().eval() for what in (a, b))
    shape = _input(first, second, image)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    traces = [_trace(model, x) for model in (first, second)]
    paired, pairs = _pairs(*traces)
    layers = tuple(_layer(one, other) for one, other in pairs)
    ends = [trace[-1] for trace in traces]  # the whole model finishes last
    logits = _layer(("logits", ends[0][1]), ("logits", ends[1][1]))
    return Comparison(layers, logits, tuple(_parameters(first, second)), paired, tolerance)


def _input(first: nn.Module, second: nn.Module, image: tuple[int, int] | None) -> tuple[int, ...]:
    configs = [c for c in (getattr(m, "config", None) for m in (first, second)) if c is not None]
    channels, sizes = {c.channels for c in configs}, {tuple(c.image) for c in configs}
    if len(channels) > 1:
        raise ConfigError(
            f"the models take {' and '.join(map(str, sorted(channels)))} channels: they have no "
            "input in common"
        )
    if image is None and len(sizes) > 1:
        told = " and ".join("x".join(map(str, size)) for size in sorted(sizes))
        raise ConfigError(f"the models are for images of {told}: say which by --image HxW")
    if image is None and not sizes:
        raise ConfigError("the models do not say which images they take: give image=(H, W)")
    return 1, channels.pop() if channels else 3, *(image or sizes.pop())


Trace = list[tuple[str, Tensor]]


@torch.no_grad()
def _trace(model: nn.Module, x: Tensor) -> Trace:
    """Names and outputs of all modules in the order in which they finish, the model last."""
    found: Trace = []
    handles = [
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: found.extend(
                (name, value.detach().clone()) for value in _tensors(output)
            )
        )
        for name, module in model.named_modules()
    ]
    try:
        model(x)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    finally:
        for handle in handles:
            handle.remove()
    return found


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, tuple | list):
        for value in output:
            yield from _tensors(value)
    elif isinstance(getattr(output, "logits", None), Tensor):
        yield output.logits


def _pairs(a: Trace, b: Trace) -> tuple[str, list[tuple[tuple[str, Tensor], tuple[str, Tensor]]]]:
    """What is compared with what: outputs of one name (the n-th with the n-th), or the same run
    of shapes."""
    a, b = a[:-1], b[:-1]
    shared = {name for name, _ in a} & {name for name, _ in b}
    if len(shared) >= 0.5 * min(len({n for n, _ in a}), len({n for n, _ in b})):
        rest: dict[str, Trace] = {}
        for name, value in b:
            rest.setdefault(name, []).append((name, value))
        return "name", [((n, v), rest[n].pop(0)) for n, v in a if rest.get(n)]
    a, b = _without_echoes(a), _without_echoes(b)
    shapes = [[tuple(value.shape) for _, value in trace] for trace in (a, b)]
    blocks = SequenceMatcher(None, *shapes, autojunk=False).get_matching_blocks()
    return "shape", [(a[m.a + k], b[m.b + k]) for m in blocks for k in range(m.size)]


def _without_echoes(trace: Trace) -> Trace:
    """Without what only passes on the output before it, as containers do."""
    return [
        entry
        for before, entry in zip([None, *trace], trace, strict=False)
        if before is None or not torch.equal(before[1], entry[1])
    ]


def _layer(one: tuple[str, Tensor], other: tuple[str, Tensor]) -> Layer:
    (name, x), (its, y) = one, other
    if x.shape != y.shape:
        return Layer(name, its, tuple(x.shape), float("inf"), float("inf"))
    difference = float((x - y).abs().max()) if x.numel() else 0.0
    scale = float(x.abs().max()) if x.numel() else 0.0
    return Layer(name, its, tuple(x.shape), difference, difference / scale if scale else difference)


def _parameters(first: nn.Module, second: nn.Module) -> Iterator[str]:
    """Entries of both states that differ in value or shape, or that only one has."""
    mine, its = first.state_dict(), second.state_dict()
    for name in mine.keys() | its.keys():
        both = name in mine and name in its and mine[name].shape == its[name].shape
        if not both or not torch.equal(mine[name], its[name]):
            yield name
