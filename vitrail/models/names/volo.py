"""Name tables of VOLO: its authors' names, which are timm's too."""

from __future__ import annotations

from typing import Any


def volo(config: Any) -> list:
    """Return the rows of the authors' names, which timm kept."""
    return [
        *[
            (f"network.{i + 1}.{{j}}.", f"stages.1.blocks.{{j+{sum(config.depths[1:i])}}}.")
            for i in range(1, len(config.depths))
        ],
        ("network.0.", "stages.0.blocks."),
        ("network.1.", "stages.1.down."),
        ("pos_embed", "stages.1.down.position"),
        ("cls_token", "pool.token"),
        ("post_network.", "pool.blocks."),
        ("norm.", "pool.norm."),
        ("aux_head.", "head.patches."),
        *[
            (f"patch_embed.conv.{3 * n + k}.", f"stem.convs.{n}.{name}.")
            for n in range(3)
            for k, name in enumerate(("conv", "norm"))
        ],
        ("patch_embed.", "stem."),
        (".attn.attn.", ".mixer.logits."),
        (".attn.", ".mixer."),
        (".mlp.", ".ffn."),
    ]


TABLES = {"sail-sg/volo": volo, "timm": volo}
