"""The names that timm and torchvision give to MaxViT's parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _flat(kernel: Tensor) -> Tensor:
    """Turn a 1x1 kernel into a linear layer's weight."""
    return kernel.flatten(1)


def _no_bias(weight: Tensor) -> tuple[Tensor, Tensor]:
    return weight, weight.new_zeros(len(weight))


_BLOCK = "stages.{i}.blocks.{j}."
_TIMM = [
    ("head.norm.", "pool.1."),
    ("head.pre_logits.fc.", "pool.2."),
    ("head.fc.", "head."),
    *[
        (_BLOCK + f"conv.{theirs}.weight", _BLOCK + f"conv.{ours}.weight", _flat)
        for theirs, ours in (
            ("conv1_1x1", "expand"),
            ("conv3_1x1", "project"),
            ("se.fc1", "excite.fc1"),
            ("se.fc2", "excite.fc2"),
            ("shortcut.expand", "shortcut.proj"),
        )
    ],
    (".shortcut.expand.", ".shortcut.proj."),
    (".pre_norm.", ".norm."),
    (".conv2_kxk.", ".depthwise."),
    (".conv3_1x1.", ".project."),
    (".se.", ".excite."),
    (".attn_block.", ".window."),
    (".attn_grid.", ".grid."),
    (".rel_pos.relative_position_bias_table", ".bias.table", lambda t: t.flatten(1).mT),
    (".attn.", ".mixer."),
    (".mlp.", ".ffn."),
]


def _torchvision(config: Any) -> list:
    def rescaled(value: Tensor) -> Tensor:
        """Multiply queries by heads**-0.5, so that the scale of a head
        gives that of all channels.
        """
        c = len(value) // 3
        scale = (config.channels_per_head / c) ** 0.5
        return torch.cat([value[:c] * scale, value[c:]])

    theirs = "blocks.{i}.layers.{j}.layers."
    rows = [
        ("stem.0.0.weight", ("stem.conv1.weight", "stem.conv1.bias"), _no_bias),
        ("stem.0.1.", "stem.norm1."),
        ("stem.1.0.", "stem.conv2."),
        ("classifier.2.", "pool.1."),
        ("classifier.3.", "pool.2."),
        ("classifier.5.weight", ("head.weight", "head.bias"), _no_bias),
        (".relative_position_index", None),
        (".relative_position_bias_table", ".bias.table", lambda t: t.flip(0)),
    ]
    for old, new in (
        ("proj.1", "shortcut.proj"),
        ("layers.pre_norm", "norm"),
        ("layers.conv_a.0", "expand"),
        ("layers.conv_a.1", "norm1"),
        ("layers.conv_b.0", "depthwise"),
        ("layers.conv_b.1", "norm2"),
        ("layers.squeeze_excitation.fc1", "excite.fc1"),
        ("layers.squeeze_excitation.fc2", "excite.fc2"),
        ("layers.conv_c", "project"),
    ):
        linear = new in ("expand", "project", "shortcut.proj") or "excite" in new
        flat = [(f"{theirs}MBconv.{old}.weight", f"{_BLOCK}conv.{new}.weight", _flat)]
        rows += [*(flat * linear), (f"{theirs}MBconv.{old}.", f"{_BLOCK}conv.{new}.")]
    for axis in ("window", "grid"):
        here, there = f"{_BLOCK}{axis}.", f"{theirs}{axis}_attention."
        rows += [
            (f"{there}attn_layer.0.", f"{here}norm1."),
            (f"{there}attn_layer.1.to_qkv.weight", f"{here}mixer.qkv.weight", rescaled),
            (f"{there}attn_layer.1.to_qkv.bias", f"{here}mixer.qkv.bias", rescaled),
            (f"{there}attn_layer.1.merge.", f"{here}mixer.proj."),
            (f"{there}attn_layer.1.", f"{here}mixer."),
            (f"{there}mlp_layer.0.", f"{here}norm2."),
            (f"{there}mlp_layer.1.", f"{here}ffn.fc1."),
            (f"{there}mlp_layer.3.", f"{here}ffn.fc2."),
        ]
    return rows


TABLES = {"timm": _TIMM, "torchvision": _torchvision}
