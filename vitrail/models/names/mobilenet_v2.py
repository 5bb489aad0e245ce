"""The names that torchvision and timm give to a MobileNetV2's parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from vitrail.models.parts.inverted import places

Row = tuple[Any, ...]


def located(config: Any) -> list[tuple[int, int, int, int]]:
    """Return the stack of each block, its number there, the stage that
    holds it and its number there.
    """
    found, before = [], -1
    for stack, (depth, stage) in enumerate(zip(config.depths, places(config.strides), strict=True)):
        first = len([1 for _, _, s, _ in found if s == stage]) if stage == before else 0
        found += [(stack, j, stage, first + j) for j in range(depth)]
        before = stage
    return found


def timm(config: Any) -> list[Row]:
    """Return timm's rows: blocks.STACK.NUMBER; blocks of the first stack begin
    with the depthwise convolution.
    """
    stacks = {s: (stage, n) for s, j, stage, n in located(config) if j == 0}
    return [
        ("conv_stem.", "stem.conv.conv."),
        ("bn1.", "stem.conv.norm."),
        ("conv_head.", "norm.conv.conv."),
        ("bn2.", "norm.conv.norm."),
        ("classifier.", "head."),
        ("blocks.0.{j}.conv_pw.", "blocks.0.{j}.project.conv."),
        ("blocks.0.{j}.bn1.", "blocks.0.{j}.depthwise.norm."),
        ("blocks.0.{j}.bn2.", "blocks.0.{j}.project.norm."),
        (".conv_pw.", ".expand.conv."),
        (".conv_dw.", ".depthwise.conv."),
        (".conv_pwl.", ".project.conv."),
        (".bn1.", ".expand.norm."),
        (".bn2.", ".depthwise.norm."),
        (".bn3.", ".project.norm."),
        *(
            (f"blocks.{s}.{{j}}.", f"stages.{stage}.blocks.{{j+{n}}}.")
            for s, (stage, n) in stacks.items()
        ),
    ]


def _parts(prefix: str, target: str, parts: list[tuple[str, str]]) -> Iterator[Row]:
    yield from ((f"{prefix}{theirs}", f"{target}{ours}") for theirs, ours in parts)


def _torchvision(config: Any) -> list[Row]:
    """Return torchvision's rows: features.NUMBER of all blocks in turn, the stem's being 0."""
    first = [("0.0.", "depthwise.conv."), ("0.1.", "depthwise.norm."), ("1.", "project.conv.")]
    first += [("2.", "project.norm.")]
    others = [("0.0.", "expand.conv."), ("0.1.", "expand.norm."), ("1.0.", "depthwise.conv.")]
    others += [("1.1.", "depthwise.norm."), ("2.", "project.conv."), ("3.", "project.norm.")]
    rows: list[Row] = [("features.0.0.", "stem.conv.conv."), ("features.0.1.", "stem.conv.norm.")]
    for number, (stack, _, stage, place) in enumerate(located(config), 1):
        target = f"stages.{stage}.blocks.{place}."
        rows += _parts(f"features.{number}.conv.", target, others if stack else first)
    last = f"features.{len(located(config)) + 1}."
    rows += [(f"{last}0.", "norm.conv.conv."), (f"{last}1.", "norm.conv.norm.")]
    return [*rows, ("classifier.1.", "head.")]


TABLES: dict[str, Callable[[Any], list[Row]]] = {"torchvision": _torchvision, "timm": timm}
