"""The names that the authors of EA-DC-Transformer give to its parameters."""

from __future__ import annotations

from typing import Any

UNREAD = (".pool_input.", ".pool_input_att.", ".att_conv2.")


def _names(config: Any) -> list:
    learned = config.positions == "learned"
    return [
        ("project_inp.", "embed."),
        ("pos_enc.pe", "position", lambda pe: pe.squeeze(1)) if learned else ("pos_enc.", None),
        ("output_layer.", "head."),
        ("TSEACausalCnn.ea_causal_cnn.network.{i}.", "blocks.{i}."),
        *[(name, None) for name in UNREAD],
        (".att_conv.0.", ".evolution.conv."),
        (".conv.weight_g", ".conv.gain"),
        (".conv.weight_v", ".conv.direction"),
        (".qkv_conv.weight", ".qkv.weight", lambda kernel: kernel.squeeze(2)),
        (".qkv_conv.", ".qkv."),
        (".upordownsample.weight", ".skip.weight", lambda kernel: kernel.squeeze(2)),
        (".upordownsample.", ".skip."),
        (".conv1.", ".mixer1."),
        (".conv2.", ".mixer2."),
        (".norm1.", ".norm."),
        (".norm2.", ".norm1."),
        (".norm3.", ".norm2."),
        (".linear1.", ".ffn1.linear1."),
        (".linear2.", ".ffn1.linear2."),
        (".linear3.", ".ffn2.linear1."),
        (".linear4.", ".ffn2.linear2."),
    ]


TABLES = {"pkuyym/EvolvingAttention": _names}
