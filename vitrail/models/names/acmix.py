"""Name tables of ACmix: its hosts' names, and those of its module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from vitrail.config import kind_of
from vitrail.models.names import resnet, swin


def authors(config: Any) -> list:
    """Return the rows of the authors' names; in PVT and SAN none were published."""
    rows = {"resnet": _in_resnet, "swin": _in_swin}.get(kind_of(type(config.host)))
    return [] if rows is None else rows(config.host)


def _in_swin(host: Any) -> list:
    return [
        (".attn.rate1", ".mixer.rates.attention"),
        (".attn.rate2", ".mixer.rates.convolution"),
        (".attn.fc.weight", ".mixer.path.fc.weight", lambda v: v.flatten(1)),
        (".attn.fc.", ".mixer.path.fc."),
        (".attn.dep_conv.", ".mixer.path.conv."),
        *swin.TABLES["microsoft/Swin-Transformer"],  # pyright: ignore[reportGeneralTypeIssues]
    ]


def _in_resnet(host: Any) -> list:
    ours = ".mixer."
    return [
        *[
            (f".conv2.conv{n + 1}.{leaf}", f"{ours}qkv.{leaf}[{n}/3]", _flat)
            for n in range(3)
            for leaf in ("weight", "bias")
        ],
        (".conv2.rate1", f"{ours}rates.attention"),
        (".conv2.rate2", f"{ours}rates.convolution"),
        (".conv2.conv_p.weight", f"{ours}position.weight", _flat),
        (".conv2.conv_p.", f"{ours}position."),
        (".conv2.fc.weight", f"{ours}path.fc.weight", _flat),
        (".conv2.dep_conv.", f"{ours}path.conv."),
        *resnet.TABLES["torchvision"](host),
    ]


def _flat(kernel: Tensor) -> Tensor:
    """Turn a 1x1 kernel into the matrix it is; a bias stays one."""
    return kernel.flatten(1) if kernel.ndim > 1 else kernel


TABLES: dict[str, Callable[[Any], list]] = {"LeapLabTHU/ACmix": authors}
