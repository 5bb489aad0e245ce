"""Name tables of BoTNet: timm's, and a port's, whose blocks follow torchvision's stages."""

from __future__ import annotations

from typing import Any

from vitrail.models import resnet
from vitrail.models.parts.attention_resnet import BYOB, matrix

_PORT = [
    ("stages.3.blocks.net.", "stages.3.blocks."),
    (".shortcut.0.weight", ".shortcut.0.conv.weight"),
    (".shortcut.1.", ".shortcut.0.norm."),
    (".net.0.", ".conv1.conv."),
    (".net.1.", ".conv1.norm."),
    (".net.3.to_qkv.weight", ".mixer.qkv.weight", matrix),
    (".net.3.pos_emb.rel_height", ".mixer.position.rows"),
    (".net.3.pos_emb.rel_width", ".mixer.position.columns"),
    (".net.3.pos_emb.height", ".mixer.position.rows"),
    (".net.3.pos_emb.width", ".mixer.position.columns"),
    (".net.5.", ".norm."),
    (".net.7.", ".conv3.conv."),
    (".net.8.", ".conv3.norm."),
]


def port(config: Any) -> list:
    """Return the rows of lucidrains/bottleneck-transformer-pytorch."""
    return [*resnet.NAMES["torchvision"](config), *_PORT]


TABLES = {"timm": BYOB, "lucidrains/bottleneck-transformer-pytorch": port}
