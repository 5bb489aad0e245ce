"""The names of EA-AA-ResNet's variables in the authors' TensorFlow code, and as a list."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def _listed(config: Any) -> list:
    """Return rows of kernels as PyTorch has them, and a norm's variables with PyTorch's names
    behind their own.
    """
    return _rows(config, lambda kernel: kernel)


def _tensorflow(config: Any) -> list:
    """Return rows of a checkpoint's variables: kernels are (height,
    width, in, out) or (in, out).
    """
    rows = _rows(config, lambda kernel: kernel.permute(-1, -2, *range(kernel.ndim - 2)))
    return [("global_step", None), *rows]


def _rows(config: Any, turned: Callable[[Tensor], Tensor]) -> list:
    """Return the rows of a table; `turned` gives a kernel the axes (out, in, height, width)."""
    rows = []
    for layer, name in layers(config):
        if "/r_" in layer:
            rows.append((layer, name))
        elif "batch_normalization" in layer:
            for theirs, ours in _NORM.items():
                rows.append((f"{layer}/{theirs}/{ours}", f"{name}.{ours}"))
                rows.append((f"{layer}/{theirs}", f"{name}.{ours}"))
        else:
            flat = name.endswith("proj")  # a linear layer of ours, a 1x1 convolution of theirs
            own = (lambda kernel: turned(kernel).flatten(1)) if flat else turned
            rows.append((f"{layer}/kernel", f"{name}.weight", own))
            rows.append((f"{layer}/bias", f"{name}.bias"))
    return rows


def layers(config: Any) -> Iterator[tuple[str, str]]:
    """Yield their names of all layers and ours, in the order of their making."""
    counts = {"conv2d": 0, "batch_normalization": 0}

    def made(kind: str, name: str) -> tuple[str, str]:
        counts[kind] += 1
        number = f"_{counts[kind] - 1}" if counts[kind] > 1 else ""
        return f"resnet_model/{kind}{number}", name

    def pair(conv: str, norm: str) -> Iterator[tuple[str, str]]:
        yield made("conv2d", conv)
        yield made("batch_normalization", norm)

    yield from pair("stem.convs.0.conv", "stem.convs.0.norm")
    for i, stage in enumerate(config.plan):
        for j, step in enumerate(stage):
            block, inside = f"stages.{i}.blocks.{j}.", f"resnet_model/asconv_{i}_{j}_0/"
            if step.shortcut:
                yield from pair(block + "shortcut.conv", block + "shortcut.norm")
            yield from pair(block + "conv1.conv", block + "conv1.norm")
            if i == 0:
                yield made("conv2d", block + "mixer")
            else:
                refined = ["evolution.conv"] if step.evolves and config.beta else []
                for n, name in enumerate(["conv", "kqv", *refined, "proj"]):
                    yield inside + (f"conv2d_{n}" if n else "conv2d"), f"{block}mixer.{name}"
                yield inside + "r_width", block + "mixer.position.columns"
                yield inside + "r_height", block + "mixer.position.rows"
            yield made("batch_normalization", block + "norm")
            if config.expansion != 1:
                yield from pair(block + "conv3.conv", block + "conv3.norm")
    yield "resnet_model/dense", "head"


TABLES = {"pkuyym/EvolvingAttention": _listed, "tensorflow": _tensorflow}
