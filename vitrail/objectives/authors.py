"""The names that the authors of SiT and AttMask give to a whole training: student, heads, teacher.

Rows are (theirs, ours), each the beginning of a name; they serve both directions. A backbone alone
is read by `vitrail.load`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vitrail import checkpoint
from vitrail.checkpoint import Mismatch
from vitrail.errors import CheckpointError, ConfigError
from vitrail.objectives import sit
from vitrail.objectives.parts.distilled import SelfDistillation
from vitrail.training.learner import Learner

Rows = Sequence[tuple[str, str]]

_BACKBONE: Rows = (
    ("patch_embed.", "embed."),
    ("blocks.", "blocks."),
    ("norm.", "norm."),
)
_INSIDE = ((".attn.", ".mixer."), (".mlp.", ".ffn."))
_PROTOTYPES: Rows = (
    ("mlp.", "mlp."),
    ("last_layer.weight_g", "scale"),
    ("last_layer.weight_v", "rows"),
)
_PAINT: Rows = (("mlp.", "mlp."), ("convTrans.", "grow."))


def load_authors(learner: Learner, source: str | os.PathLike | Mapping[str, Any]) -> Learner:
    """Give a learner of `Sit`, `AttMask`, `Ibot` or `Dino` the weights of its authors' training.

    `source` is their file, or a mapping with its names: "student.backbone...", "teacher.head...",
    "ibot_loss.center", with or without "module.". Without a teacher, teachers are as the student.
    Raises CheckpointError, which lists what is missing, left over or of another shape.

    Examples:
        >>> from vitrail.objectives import AttMask
        >>> from vitrail.objectives.context import Context
        >>> from vitrail.training.learner import Learner
        >>> model = vitrail.create("deit_tiny", image=(32, 32), depth=1, classes=0)
        >>> learner = Learner(model, AttMask().build(model, Context()))
        >>> _ = load_authors(learner, to_authors(learner))
    """
    theirs, own = _read(source), learner.state_dict()
    if any(n.startswith("objective.teacher.") for n in own) and not _taught(theirs):
        begins = ("student.backbone.", "student.head.")
        theirs |= {
            f"teacher.{n.removeprefix('student.')}": value
            for n, value in theirs.items()
            if n.startswith(begins) and not n.endswith("masked_embed")
        }
    found: dict[str, Tensor] = {}
    for theirs_name, ours in _SINGLE.items():
        if theirs_name in theirs and ours in own:
            found[ours] = theirs.pop(theirs_name).reshape(own[ours].shape)
    for part, kind, target in _places(learner):
        given = {n.removeprefix(part): v for n, v in theirs.items() if n.startswith(part)}
        theirs = {n: v for n, v in theirs.items() if not n.startswith(part)}
        found |= {f"{target}.{n}": v for n, v in _ours(given, kind).items()}
    still = ("centre", "num_batches_tracked")  # their files may lack these
    missing = [n for n in own if n not in found and not n.endswith(still)]
    wrong = [n for n in found if n in own and found[n].shape != own[n].shape]
    left = [*theirs, *(n for n in found if n not in own)]
    if mismatch := Mismatch(missing, left, wrong):
        raise CheckpointError(f"the authors' training does not fit: {mismatch.describe()}")
    learner.load_state_dict({n: found.get(n, own[n]) for n in own})
    return learner


def _read(source: str | os.PathLike | Mapping[str, Any]) -> dict[str, Tensor]:
    """Read all tensors of weights, under names that begin with student or teacher, or of a loss."""
    beside = ("optimizer.", "args.", "fp16_scaler.", "teacher.head_recons.")
    found = {}
    for name, value in checkpoint.everything(source).items():
        name = re.sub(r"(^|\.)module\.", r"\1", name).removeprefix("SiT_model.")
        if not name.startswith(("student.", "teacher.", "ibot_loss.", *beside)):
            name = f"student.{name}"
        # A layer that class and patches share is listed twice; the second is what both hold.
        if not name.startswith(beside) and ".last_layer." not in name:
            found[name.replace(".last_layer2.", ".last_layer.")] = value
        elif ".last_layer." in name:
            found.setdefault(name, value)
    return found


def _taught(names: Iterable[str]) -> bool:
    return any(name.startswith("teacher.") for name in names)


def to_authors(learner: Learner) -> dict[str, Tensor]:
    """Return the weights of a learner under its authors' names, as `load_authors` reads them."""
    own, found = learner.state_dict(), {}
    for part, name, target in _places(learner):
        given = {
            n.removeprefix(f"{target}."): v for n, v in own.items() if n.startswith(f"{target}.")
        }
        found |= {f"{part}{n}": v for n, v in _theirs(given, name).items()}
    for theirs, ours in _SINGLE.items():
        if ours in own:
            shape = (1, -1) if theirs.endswith("masked_embed") else own[ours].shape
            found[theirs] = own[ours].reshape(shape)
    return found


# Entries that are one tensor: the hidden patch, centres, the learned weights of the first SiT.
_SINGLE = {
    "student.backbone.masked_embed": "objective.token",
    "ibot_loss.center": "objective.centre",
    "ibot_loss.center2": "objective.patch_centre",
    "student.rec_w": "objective.scales.painting",
    "student.contr_w": "objective.scales.contrast",
    "student.rot_w": "objective.scales.rotation",
}


def _places(learner: Learner) -> list[tuple[str, str, str]]:
    """Return where the parts of a training are: their prefix, the kind of part, and our module."""
    objective = learner.objective
    if isinstance(objective, sit.First):
        return [
            ("student.backbone.", "backbone", "model"),
            ("student.rec_head.", "paint", "objective.paint"),
            ("student.contr_head.", "plain", "objective.project"),
            ("student.rot_head.", "plain", "objective.turned"),
        ]
    if not isinstance(objective, sit.Second | SelfDistillation):
        raise ConfigError(
            f"{type(objective).__name__} has no authors' names here: give a training of sit, "
            "attmask, ibot or dino"
        )
    head = "plain" if isinstance(objective, sit.Second) else "prototypes"
    found = [
        ("student.backbone.", "backbone", "model"),
        ("student.head.", head, "objective.head"),
        ("teacher.backbone.", "backbone", "objective.teacher.backbone"),
        ("teacher.head.", head, "objective.teacher.head"),
    ]
    if isinstance(objective, sit.Second):
        found.append(("student.head_recons.", "paint", "objective.paint"))
    return found


_ROWS: dict[str, Rows] = {
    "backbone": _BACKBONE, "plain": (("mlp.", "mlp."),), "prototypes": _PROTOTYPES, "paint": _PAINT,
}  # fmt: skip


def _ours(given: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Return a part's tensors under our names; class tokens get their
    rows of the position table.
    """
    found = {}
    for name, value in given.items():
        for theirs, ours in _ROWS[kind]:
            if name.startswith(theirs):
                found[_inside(ours + name.removeprefix(theirs), kind, False)] = value
    if kind != "backbone":
        return found
    tokens = [n for n in ("cls_token", "cls_token1", "cls_token2") if n in given]
    if tokens and "pos_embed" in given:
        table, count = given["pos_embed"], len(tokens)
        found["embed.token"] = torch.cat([given[n] for n in tokens], 1) + table[:, :count]
        found["embed.position"] = table[:, count:]
    return found


def _theirs(given: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Return a part's tensors under the authors' names; rows of tokens in
    the position table are zeros.
    """
    found = {}
    for name, value in given.items():
        for theirs, ours in _ROWS[kind]:
            if name.startswith(ours):
                found[_inside(theirs + name.removeprefix(ours), kind, True)] = value
    if kind == "backbone":
        found = {
            n: v for n, v in found.items() if n not in ("patch_embed.token", "patch_embed.position")
        }
        token, position = given["embed.token"], given["embed.position"]
        names = ["cls_token"] if token.shape[1] == 1 else ["cls_token1", "cls_token2"]
        found |= dict(zip(names, token.split(1, 1), strict=True))
        found["pos_embed"] = torch.cat([torch.zeros_like(token), position], 1)
    return found


def _inside(name: str, kind: str, outwards: bool) -> str:
    if kind != "backbone":
        return name
    for theirs, ours in _INSIDE:
        name = name.replace(ours, theirs) if outwards else name.replace(theirs, ours)
    return name
