"""What others call the parts of an MViT: the authors' three repositories, timm, torchvision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from vitrail.layers.patches import class_row

_BLOCK = [
    *[
        (f".attn.qkv.{leaf}", tuple(f".mixer.{n}.{leaf}" for n in "qkv"), lambda v: v.chunk(3))
        for leaf in ("weight", "bias")
    ],
    *[(f".attn.norm_{n}.", f".mixer.pool_{n}.norm.") for n in "qkv"],
    *[(f".attn.rel_pos_{axis}", f".mixer.position.{axis}") for axis in "thw"],
    (".attn.", ".mixer."),
    (".mlp.", ".ffn."),
]
_PARTS = {"attention": "widen1", "mlp": "widen2"}


def _numbered(config: Any) -> list:
    """Return rows of blocks counted through all stages, and of the shortcut's projection."""
    places = [(i, j) for i, depth in enumerate(config.depths) for j in range(depth)]
    return [
        row
        for n, (i, j) in enumerate(places)
        for row in (
            (f"blocks.{n}.proj.", f"stages.{i}.blocks.{j}.{_PARTS[config.widen]}."),
            (f"blocks.{n}.", f"stages.{i}.blocks.{j}."),
        )
    ]


def mvit(config: Any) -> list:
    """Return the rows of the authors' image code."""
    return [
        ("cls_token", "stem.token"),
        ("patch_embed.", "stem."),
        *_numbered(config),
        *_BLOCK,
        ("norm.", f"norm.{len(config.depths) - 1}."),
        ("head.projection.", "head."),
    ]


def slowfast(config: Any) -> list:
    """Return the rows of the authors' video code, whose image models are clips of one frame."""
    flat = [(f".attn.pool_{n}.", f".mixer.pool_{n}.", _one_frame) for n in "qkv"]
    absolute = [
        ("cls_token", "stem.token[+2]"),
        ("pos_embed_class", "stem.token[+2]"),
        ("pos_embed_spatial", "stem.space"),
        ("pos_embed_temporal", "stem.time"),
        ("pos_embed", ("stem.token[+2]", "stem.space"), class_row),
    ]
    return [
        *(absolute if config.position == "absolute" else []),
        *(flat if config.frames == 1 else []),
        *mvit(config),
    ]


def _one_frame(kernel: Tensor) -> Tensor:
    if kernel.ndim != 5:
        raise ValueError(f"kernel is {tuple(kernel.shape)}: expected (d, 1, 1, k, k)")
    return kernel.squeeze(2)


def detectron(config: Any) -> list:
    """Return the rows of the authors' detection code: a norm for each level, and where there are
    absolute positions a row for the class token of the pre-training, which nothing reads.
    """
    return [
        ("pos_embed", "stem.space", lambda v: v[:, 1:]),
        *[(f"scale{i + 2}_norm.", f"norm.{i}.") for i in range(len(config.depths))],
        *[row for row in mvit(config) if row[0] != "norm."],
    ]


def timm(config: Any) -> list:
    """Return timm's rows: it has stages, and two names for the shortcut's projection."""
    return [
        (".shortcut_proj_attn.", ".widen1."),
        (".shortcut_proj_mlp.", ".widen2."),
        ("head.fc.", "head."),
        *mvit(config),
    ]


def torchvision(config: Any) -> list:
    """Return torchvision's rows: its tables and tokens have no axis for the batch."""
    return [
        ("conv_proj.", "stem.proj."),
        ("pos_encoding.class_token", "cls_token", lambda v: v.view(1, 1, -1)),
        ("pos_encoding.class_pos", "pos_embed_class", lambda v: v.view(1, 1, -1)),
        ("pos_encoding.spatial_pos", "pos_embed_spatial", lambda v: v[None]),
        ("pos_encoding.temporal_pos", "pos_embed_temporal", lambda v: v[None]),
        (".project.0.", ".proj."),
        ("blocks.{i}.project.", "blocks.{i}.proj."),
        *[(f".pool_{n}.pool.", f".pool_{n}.") for n in "qkv"],
        *[(f".pool_{n}.norm_act.0.", f".norm_{n}.") for n in "qkv"],
        (".mlp.0.", ".mlp.fc1."),
        (".mlp.3.", ".mlp.fc2."),
        ("head.1.", "head."),
        *slowfast(config),
    ]


TABLES: dict[str, Callable[[Any], list]] = {
    "facebookresearch/SlowFast": slowfast,
    "facebookresearch/mvit": mvit,
    "facebookresearch/detectron2": detectron,
    "timm": timm,
    "torchvision": torchvision,
}
