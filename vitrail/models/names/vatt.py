"""Names of VATT's parameters, those that the authors' TensorFlow files have, in torch's layouts:
kernels (out, in, t, h, w), linear layers (out, in).

A network of several towers has the name of each before them: "video.agg".
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

AXES = {"video": ("temporal", "vertical", "horizontal"), "audio": ("temporal",)}


def _flat(kernel: Tensor) -> Tensor:
    return kernel.flatten(1)


def _encoder(before: str, after: str, depth: int) -> list[tuple[Any, ...]]:
    """Return the rows of an encoder from a prefix of theirs to one of ours."""
    rows: list[tuple[Any, ...]] = []
    for i in range(depth):
        theirs, ours = f"{before}layers.{i}.", f"{after}blocks.{i}."
        for leaf in ("weight", "bias"):
            rows += [
                (f"{theirs}mha.{name}.{leaf}", f"{ours}mixer.qkv.{leaf}[{k}/3]")
                for k, name in enumerate("qkv")
            ]
        rows += [
            (f"{theirs}layer_norm.", f"{ours}norm1."),
            (f"{theirs}mha.o.", f"{ours}mixer.proj."),
            (f"{theirs}feed_forward.wi.", f"{ours}ffn.fc1."),
            (f"{theirs}feed_forward.wo.", f"{ours}ffn.fc2."),
            (f"{theirs}feed_forward.layer_norm.", f"{ours}norm2."),
        ]
    return [*rows, (f"{before}final_layer_norm.", f"{after}norm.")]


def _positions(before: str, after: str, axes: tuple[str, ...]) -> list[tuple[Any, ...]]:
    tables = [(f"{before}{name}.weight", f"{after}tables.{k}") for k, name in enumerate(axes)]
    return [*tables, (f"{before}layer_norm.", f"{after}norm.")]


def _towers(config: Any) -> list[tuple[Any, ...]]:
    """Return the rows of the towers of clips and sounds, and of the head."""
    rows: list[tuple[Any, ...]] = []
    for kind, patches in (("video", "voxel_to_patch"), ("audio", "waveform_to_patch")):
        if kind not in config.towers:
            continue
        at, to = f"{kind}." if config.towers[1:] else "", f"towers.{kind}."
        rows += [
            (f"{at}agg", f"{to}token"),
            (f"{at}{patches}.weight", f"{to}placed.patches.proj.weight", _flat),
            (f"{at}{patches}.bias", f"{to}placed.patches.proj.bias"),
            *_positions(f"{at}pos.", f"{to}placed.position.", AXES[kind]),
            *_encoder(f"{at}tx.", f"{to}encoder.", getattr(config, kind).depth),
        ]
    return [*rows, *HEADS]


def _unified(config: Any) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for kind in config.towers:
        to = f"placed.{kind}."
        rows += [(f"agg.{kind}", f"tokens.{kind}")]
        if kind == "text":
            rows += [(f"raw.{kind}.weight", f"{to}vectors.weight")]
        else:
            rows += [
                (f"raw.{kind}.weight", f"{to}patches.proj.weight", _flat),
                (f"raw.{kind}.bias", f"{to}patches.proj.bias"),
            ]
        rows += [(f"pre.{kind}.", f"{to}before.0."), (f"post.{kind}.", f"after.{kind}.0.")]
        rows += _positions(f"pos.{kind}.", f"{to}position.", AXES.get(kind, ("temporal",)))
    return [*rows, *_encoder("tx.", "encoder.", config.encoder.depth), *HEADS]


# Of the head of common spaces, below the prefix that it has in a network.
FAC = [
    ("vid_to_hid.", "hidden."),
    ("hid_to_va.pre_bn.", "norm1."),
    ("hid_to_va.linear_projection.", "video."),
    ("hid_to_va.bn.", "norm2."),
    ("aud_to_va.", "audio."),
    ("va_to_vat.linear_projection.", "coarse."),
    ("va_to_vat.bn.", "norm3."),
    ("txt_to_vat.", "text."),
]
HEADS = [(theirs, f"common.{ours}") for theirs, ours in FAC]

TABLES = {"google-research/vatt": _towers}
UNIFIED = {"google-research/vatt": _unified}
