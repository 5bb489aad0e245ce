"""Two models on the same input: the first layer whose outputs deviate, and by how much.

This is how a port is debugged: an epsilon, an activation or the order of heads shows in the
layer where it is, while logits only say that something is wrong.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.checkpoint import holds_weights
from vitrail.errors import ConfigError

Trace = list[tuple[str, Tensor]]
Pair = tuple[tuple[str, Tensor], tuple[str, Tensor]]


@dataclass(frozen=True)
class Layer:
    """An output that both models have, and by how much theirs differ: at most `difference`,
    which is `relative` to the largest value of the first; infinite where shapes differ.

    `other` and `other_shape` are the second's name and shape of it.
    """

    name: str
    other: str
    shape: tuple[int, ...]
    other_shape: tuple[int, ...]
    difference: float
    relative: float

    def said(self) -> str:
        """Return the layer's name, both names where they differ."""
        return self.name if self.name == self.other else f"{self.name} / {self.other}"


@dataclass(frozen=True)
class Entry:
    """A tensor of the states that differs; a shape is None where a model has no such tensor."""

    name: str
    shape: tuple[int, ...] | None
    other_shape: tuple[int, ...] | None
    difference: float


@dataclass(frozen=True)
class Comparison:
    """`layers` in the order in which they finish, `paired` by "name" or by "shape".

    `alone` names the layers that only the first and only the second has; `parameters` are the
    entries of both states that differ.
    """

    layers: tuple[Layer, ...]
    logits: Layer
    alone: tuple[tuple[str, ...], tuple[str, ...]]
    parameters: tuple[Entry, ...]
    paired: str
    tolerance: float

    def agrees(self, layer: Layer) -> bool:
        """Return whether a layer differs by no more than the tolerance, relative to its size."""
        return layer.relative <= self.tolerance

    @property
    def first(self) -> Layer | None:
        """Return the first layer that deviates, if one does.

        Models of other names may arrange the same values in other ways, q, k and v for
        example: of these it is the first after which nothing agrees.
        """
        layers = self.layers
        if self.paired == "shape":
            if self.agrees(self.logits):
                return None
            last = max((i for i, layer in enumerate(layers) if self.agrees(layer)), default=-1)
            layers = layers[last + 1 :]
        return next((it for it in (*layers, self.logits) if not self.agrees(it)), None)

    def said(self) -> str:
        """Return the outcome in one sentence."""
        first, n = self.first, len(self.layers)
        if first is None:
            agreeing = [it.relative for it in (*self.layers, self.logits) if self.agrees(it)]
            return (
                f"equal: {len(agreeing) - 1} layers and the logits agree to {max(agreeing):.1e} "
                "relative to their size"
            )
        if first is self.logits:
            return f"first deviation: logits, after {n} layers: {_gap(first)}"
        place = next(i for i, layer in enumerate(self.layers) if layer is first)
        return (
            f"first deviation: {first.said()}, layer {place + 1} of {n}: {_gap(first)}; logits "
            f"differ by {self.logits.difference:.2g}"
        )


def _gap(layer: Layer) -> str:
    if layer.shape != layer.other_shape:
        mine, its = ("x".join(map(str, s)) for s in (layer.shape, layer.other_shape))
        return f"shapes {mine} and {its}"
    return f"at most {layer.difference:.2g}, relative {layer.relative:.1e}"


def opened(
    what: str | os.PathLike | nn.Module, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> nn.Module:
    """Open a model in eval mode: of a catalog name (random weights of `seed`), a run folder, a file
    of weights (known by its tensors), `NAME=FILE`, or a copy of a module. Raises VitrailError.
    """
    if isinstance(what, nn.Module):
        return copy.deepcopy(what).to(dtype).eval()
    from vitrail.models import catalog, create, identify, load, resolve
    from vitrail.run.folder import RunFolder

    text = os.fspath(what)
    if text in catalog():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return create(text).to(dtype).eval()
    if Path(text).is_dir() and not holds_weights(Path(text)):
        return RunFolder.open(text).load_model()[0].to(dtype).eval()
    name, _, file = text.partition("=")
    if file and name in catalog():
        return load(name, file, dtype=dtype)
    if not Path(text).exists() and re.fullmatch(r"\w+", text):
        resolve(text)  # says which variant was meant
    found = identify(text)
    return load(found.config, text, source=found.source, dtype=dtype)


def compare(
    a: str | os.PathLike | nn.Module,
    b: str | os.PathLike | nn.Module,
    *,
    image: tuple[int, int] | None = None,
    tolerance: float = 1e-6,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Comparison:
    """Run both models on one random image in eval mode; see `opened` for what may be given.

    Outputs are paired by name where the models share names, else by values and, where these
    differ, in order by shape. Raises ConfigError for models that do not take the same images or
    do not give the same number of logits.

    Examples:
        >>> model = vitrail.create("levit_128s")
        >>> torch.save(model.state_dict(), "a.pth")
        >>> with torch.no_grad():
        ...     _ = model.stages[1].blocks[0].ffn.fc1.linear.weight.mul_(1.001)
        >>> found = vitrail.compare("levit_128s=a.pth", model)
        >>> found.first.name
        'stages.1.blocks.0.ffn.fc1.linear'
    """
    first, second = (opened(what, seed=seed, dtype=dtype) for what in (a, b))
    shape = _input(first, second, image)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    (mine, my_logits), (its, its_logits) = (_trace(model, x) for model in (first, second))
    if my_logits.shape != its_logits.shape:
        raise ConfigError(
            f"the models give {my_logits.shape[-1]} and {its_logits.shape[-1]} logits: compare "
            "models of the same classes"
        )
    paired = "name" if _share_names(mine, its) else "shape"
    if paired == "name":
        pairs = _by_name(mine, its)
    else:
        mine, its = _without_echoes(mine), _without_echoes(its)
        pairs = _by_value(mine, its, tolerance)
    return Comparison(
        tuple(_layer(*pair) for pair in pairs),
        _layer(("logits", my_logits), ("logits", its_logits)),
        (_alone(mine, [ours for ours, _ in pairs]), _alone(its, [theirs for _, theirs in pairs])),
        tuple(_entries(first, second, missing=paired == "name")),
        paired,
        tolerance,
    )


def _input(first: nn.Module, second: nn.Module, image: tuple[int, int] | None) -> tuple[int, ...]:
    """Return the shape of an image that both models take."""
    configs = [getattr(model, "config", None) for model in (first, second)]
    told = [c for c in configs if hasattr(c, "channels") and hasattr(c, "image")]
    channels, sizes = {c.channels for c in told}, {tuple(c.image) for c in told}  # pyright: ignore[reportOptionalMemberAccess]
    if len(channels) > 1:
        raise ConfigError(
            f"the models take {' and '.join(map(str, sorted(channels)))} channels: they have no "
            "input in common"
        )
    if image is None and len(sizes) > 1:
        both = " and ".join("x".join(map(str, size)) for size in sorted(sizes))
        raise ConfigError(f"the models are for images of {both}: say which by --image HxW")
    if image is None and not sizes:
        raise ConfigError("the models do not say which images they take: give image=(H, W)")
    return 1, channels.pop() if channels else 3, *(image or sizes.pop())


@torch.no_grad()
def _trace(model: nn.Module, x: Tensor) -> tuple[Trace, Tensor]:
    """Return names and outputs of all modules in the order in which they finish, and the logits."""
    found: Trace = []
    handles = [
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: found.extend(
                (name, value.detach().clone()) for value in _tensors(output)
            )
        )
        for name, module in model.named_modules()
        if module is not model
    ]
    try:
        output = model(x)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    finally:
        for handle in handles:
            handle.remove()
    return found, next(_tensors(output))


def _tensors(output: Any) -> Iterator[Tensor]:
    """Yield all tensors of numbers in an output; of transformers' records the logits, if any."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(getattr(output, "logits", None), Tensor):
        yield output.logits
    elif isinstance(output, tuple | list | Mapping):
        for value in output.values() if isinstance(output, Mapping) else output:
            yield from _tensors(value)


def _share_names(a: Trace, b: Trace) -> bool:
    mine, its = {name for name, _ in a}, {name for name, _ in b}
    return len(mine & its) >= 0.5 * min(len(mine), len(its))


def _by_name(a: Trace, b: Trace) -> list[Pair]:
    """Pair outputs of one name, the n-th with the n-th."""
    rest: dict[str, Trace] = {}
    for name, value in b:
        rest.setdefault(name, []).append((name, value))
    return [((name, value), rest[name].pop(0)) for name, value in a if rest.get(name)]


def _by_value(a: Trace, b: Trace, tolerance: float) -> list[Pair]:
    """Pair outputs that agree, in order; between two of these, runs of the same shapes."""
    anchors, after = [(-1, -1)], 0
    for i, one in enumerate(a):
        at = next((j for j in range(after, len(b)) if _same(one[1], b[j][1], tolerance)), None)
        if at is not None:
            anchors.append((i, at))
            after = at + 1
    pairs: list[Pair] = []
    for (i, j), (next_i, next_j) in pairwise([*anchors, (len(a), len(b))]):
        pairs += [(a[i], b[j])] if i >= 0 else []
        mine, its = a[i + 1 : next_i], b[j + 1 : next_j]
        shapes = [[tuple(value.shape) for _, value in part] for part in (mine, its)]
        for run in SequenceMatcher(None, *shapes, autojunk=False).get_matching_blocks():
            pairs += zip(mine[run.a :][: run.size], its[run.b :][: run.size], strict=True)
    return pairs


def _same(x: Tensor, y: Tensor, tolerance: float) -> bool:
    """Return whether two outputs agree and are not zero, which says nothing; a few values first."""
    if x.shape != y.shape or not x.numel():
        return False
    step = max(1, x.numel() // 16)
    few = x.reshape(-1)[::step], y.reshape(-1)[::step]
    bound = tolerance * float(x.abs().max())
    return all(bound > 0 and float((u - v).abs().max()) <= bound for u, v in (few, (x, y)))


def _without_echoes(trace: Trace) -> Trace:
    """Leave out what only passes on the output before it, as containers do."""
    return [
        entry
        for before, entry in zip([None, *trace], trace, strict=False)
        if before is None or not torch.equal(before[1], entry[1])
    ]


def _alone(trace: Trace, paired: list[tuple[str, Tensor]]) -> tuple[str, ...]:
    """Return the names of outputs that are in no pair, each once."""
    met = {name for name, _ in paired}
    return tuple(dict.fromkeys(name for name, _ in trace if name not in met))


def _layer(one: tuple[str, Tensor], other: tuple[str, Tensor]) -> Layer:
    (name, x), (its, y) = one, other
    difference = _difference(x, y)
    scale = float(x.abs().max()) if x.numel() else 0.0
    relative = difference / scale if scale else difference
    return Layer(name, its, tuple(x.shape), tuple(y.shape), difference, relative)


def _difference(x: Tensor, y: Tensor) -> float:
    if x.shape != y.shape:
        return float("inf")
    return float((x.double() - y.double()).abs().max()) if x.numel() else 0.0


def _entries(first: nn.Module, second: nn.Module, *, missing: bool) -> Iterator[Entry]:
    """Yield the entries of both states that differ; with `missing`,
    also those that only one has.
    """
    mine, its = first.state_dict(), second.state_dict()
    for name in mine | its:
        if name in mine and name in its:
            x, y = mine[name], its[name]
            if x.shape != y.shape or not torch.equal(x, y):
                yield Entry(name, tuple(x.shape), tuple(y.shape), _difference(x, y))
        elif missing:
            shapes = (tuple(s[name].shape) if name in s else None for s in (mine, its))
            yield Entry(name, *shapes, float("inf"))  # pyright: ignore[reportCallIssue]
