"""What ResNets with attention in some of their blocks share: which, activations, timm's names."""

from __future__ import annotations

from torch import Tensor, nn

from vitrail.models.resnet import relu

ACTS = {"relu": relu, "silu": lambda: nn.SiLU(inplace=True)}


def matrix(kernel: Tensor) -> Tensor:
    """A 1x1 kernel (C', C, 1, 1) as the weight of a linear layer (C', C)."""
    return kernel.flatten(1)


# What timm's networks of byoanet.py call their parts.
BYOB = [
    ("stem.conv{i}.", "stem.convs.{i-1}."),
    ("stages.{i}.{j}.", "stages.{i}.blocks.{j}."),
    (".conv1_1x1.", ".conv1."),
    (".conv2_kxk.conv.", ".mixer."),
    (".conv2_kxk.bn.", ".norm."),
    (".conv3_1x1.", ".conv3."),
    (".post_attn.", ".norm."),
    (".self_attn.pos_embed.height_rel", ".mixer.position.rows"),
    (".self_attn.pos_embed.width_rel", ".mixer.position.columns"),
    *[
        (f".self_attn.{name}.weight", f".mixer.{name}.weight", matrix)
        for name in ("q", "kv", "qkv")
    ],
    (".bn.", ".norm."),
    ("head.fc.", "head."),
]


def check_attending(attending: tuple[tuple[int, ...], ...], depths: tuple[int, ...]) -> None:
    """ValueError unless `attending` names blocks that there are, a tuple of them a stage."""
    if len(attending) != len(depths):
        raise ValueError(
            f"attending {attending} and depths {depths} differ in length: one each a stage"
        )
    for i, (blocks, depth) in enumerate(zip(attending, depths, strict=True)):
        if any(not 0 <= j < depth for j in blocks):
            raise ValueError(
                f"attending has blocks {blocks} of stage {i}, which has {depth}: count from 0"
            )


def check_act(act: str) -> None:
    """ValueError unless the activation is known."""
    if act not in ACTS:
        raise ValueError(f"act is {act!r}: expected {' or '.join(ACTS)}")
