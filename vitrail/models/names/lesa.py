"""Name table of LESA: torchvision's ResNet, and what its layer's parts are called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from vitrail.models.names import resnet
from vitrail.models.parts.lesa_fusion import PUBLISHED, Fusion


def layer(fusion: Fusion = PUBLISHED) -> list:
    """Return the rows of a layer whose gate is drawn by such a `fusion`."""
    hidden: list = [
        (".reasoning.1.weight", ".hidden.linear.weight", _flat),
        (".reasoning.2.", ".hidden.norm."),
    ]
    if fusion != PUBLISHED:
        hidden = [
            row
            for k in range(len(fusion))
            for row in (
                (f".reasoning.{3 * k + 1}.", f".hidden.convs.{k}.conv."),
                (f".reasoning.{3 * k + 2}.", f".hidden.convs.{k}.norm."),
            )
        ]
    return [
        (".flatten_index", None),
        (".relative", ".position.table"),
        (".rel_height", ".position.rows"),
        (".rel_width", ".position.columns"),
        (".qkv_transform.weight", ".qkv.linear.weight", _flat),
        (".bn_qkv.", ".qkv.norm."),
        (".bn_similarity.", ".similarity.norm."),
        (".bn_output.", ".output.norm."),
        (".x_transform.0.", ".unary.0."),
        (".x_transform.1.", ".unary.1.conv."),
        (".bn_x.", ".unary.1.norm."),
        *hidden,
        (".projection.0.weight", ".gate.linear.weight", _flat),
        (".projection.1.", ".gate.norm."),
    ]


def _flat(kernel: Tensor) -> Tensor:
    """Turn the kernel of a 1x1 convolution into a matrix."""
    return kernel.flatten(1)


def authors(config: Any) -> list:
    """Return the rows of the authors' names."""
    return [*layer(config.fusion), *resnet.TABLES["torchvision"](config)]


TABLES: dict[str, Callable[[Any], list]] = {"Chenglin-Yang/LESA_classification": authors}
