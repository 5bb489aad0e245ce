"""A pretraining step of SiT and of AttMask beside the plain form on timm's ViT, in turns.

    python bench/pretraining.py [--image 224] [--batch 4] [--rounds 10] [--threads 1]

Both sides begin with the same weights, see the same views, which lie ready, and have the same loss,
which is checked. The plain form is as the authors write theirs: every patch goes through the head
whether its answer counts or not, the last block's whole map of attention is computed for the one
row that is read, gradients are clipped and the teacher follows tensor by tensor. What is told:
images a second, how many times as many as plainly (the median over rounds with its 95 % interval)
and the most memory of a step beyond what it found, also where cheap activations are made again
("lean"). Then which share of a step the row of attention takes, and how many times as fast group
masks of a batch are as a loop over its images.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from math import isqrt
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from rich.console import Console
from rich.table import Table
from timm import create_model  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn

from vitrail.measure.latency import ratio, threads_set, turns
from vitrail.measure.machine import machine
from vitrail.measure.memory import peak_bytes
from vitrail.models import load, resolve
from vitrail.objectives import AttMask, Sit
from vitrail.objectives.context import Context
from vitrail.objectives.parts.corruption import CANDIDATES, group_mask, rectangles
from vitrail.objectives.parts.crops import Crops
from vitrail.objectives.parts.tokens import class_row
from vitrail.objectives.sit import painting_loss, pair_loss
from vitrail.training.lean import Lean
from vitrail.training.learner import Learner
from vitrail.training.objective import Step
from vitrail.training.optimizer import AdamW, build

NOW, RATE, CLIP, MOMENTUM = Step(10, 100_000, 5.0, 7), 1e-5, 3.0, 0.996
COLOUR = Context(mean=(0.5,) * 3, std=(0.25,) * 3)
NONE = torch.empty(0)
Call = Callable[[], Tensor]


@dataclass(frozen=True, eq=False)
class Views:
    """What a step sees: numbers of the images, two views of each, view after view, and small
    ones, or corrupted ones and where."""

    indices: Tensor
    large: Tensor
    small: Tensor = NONE
    corrupted: Tensor = NONE
    mask: Tensor | None = None


# ---- the plain form ----------------------------------------------------------------------


class Plain(nn.Module):
    """A ViT of timm, the heads of an objective, and what stands where a patch is hidden."""

    def __init__(self, vit: Any, heads: dict[str, nn.Module]) -> None:
        super().__init__()
        self.vit, self.heads = vit, nn.ModuleDict(deepcopy(heads))
        self.token = nn.Parameter(torch.zeros(vit.embed_dim))

    def tokens(self, images: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the tokens of images, and the last block's whole map of attention."""
        vit = self.vit
        x = vit.patch_embed(images)
        if mask is not None:
            x = torch.where(mask.view(*x.shape[:3], 1), self.token, x)
        x = vit.norm_pre(vit._pos_embed(x))
        *first, last = vit.blocks
        for block in first:
            x = block(x)
        mixer = last.attn
        qkv = mixer.qkv(last.norm1(x)).unflatten(-1, (3, mixer.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attention = (q * mixer.scale @ k.mT).softmax(-1)
        x = x + mixer.proj((attention @ v).transpose(1, 2).flatten(2))
        return vit.norm(x + last.mlp(last.norm2(x))), attention


def plain_sit(sides: tuple[Plain, Plain], views: Views, repaint: float) -> Tensor:
    """Return the loss of SiT's second version."""
    student, teacher = sides
    x = student.vit.forward_features(views.corrupted)
    with torch.no_grad():
        taught = teacher.heads["head"](teacher.vit.forward_features(views.large)[:, 0])
    side = isqrt(x.shape[1] - 1)
    painted = student.heads["paint"](x[:, 1:], (side, side))
    (one, two), (first, second) = student.heads["head"](x[:, 0]).chunk(2), taught.chunk(2)
    contrast = pair_loss(one, second) + pair_loss(two, first)
    assert views.mask is not None
    return contrast + repaint * painting_loss(painted, views.large, views.mask)


def plain_attmask(sides: tuple[Plain, Plain], views: Views, objective: Any) -> Tensor:
    """Return the loss of iBOT under AttMask's masks; centres are 0 and stay so."""
    (student, teacher), value = sides, objective.teaching
    with torch.no_grad():
        tokens, attention = teacher.tokens(views.large)
        answers = teacher.heads["head"](tokens)
    row, side = attention[:, :, 0, 1:].mean(1), isqrt(tokens.shape[1] - 1)
    mask = objective.hidden.choose(row, (side, side), views.indices, NOW)
    said = student.heads["head"](student.tokens(views.large, mask)[0])
    local = student.heads["head"](student.vit.forward_features(views.small)[:, 0])
    wanted = (answers / value.temperature(NOW.epoch)).softmax(-1)
    logs, others = ((x / value.student).log_softmax(-1) for x in (said, local))
    each = -(wanted[:, 1:] * logs[:, 1:]).sum(-1)
    patch = ((each * mask).sum(-1) / mask.sum(-1).clamp(min=1)).mean()
    seen = torch.cat([logs[:, 0], others]).split(len(views.indices))
    pairs = [-(p * q).sum(-1).mean() for i, p in enumerate(wanted[:, 0].chunk(2))
             for j, q in enumerate(seen) if i != j]  # fmt: skip
    return torch.stack(pairs).mean() + patch


def plain_step(student: Plain, teacher: Plain, loss_of: Call) -> Call:
    """Return a call of one step, which returns its loss."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=0.04)

    def call() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        for value in student.parameters():
            if value.grad is not None:
                share = CLIP / (value.grad.norm(2).item() + 1e-6)
                if share < 1:
                    value.grad.mul_(share)
        optimizer.step()
        with torch.no_grad():
            for ours, own in zip(teacher.parameters(), student.parameters(), strict=True):
                ours.mul_(MOMENTUM).add_((1 - MOMENTUM) * own)
        return loss.detach()

    return call


# ---- vitrail's ---------------------------------------------------------------------------


def our_loss(learner: Learner, views: Views) -> Tensor:
    """Return what the objective says of the views."""
    objective: Any = learner.objective
    if views.mask is None:
        return objective.compare(learner.model, views.large, views.small, views.indices, NOW)[
            "loss"
        ]
    asked, painted = objective.student(learner.model, views.corrupted)
    contrast = objective.contrast(asked, objective.taught(views.large))
    painting = painting_loss(painted, views.large, views.mask)
    return contrast + objective.value.repaint * painting


def our_step(learner: Learner, views: Views, *, lean: bool) -> Call:
    """Return a call of one step of vitrail's loop, which returns its loss."""
    optimizer = build(AdamW(lr=RATE, weight_decay=0.04), learner)
    learned = [p for p in learner.parameters() if p.requires_grad]
    less = Lean(learner) if lean else nullcontext

    def call() -> Tensor:
        with less():
            loss = our_loss(learner, views)
        loss.backward()
        nn.utils.clip_grad_norm_(learned, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        learner.objective.after_step(learner.model, NOW)
        return loss.detach()

    return call


def made(method: str, image: int, batch: int) -> tuple[dict[str, Call], Learner, Views]:
    """Return what takes turns, vitrail's learner, and the views that all see."""
    torch.manual_seed(0)
    config = resolve("deit_tiny", image=(image, image), classes=0, drop_path=0.0)
    vit: Any = create_model(
        "deit_tiny_patch16_224", num_classes=0, img_size=image, dynamic_img_size=True
    )
    value: Any = Sit() if method == "sit" else AttMask(crops=Crops(number=2))
    model = load(config, vit.state_dict(), source="timm")
    learner = Learner(model, value.build(model, COLOUR)).train()
    views = looked_at(learner.objective, image, batch)
    names = ("head", "paint") if views.mask is not None else ("head",)
    student = Plain(vit, {name: getattr(learner.objective, name) for name in names})
    two = student, deepcopy(student).requires_grad_(False)
    objective = deepcopy(learner.objective)

    def plain() -> Tensor:
        if views.mask is not None:
            return plain_sit(two, views, value.repaint)
        return plain_attmask(two, views, objective)

    found = {
        "plain": plain_step(*two, plain), "vitrail": our_step(learner, views, lean=False),
        "vitrail, lean": our_step(deepcopy(learner), views, lean=True),
    }  # fmt: skip
    return found, learner, views


def looked_at(objective: Any, image: int, batch: int) -> Views:
    """Return views of noise, corrupted where the objective paints them."""
    indices, large = torch.arange(batch), torch.randn(2 * batch, 3, image, image)
    if hasattr(objective, "paint"):
        corruption = objective.value.corruption
        pairs = [corruption.apply(view, view.roll(1, 0), indices, NOW, number)
                 for number, view in enumerate(large.chunk(2))]  # fmt: skip
        corrupted, mask = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        return Views(indices, large, corrupted=corrupted, mask=mask)
    return Views(indices, large, small=torch.randn(2 * batch, 3, *objective.local))


# ---- what is told ------------------------------------------------------------------------


def shown(title: str, calls: dict[str, Call], batch: int, rounds: int) -> Table:
    """Return images a second, ratios and memory of a method."""
    losses = [call().item() for call in calls.values()]
    if max(losses) - min(losses) > 1e-3 * max(losses):
        raise SystemExit(f"{title}: the losses differ: {losses}")
    names = [*calls]
    spent = dict(zip(names, turns([*calls.values()], seconds=0, least=rounds), strict=True))
    memory = {name: peak_bytes(call) for name, call in calls.items()}
    table = Table("", "images/s", "times as many", "95 %", "MB", "of plain", title=title)
    for name, times in spent.items():
        middle, low, high = ratio(spent["plain"], times)
        table.add_row(
            name, f"{batch * len(times) / sum(times):.2f}", f"{middle:.2f}",
            f"{low:.2f} to {high:.2f}", f"{memory[name] / 1e6:.0f}",
            f"{memory[name] / memory['plain']:.2f}",
        )  # fmt: skip
    return table


def row_share(learner: Learner, views: Views, step: Call, rounds: int) -> tuple[float, float]:
    """Return which share of a step the row of attention takes, and which the whole map would."""
    backbone: Any = learner.objective.teacher.backbone  # pyright: ignore
    last = backbone.blocks[-1]
    x = torch.randn(len(views.large), 1 + backbone.embed.grid(*views.large.shape[-2:])[0] ** 2,
                    backbone.width)  # fmt: skip

    @torch.no_grad()
    def row() -> Any:
        return class_row(last, x, x.shape[1] - 1)

    @torch.no_grad()
    def whole() -> Any:
        return last.mixer.weights(last.norm1(x))[:, :, :1].mean(1)

    one, all_, steps = turns([row, whole, step], seconds=0, least=rounds)
    return ratio(one, steps)[0], ratio(all_, steps)[0]


def looped(wanted: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return group masks image by image, rectangle after rectangle, as the authors draw them."""
    masks = torch.zeros(len(wanted), *size, dtype=torch.bool)
    for mask, target, rows in zip(masks, wanted.tolist(), boxes.tolist(), strict=True):
        for top, left, bottom, right in rows:
            mask[top:bottom, left:right] = True
            if mask.sum() >= target:
                break
    return masks


def masks_ratio(side: int, batch: int, rounds: int) -> tuple[float, float, float]:
    """Return how many times as fast masks of a batch at once are as a loop, with its interval."""
    size = (side, side)
    boxes = rectangles(torch.rand(batch, CANDIDATES, 4), size)
    wanted = 0.5 * torch.ones(batch) * side * side
    if not torch.equal(looped(wanted, boxes, size), group_mask(wanted, boxes, size)):
        raise SystemExit("the masks differ")
    loop, once = turns(
        [lambda: looped(wanted, boxes, size), lambda: group_mask(wanted, boxes, size)],
        seconds=0, least=rounds,
    )  # fmt: skip
    return ratio(loop, once)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, usual in (("image", 224), ("batch", 4), ("rounds", 10), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    asked = parser.parse_args()
    console = Console()
    console.print(machine())
    with threads_set(asked.threads):
        for method in ("sit", "attmask"):
            calls, learner, views = made(method, asked.image, asked.batch)
            title = f"{method}, deit_tiny at {asked.image}, batch {asked.batch}"
            console.print(shown(title, calls, asked.batch, asked.rounds))
            if method == "attmask":
                row, whole = row_share(learner, views, calls["vitrail"], asked.rounds)
                console.print(f"row of attention: {row:.2%} of a step, the whole map {whole:.2%}")
        for side, batch in ((32, 64), (224, 64)):
            middle, low, high = masks_ratio(side, batch, asked.rounds)
            console.print(f"group masks of {batch} images of {side}: {middle:.1f} times as fast as "
                          f"a loop ({low:.1f} to {high:.1f})")  # fmt: skip


if __name__ == "__main__":
    main()
