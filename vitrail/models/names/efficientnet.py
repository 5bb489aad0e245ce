"""The names that timm, torchvision and EfficientNet-PyTorch give to an EfficientNet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from vitrail.models.names.mobilenet_v2 import Row, located
from vitrail.models.names.mobilenet_v2 import timm as plain


def _flat(weight: Tensor) -> Tensor:
    """Turn a 1x1 convolution's kernel into a matrix."""
    return weight.flatten(1)


def _timm(config: Any) -> list[Row] | None:
    """Return timm's rows; its own networks of padding "symmetric" have an eps of 1e-5."""
    if config.padding == "symmetric" and config.eps != 1e-5:
        return None
    return [
        (".se.conv_reduce.weight", ".excite.fc1.weight", _flat),
        (".se.conv_expand.weight", ".excite.fc2.weight", _flat),
        (".se.conv_reduce.", ".excite.fc1."),
        (".se.conv_expand.", ".excite.fc2."),
        *plain(config),
    ]


def _torchvision(config: Any) -> list[Row] | None:
    """Return torchvision's rows: features.STACK.NUMBER.block.PART; it pads evenly."""
    if config.padding != "symmetric":
        return None
    stacks = {s: (stage, n) for s, j, stage, n in located(config) if j == 0}
    rows: list[Row] = [
        ("features.0.0.", "stem.conv.conv."),
        ("features.0.1.", "stem.conv.norm."),
        (f"features.{len(stacks) + 1}.0.", "norm.conv.conv."),
        (f"features.{len(stacks) + 1}.1.", "norm.conv.norm."),
        ("classifier.1.", "head."),
        (".fc1.weight", ".fc1.weight", _flat),
        (".fc2.weight", ".fc2.weight", _flat),
    ]
    for s, (stage, n) in stacks.items():
        first = f"features.{s + 1}.{{j}}.block."
        target = f"stages.{stage}.blocks.{{j+{n}}}."
        parts = ["depthwise", *["excite"] * bool(config.squeeze), "project"]
        for k, part in enumerate(parts if s == 0 else ["expand", *parts]):
            if part == "excite":
                rows.append((f"{first}{k}.", f"{target}excite."))
            else:
                rows.append((f"{first}{k}.0.", f"{target}{part}.conv."))
                rows.append((f"{first}{k}.1.", f"{target}{part}.norm."))
    return rows


def _lukemelas(config: Any) -> list[Row] | None:
    """Return rows of _blocks.NUMBER, all blocks in turn; the authors'
    weights pad as TensorFlow does.
    """
    if config.padding != "same":
        return None
    return [
        ("_conv_stem.", "stem.conv.conv."),
        ("_bn0.", "stem.conv.norm."),
        ("_conv_head.", "norm.conv.conv."),
        ("_bn1.", "norm.conv.norm."),
        ("_fc.", "head."),
        ("._se_reduce.weight", ".excite.fc1.weight", _flat),
        ("._se_expand.weight", ".excite.fc2.weight", _flat),
        ("._se_reduce.", ".excite.fc1."),
        ("._se_expand.", ".excite.fc2."),
        ("._expand_conv.", ".expand.conv."),
        ("._bn0.", ".expand.norm."),
        ("._depthwise_conv.", ".depthwise.conv."),
        ("._bn1.", ".depthwise.norm."),
        ("._project_conv.", ".project.conv."),
        ("._bn2.", ".project.norm."),
        *(
            (f"_blocks.{number}.", f"stages.{stage}.blocks.{place}.")
            for number, (_, _, stage, place) in enumerate(located(config))
        ),
    ]


TABLES: dict[str, Callable[[Any], list[Row] | None]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "lukemelas/EfficientNet-PyTorch": _lukemelas,
}
