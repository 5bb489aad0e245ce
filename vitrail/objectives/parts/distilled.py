"""Self-distillation: a student learns what its own average says of other views of an image.

The loss of DINO (Caron et al., ICCV 2021, arXiv 2104.14294), of iBOT (Zhou et al., ICLR 2022, arXiv
2111.07832), which also asks for hidden patches, and of AttMask (arXiv 2203.12719), whose teacher's
attention says which patches are hidden. Class and patch outputs share one head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.layers.normal import Normal
from vitrail.objectives.parts.crops import Crops
from vitrail.objectives.parts.heads import Prototypes
from vitrail.objectives.parts.teacher import Following, mean_of_all, momentum
from vitrail.objectives.parts.tokens import Seen, read
from vitrail.training.batch import Batch
from vitrail.training.objective import Objective, Step


@dataclass(frozen=True)
class Teaching:
    """How a teacher teaches: `outputs` prototypes behind a head whose layers are `hidden` wide,
    temperatures, centres, and how slowly it follows.

    Its temperature rises from `cold` to `warm` over `warming` epochs, the student's is `student`.
    Centres keep `centre` of their past in a step, the teacher `momentum` of its weights, which
    rises to 1 by a cosine. The last layer stays as it is for `held` epochs.
    """

    outputs: int = 8192
    hidden: int = 2048
    student: float = 0.1
    cold: float = 0.04
    warm: float = 0.07
    warming: int = 30
    centre: float = 0.9
    momentum: float = 0.996
    held: float = 1.0

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ConfigError(f"hidden {self.hidden} is below 1: 2048 is usual")
        if self.outputs < 2:
            raise ConfigError(f"outputs {self.outputs} is below 2: 8192 is usual")
        for name in ("student", "cold", "warm"):
            if not getattr(self, name) > 0:
                raise ConfigError(
                    f"{name} {getattr(self, name)} is not above 0: give a temperature"
                )
        for name in ("centre", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)} is not in [0, 1)")

    def temperature(self, epoch: float) -> float:
        """Return the teacher's temperature in an epoch (from 0)."""
        whole = math.floor(epoch + 1e-9)
        done = 1.0 if self.warming < 2 else min(1.0, whole / (self.warming - 1))
        return self.cold + (self.warm - self.cold) * done


@dataclass(frozen=True)
class Hidden:
    """Which patches are hidden from a student: bool (2 B, N), and whether attention decides."""

    choose: Callable[[Tensor | None, tuple[int, int], Tensor, Step], Tensor]
    attends: bool = False


class SelfDistillation(Objective):
    """Maps a batch to `{"loss", "class", "patch"}`: cross entropies of the teacher's answers.

    Without `hidden` there is no term of patches, and any backbone learns.
    """

    centre: Tensor
    patch_centre: Tensor

    def __init__(
        self, model: Any, crops: Crops, teaching: Teaching, normal: Normal,
        hidden: Hidden | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.crops, self.teaching, self.normal, self.hidden = crops, teaching, normal, hidden
        self.local = crops.sizes(model)
        width = model.width
        self.head = Prototypes(width, teaching.outputs, hidden=teaching.hidden)
        self.teacher = Following(model, self.head)
        self.token = nn.Parameter(torch.zeros(width)) if hidden else None
        self.register_buffer("centre", torch.zeros(1, teaching.outputs))
        self.register_buffer("patch_centre", torch.zeros(1, 1, teaching.outputs))

    def forward(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return the loss and its terms, means over the batch."""
        large = torch.cat(self.crops.large(batch, self.normal, step))
        small = self.crops.small(batch, self.normal, step, self.local)
        return self.compare(model, large, small, batch.indices, step)

    def compare(
        self, model: Any, large: Tensor, small: Tensor | None, indices: Tensor, step: Step
    ) -> dict[str, Tensor]:
        """Return the terms for large views (2 B, C, H, W) and small ones, view after view."""
        taught, answers = self.asked(large)
        held = step.epoch < self.teaching.held
        if self.hidden is None:
            student = [self.head(model.embedding(large), held)]
            mask = patches = None
        else:
            mask = self.hidden.choose(taught.attention, _grid(model, large), indices, step)
            seen = read(model, large, mask=mask, token=self.token)
            # Patches that are seen have no part in the loss, so the head is spared them.
            student, patches = [self.head(seen.pooled, held)], self.head(seen.patches[mask], held)
        if small is not None:
            student.append(self.head(model.embedding(small), held))
        temperature = self.teaching.temperature(step.epoch)
        terms = {"class": self.class_loss(torch.cat(student), answers[:, 0], temperature)}
        if mask is not None and patches is not None:
            terms["patch"] = self.patch_loss(patches, answers[:, 1:], mask, temperature)
        if self.training:
            self._recentre(answers)
        return {"loss": torch.stack([*terms.values()]).sum(), **terms}

    @torch.no_grad()
    def asked(self, large: Tensor) -> tuple[Seen, Tensor]:
        """Return what the teacher sees in views (2 B, C, H, W), and its answers (2 B, 1 + N, K)."""
        teacher = self.teacher
        if self.hidden is None:
            pooled = teacher.backbone.embedding(large)
            return Seen(pooled, pooled[:, None]), teacher.head(pooled)[:, None]
        seen = read(teacher.backbone, large, attention=self.hidden.attends)
        return seen, teacher.head(torch.cat([seen.pooled[:, None], seen.patches], 1))

    def class_loss(self, student: Tensor, answers: Tensor, temperature: float) -> Tensor:
        """Return the mean over pairs of different views, of the teacher's two and all of the
        student's: (V B, K) and (2 B, K)."""
        wanted = ((answers - self.centre) / temperature).softmax(-1).chunk(2)
        said = (student / self.teaching.student).log_softmax(-1).split(len(answers) // 2)
        losses = [
            -(p * q).sum(-1).mean()
            for i, p in enumerate(wanted)
            for j, q in enumerate(said)
            if i != j
        ]
        return torch.stack(losses).mean()

    def patch_loss(
        self, student: Tensor, answers: Tensor, mask: Tensor, temperature: float
    ) -> Tensor:
        """Return the mean over images of the mean over hidden patches, of the student's outputs for
        these alone (M, K) and the teacher's for all (2 B, N, K).

        An image of which nothing is hidden counts as 0.
        """
        wanted = ((answers[mask] - self.patch_centre[0]) / temperature).softmax(-1)
        said = (student / self.teaching.student).log_softmax(-1)
        shares = (mask.to(said) / mask.sum(1, keepdim=True).clamp(min=1))[mask]
        return (-(wanted * said).sum(-1) * shares).sum() / len(mask)

    @torch.no_grad()
    def _recentre(self, answers: Tensor) -> None:
        keep = self.teaching.centre
        self.centre.lerp_(mean_of_all(answers[:, 0].mean(0, keepdim=True)), 1 - keep)
        if self.hidden is not None:
            patches = answers[:, 1:].mean((0, 1), keepdim=True)
            self.patch_centre.lerp_(mean_of_all(patches), 1 - keep)

    def after_step(self, model: Any, step: Step) -> None:
        """Let the teacher follow."""
        self.teacher.follow(model, self.head, momentum(self.teaching.momentum, step))

    def kept(self, model: Any) -> nn.Module:
        """Return the teacher's backbone."""
        return self.teacher.backbone


def _grid(model: Any, images: Tensor) -> tuple[int, int]:
    return model.embed.grid(*images.shape[-2:])
