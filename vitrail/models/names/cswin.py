"""The names that CSWin's authors give to its parameters."""

from __future__ import annotations

_OURS = "stages.{i-1}.blocks.{j}."

TABLES = {
    "microsoft/CSWin-Transformer": [
        ("stage1_conv_embed.0.", "stem.proj."),
        ("stage1_conv_embed.2.", "stem.norm."),
        ("merge{i}.", "stages.{i}.down."),
        ("stage{i}.{j}.attns.{k}.get_v.", _OURS + "mixer.branches.{k}.lepe."),
        ("stage{i}.{j}.qkv.", _OURS + "mixer.qkv."),
        ("stage{i}.{j}.proj.", _OURS + "mixer.proj."),
        ("stage{i}.{j}.mlp.", _OURS + "ffn."),
        ("stage{i}.{j}.", _OURS),
    ]
}
