"""The names that MLP-Mixer's authors, in Flax, and timm give to its parameters."""

from __future__ import annotations

from typing import Any

_TIMM = [
    ("stem.", "embed."),
    (".mlp_tokens.", ".mixer."),
    (".mlp_channels.", ".ffn."),
]


def _npz(config: Any) -> list:
    """Return rows of Flax names of the released files, and of an older
    form with axes of size one.
    """
    old = [
        (f"Mixer/encoderblock_{{i}}/{theirs}_mixing_phase_0/{leaf}{n}", f"blocks.{{i}}.{ours}", fit)
        for theirs, part in (("token", "mixer"), ("channel", "ffn"))
        for n in (1, 2)
        for leaf, ours, fit in (
            ("kernel", f"{part}.fc{n}.weight", lambda v: v.squeeze().mT),
            ("bias", f"{part}.fc{n}.bias", lambda v: v.flatten()),
        )
    ]
    return [
        *old,
        ("Mixer/encoderblock_{i}/", "MixerBlock_{i}/"),
        ("Mixer/encoder_norm/", "norm."),
        ("embedding/", "stem/"),
        ("stem/kernel", "embed.proj.weight", lambda v: v.permute(3, 2, 0, 1)),
        ("stem/", "embed.proj."),
        ("pre_head_layer_norm/", "norm."),
        ("head/", "head."),
        ("MixerBlock_{i}/", "blocks.{i}."),
        (".LayerNorm_0/", ".norm1."),
        (".LayerNorm_1/", ".norm2."),
        (".token_mixing/", ".mixer."),
        (".channel_mixing/", ".ffn."),
        (".Dense_0/", ".fc1."),
        (".Dense_1/", ".fc2."),
        (".kernel", ".weight", lambda v: v.mT),
        (".scale", ".weight"),
    ]


TABLES = {"google-research/big_vision": _TIMM, "npz": _npz, "timm": _TIMM}
