"""Names of PNASNet's weights elsewhere: the authors' PyTorch port, and timm.

Operations have the places of the genotype's edges, and tables say what the places hold.
"""

from __future__ import annotations

from typing import Any

_PARTS = ("depth1.", "point1.conv.", "point1.norm.", "depth2.", "point2.conv.", "point2.norm.")


def port(config: Any) -> list:
    """Return the PyTorch port's rows, for the same genotypes; its `auxiliary_head` is dropped."""
    rows = [
        ("auxiliary_head.", None),
        ("conv0.", "stem.conv.conv."),
        ("conv0_bn.", "stem.conv.norm."),
        ("stem1.", "blocks.0."),
        ("stem2.", "blocks.1."),
        ("cells.{i}.", f"blocks.{{i+{config.stem_cells}}}."),
        (".preprocess0.conv_1.", ".left.conv1."),
        (".preprocess0.conv_2.", ".left.conv2."),
        (".preprocess0.bn.", ".left.norm."),
        (".preprocess0.op.1.", ".left.conv."),
        (".preprocess0.op.2.", ".left.norm."),
        (".preprocess1.op.1.", ".right.conv."),
        (".preprocess1.op.2.", ".right.norm."),
        ("classifier.", "head."),
    ]
    for k, (operation, _) in enumerate(config.genotype):
        theirs, ours = f"._ops.{k}.", f".ops.{k}."
        if operation == "identity":
            rows += [(f"{theirs}op.1.", f"{ours}conv."), (f"{theirs}op.2.", f"{ours}norm.")]
            continue
        for n, part in enumerate(_PARTS):
            rows.append((f"{theirs}op.{n + 1 + n // 3}.", f"{ours}{part}"))
        rows += [(f"{theirs}1.", f"{ours}project.conv."), (f"{theirs}2.", f"{ours}project.norm.")]
    return rows


def timm(config: Any) -> list:
    """Return timm's rows, of a genotype of separable operations, pools and identities."""
    rows = [
        ("conv_0.conv.", "stem.conv.conv."),
        ("conv_0.bn.", "stem.conv.norm."),
        ("cell_stem_{i}.", "blocks.{i}."),
        ("cell_{i}.", f"blocks.{{i+{config.stem_cells}}}."),
        (".conv_prev_1x1.path_1.conv.", ".left.conv1."),
        (".conv_prev_1x1.path_2.conv.", ".left.conv2."),
        (".conv_prev_1x1.final_path_bn.", ".left.norm."),
        (".conv_prev_1x1.conv.", ".left.conv."),
        (".conv_prev_1x1.bn.", ".left.norm."),
        (".conv_1x1.conv.", ".right.conv."),
        (".conv_1x1.bn.", ".right.norm."),
        (".separable_{i}.depthwise_conv2d.", ".depth{i}."),
        (".separable_{i}.pointwise_conv2d.", ".point{i}.conv."),
        (".bn_sep_{i}.", ".point{i}.norm."),
        ("last_linear.", "head."),
    ]
    for k, (operation, _) in enumerate(config.genotype):
        theirs, ours = f".comb_iter_{k // 2}_{('left', 'right')[k % 2]}.", f".ops.{k}."
        own = ours if operation == "identity" else f"{ours}project."
        rows += [(f"{theirs}conv.", f"{own}conv."), (f"{theirs}bn.", f"{own}norm.")]
        rows.append((theirs, ours))
    return rows


TABLES = {"chenxi116/PNASNet.pytorch": port, "timm": timm}
