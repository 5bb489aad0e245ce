"""Name tables of GCNet: its hosts' names, and those of the context blocks."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vitrail.models.names import resnet


def _flat(value: Tensor) -> Tensor:
    """Return a 1x1 convolution's weight, or a norm's on (C, 1, 1),
    without the axes of length one.
    """
    return value.flatten(1) if value.ndim == 4 else value.flatten()


def authors(config: Any) -> list:
    """Return the rows of the authors' names."""
    inside: list = [(".context_block.conv_mask.", ".gate.pool.mask.", _flat)]
    for fusion in ("add", "mul"):
        for number, ours in ((0, "fc1"), (1, "norm"), (3, "fc2")):
            theirs = f".context_block.channel_{fusion}_conv.{number}."
            inside.append((theirs, f".gate.{fusion}.{ours}.", _flat))
    inside += _packed(config, ".nonlocal_block.", ("theta.conv", "phi.conv", "g.conv"))
    inside += [
        (".nonlocal_block.conv_out.conv.", ".gate.leave.", _flat),
        (".nonlocal_block.concat_project.0.", ".gate.pair.", _flat),
    ]
    return [*inside, *resnet.TABLES["torchvision"](config)]


def _packed(config: Any, where: str, names: tuple[str, ...]) -> list:
    """Return the rows of theta, phi and g, or of g alone."""
    if getattr(config.context, "form", None) == "gaussian":
        return [(f"{where}{names[-1]}.", ".gate.project.", _flat)]
    return [
        (f"{where}{name}.{leaf}", f".gate.project.{leaf}[{k}/3]", _flat)
        for k, name in enumerate(names)
        for leaf in ("weight", "bias")
    ]


def timm(config: Any) -> list:
    """Return the rows of timm's names."""
    inside: list = [
        (".se.conv_attn.", ".gate.pool.mask.", _flat),
        (".se.mlp_scale.", ".gate.mul.", _flat),
        (".se.mlp_add.", ".gate.add.", _flat),
        *_packed(config, ".se.", ("t", "p", "g")),
        (".se.z.", ".gate.leave.", _flat),
        (".se.norm.", ".gate.norm."),
    ]
    return [*inside, *resnet.TABLES["timm"](config)]


TABLES = {"xvjiarui/GCNet": authors, "timm": timm}
