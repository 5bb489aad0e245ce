"""The names that timm gives to CoAtNet's parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def _timm(config: Any) -> list:
    def flat(value: Tensor) -> Tensor:
        """Turn a 1x1 kernel into a linear layer's weight; a bias stays as it is."""
        return value.flatten(1) if value.ndim > 1 else value

    def packed(value: Tensor) -> Tensor:
        """Turn rows [head][q | k | v] into [q | k | v][head]."""
        value = flat(value).unflatten(0, (-1, 3, config.channels_per_head))
        return value.transpose(0, 1).flatten(0, 2)

    return [
        ("stem.conv1.", "stem.conv1.conv."),
        ("stem.norm1.", "stem.conv1.norm."),
        ("head.norm.", "pool.1."),
        ("head.pre_logits.fc.", "pool.2."),
        ("head.fc.", "head."),
        (".relative_position_index", None),
        (".attn.rel_pos.relative_position_bias_table", ".mixer.bias.table"),
        (".attn.qkv.", ".mixer.qkv.", packed),
        (".attn.proj.", ".mixer.proj.", flat),
        (".mlp.fc1.", ".ffn.fc1.", flat),
        (".mlp.fc2.", ".ffn.fc2.", flat),
        (".norm1.norm.", ".norm1."),
        (".shortcut.expand.", ".shortcut.1.", flat),
        (".pre_norm.", ".norm."),
        (".conv1_1x1.", ".expand.", flat),
        (".conv2_kxk.", ".depthwise."),
        (".se.fc1.", ".excite.fc1.", flat),
        (".se.fc2.", ".excite.fc2.", flat),
        (".conv3_1x1.", ".project.", flat),
    ]


TABLES: dict[str, Callable[[Any], list]] = {"timm": _timm}
