"""SiT: hidden groups of pixels are painted again, and views of one image are known for one.

Atito, Awais, Kittler, "SiT: Self-supervised vIsion Transformer", arXiv 2104.03602. The second
version (code of December 2022) has one class token and a teacher; the first has two, a rotation to
be told, and learned weights of its three terms.

Departures: what hides a group may be noise, zeros or another image, not another part of the same
one; the authors clip gradients for each tensor, `steps.clip` clips all together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.layers.normal import Normal
from vitrail.objectives.context import Context
from vitrail.objectives.parts.corruption import CANDIDATES, group_mask, rectangles
from vitrail.objectives.parts.crops import Crops
from vitrail.objectives.parts.draws import uniform
from vitrail.objectives.parts.heads import NormedMlp, PlainMlp, Reconstruction
from vitrail.objectives.parts.teacher import Following, gathered, momentum
from vitrail.objectives.parts.tokens import grid, prefix, read, require_patches
from vitrail.objectives.parts.views import View
from vitrail.training.batch import Batch
from vitrail.training.objective import Objective, Step


@dataclass(frozen=True)
class Corruption:
    """How views are corrupted: rectangles hide a share of up to `most` of the pixels by `fill`;
    half of the images have parts of another image instead, up to `other` of them.

    Corners and sides are multiples of `align` pixels.
    """

    fill: Literal["zeros", "noise"] = "zeros"
    most: float = 0.5
    other: float = 0.3
    align: int = 1

    def __post_init__(self) -> None:
        for name in ("most", "other"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} {getattr(self, name)} is not a share above 0: take 0.5")
        if self.align < 1:
            raise ConfigError(f"align {self.align} is below 1: give pixels")

    def apply(
        self, images: Tensor, others: Tensor, indices: Tensor, step: Step, view: int
    ) -> tuple[Tensor, Tensor]:
        """Return corrupted images (B, C, H, W) and which pixels changed, bool (B, 1, H, W)."""
        drawn = uniform(indices, step, 20 + view, 2 + 4 * CANDIDATES)
        swapped = drawn[:, 0] < 0.5
        most = torch.where(swapped, self.other, self.most)
        least = most.clamp(max=0.5)
        size = (images.shape[-2], images.shape[-1])
        wanted = (least + (most - least) * drawn[:, 1]) * size[0] * size[1]
        boxes = rectangles(drawn[:, 2:].unflatten(1, (CANDIDATES, 4)), size, self.align)
        mask = group_mask(wanted, boxes, size)[:, None]
        fill = torch.randn_like(images) if self.fill == "noise" else torch.zeros_like(images)
        hiding = torch.where(swapped.view(-1, 1, 1, 1), others, fill)
        return torch.where(mask, hiding, images), mask


@dataclass(frozen=True)
class Sit:
    """Minimises SiT's loss of the second or the first `version`.

    The second adds `contrast` times the contrast at temperature 0.2 to `repaint` times the error
    of the painting (1 on ImageNet, 5 on small data). The first learns the weights of contrast,
    painting and `rotation`, of which a weight of 0 leaves one out.

        vitrail pretrain photos/ --method sit --set objective.repaint=1
    """

    version: Literal[1, 2] = 2
    contrast: float = 1.0
    repaint: float = 5.0
    rotation: float = 1.0
    corruption: Corruption = field(default_factory=Corruption)
    first: View = field(default_factory=lambda: View((0.2, 1.0), blur=1.0))
    second: View = field(default_factory=lambda: View((0.2, 1.0), blur=0.1, solarise=0.2))
    hidden: int = 4096
    momentum: float = 0.996

    def __post_init__(self) -> None:
        weights = (self.contrast, self.repaint, self.rotation)
        if min(weights) < 0 or not any(weights[: 2 if self.version == 2 else 3]):
            raise ConfigError(
                f"contrast, repaint and rotation of {weights} leave nothing to learn: give weights "
                "of 0 or more, one of them above"
            )
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum {self.momentum} is not in [0, 1): 0.996 is usual")
        if self.hidden < 1:
            raise ConfigError(f"hidden {self.hidden} is below 1: 4096 is usual")

    def build(self, model: Any, context: Context) -> Objective:
        """Make the module that the loop calls. Raises ConfigError for a model that does not fit."""
        require_patches(model, "sit")
        tokens = prefix(model)
        if self.version == 2:
            return Second(model, self, context.normal)
        if tokens != 2:
            raise ConfigError(
                f"the first version of sit has two class tokens, and {type(model).__name__} has "
                f"{tokens}: take deit_tiny_distilled, or --set objective.version=2"
            )
        return First(model, self, context.normal)


class _Painting(Objective):
    """What both versions share: two views, their corruption, and the error of the painting."""

    def __init__(self, value: Sit, normal: Normal) -> None:
        super().__init__()
        self.value, self.normal = value, normal
        self.crops = Crops(value.first, value.second, number=0)

    def _corrupted(self, clean: Tensor, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """Return two views (2 B, C, H, W) corrupted, and where (2 B, 1, H, W)."""
        found = [
            self.value.corruption.apply(view, view.roll(1, 0), batch.indices, step, number)
            for number, view in enumerate(clean.chunk(2))
        ]
        corrupted, masks = (torch.cat(parts) for parts in zip(*found, strict=True))
        return corrupted, masks


def painting_loss(painted: Tensor, clean: Tensor, mask: Tensor) -> Tensor:
    """Return the mean absolute error over the values that `mask` hides, 0 where it hides none."""
    hidden = mask.expand_as(clean).to(clean)
    return ((painted - clean).abs() * hidden).sum() / hidden.sum().clamp(min=1)


def pair_loss(asked: Tensor, taught: Tensor, temperature: float = 0.2) -> Tensor:
    """Return the contrast of MoCo v3 (arXiv 2104.02057): each of (B, D) is to find its own among
    the `taught` of all processes; times twice the temperature."""
    keys, begin = gathered(F.normalize(taught.detach(), dim=1))
    logits = F.normalize(asked, dim=1) @ keys.mT / temperature
    own = begin + torch.arange(len(asked), device=asked.device)
    return 2 * temperature * F.cross_entropy(logits, own)


def twin_loss(one: Tensor, two: Tensor, temperature: float = 0.5) -> Tensor:
    """Return NT-Xent (SimCLR, arXiv 2002.05709): each of 2 B outputs is to find its twin."""
    x = F.normalize(torch.cat([one, two]), dim=1)
    logits = (x @ x.mT / temperature).fill_diagonal_(-torch.inf)
    twins = torch.arange(len(x), device=x.device).roll(len(one))
    return F.cross_entropy(logits, twins)


class Second(_Painting):
    """Maps a batch to `{"loss", "contrast", "painting"}`; the teacher sees clean views."""

    def __init__(self, model: Any, value: Sit, normal: Normal) -> None:
        super().__init__(value, normal)
        width = model.width
        self.head = NormedMlp(width, 256, value.hidden)
        self.paint = _painter(model, 3)
        self.teacher = Following(model, self.head)

    def forward(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return the loss and its terms, means over the batch."""
        clean = torch.cat(self.crops.large(batch, self.normal, step))
        corrupted, mask = self._corrupted(clean, batch, step)
        asked, painted = self.student(model, corrupted)
        contrast = self.contrast(asked, self.taught(clean))
        painting = painting_loss(painted, clean, mask)
        loss = self.value.contrast * contrast + self.value.repaint * painting
        return {"loss": loss, "contrast": contrast, "painting": painting}

    def student(self, model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return projections (B, 256) and paintings (B, C, H, W) of corrupted images."""
        seen = read(model, images)
        return self.head(seen.pooled), self.paint(seen.patches, grid(model, images))

    @torch.no_grad()
    def taught(self, images: Tensor) -> Tensor:
        """Return the teacher's projections (B, 256) of clean images."""
        return self.teacher.head(read(self.teacher.backbone, images).pooled)

    def contrast(self, asked: Tensor, taught: Tensor) -> Tensor:
        """Return the contrast of two views, view after view, each with the other's teacher."""
        one, two = asked.chunk(2)
        first, second = taught.chunk(2)
        return pair_loss(one, second) + pair_loss(two, first)

    def after_step(self, model: Any, step: Step) -> None:
        """Let the teacher follow."""
        self.teacher.follow(model, self.head, momentum(self.value.momentum, step))

    def kept(self, model: Any) -> nn.Module:
        """Return the teacher's backbone."""
        return self.teacher.backbone


class First(_Painting):
    """Maps a batch to `{"loss", "rotation", "contrast", "painting"}`, weighted by learned
    scalars."""

    TERMS = ("rotation", "contrast", "painting")

    def __init__(self, model: Any, value: Sit, normal: Normal) -> None:
        super().__init__(value, normal)
        half = model.width // 2
        self.paint = _painter(model, 2)
        self.project, self.turned = PlainMlp(half, 256, 2048), PlainMlp(half, 4, 2048)
        self.scales = nn.ParameterDict({name: torch.ones(1) for name in self.TERMS})

    def forward(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return the weighted loss and the terms as they are, means over the batch."""
        drawn = [uniform(batch.indices, step, 30 + view, 1)[:, 0] for view in (0, 1)]
        quarters = torch.cat([(4 * share).long() for share in drawn])
        clean = turn(torch.cat(self.crops.large(batch, self.normal, step)), quarters)
        corrupted, mask = self._corrupted(clean, batch, step)
        rotation, projected, painted = self.student(model, corrupted)
        one, two = projected.chunk(2)
        terms = {
            "rotation": F.cross_entropy(rotation, quarters),
            "contrast": twin_loss(one, two),
            "painting": painting_loss(painted, clean, mask),
        }
        weighted = torch.cat([*self.weighted(terms).values()])
        return {"loss": weighted.sum(), **terms}

    def student(self, model: Any, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotations (B, 4), projections (B, 256) and paintings of corrupted images."""
        seen = read(model, images)
        first, second = seen.pooled.chunk(2, 1)
        painted = self.paint(seen.patches, grid(model, images))
        return self.turned(first), self.project(second), painted

    def weighted(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return each term as 0.5 / w^2 term + log(1 + w^2), w its learned scalar, of (1,)."""
        value = self.value
        wanted = {
            "rotation": value.rotation, "contrast": value.contrast, "painting": value.repaint,
        }  # fmt: skip
        return {
            name: float(wanted[name] > 0) * (0.5 / w**2 * terms[name] + (1 + w**2).log())
            for name, w in self.scales.items()
        }


def turn(images: Tensor, quarters: Tensor) -> Tensor:
    """Turn square images (B, C, H, H) by quarters (B,) of a whole turn. Raises ConfigError."""
    if images.shape[-1] != images.shape[-2]:
        raise ConfigError(
            f"images of {images.shape[-2]}x{images.shape[-1]} cannot be turned by a quarter: take "
            "square ones, or --set objective.version=2"
        )
    turned = torch.stack([images.rot90(k, (2, 3)) for k in range(4)])
    return turned[quarters, torch.arange(len(images), device=images.device)]


def _painter(model: Any, hidden: int) -> Reconstruction:
    config = model.config
    stride = model.levels[-1].stride
    return Reconstruction(model.levels[-1].channels, config.channels, stride, hidden)
