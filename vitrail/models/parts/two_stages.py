"""Detectors of two stages: what may be an object is proposed, then looked at by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.boxes import LEAST_SCORE, MOST_BOXES, MOST_OVERLAP, Boxes, Chosen, inside
from vitrail.layers.surest import surest
from vitrail.models.parts import proposals
from vitrail.models.parts.box_coding import corrected, corrections
from vitrail.models.parts.box_hosts import check_width, hosted, neck
from vitrail.models.parts.box_losses import IGNORED, matched
from vitrail.models.parts.proposals import ANCHORS, BEND, Proposals, Proposer, drawn
from vitrail.models.parts.regions import Places, of_batch, regions
from vitrail.models.trunk.detector import Detector

# The side of what is read from a region.
SIDE = 7
# From which overlap on a proposal is an object's own.
OWN = 0.5
# So many proposals of an image are learned from, at most this share of them objects' own.
LEARNED, SHARE = 512, 0.25
# Corrections are learned in so many times their size.
WEIGHTS = (10.0, 10.0, 5.0, 5.0)


class Seen(NamedTuple):
    """What a detector of two stages sees in images: the levels that regions are read from, what is
    said of anchors (B, N, 5), proposals, and what is found of these; None in training."""

    levels: list[Tensor]
    first: Tensor
    proposals: Proposals
    found: Chosen | None


class Drawn(NamedTuple):
    """Regions that are learned from: their places, the class (R,) of each or `BACKGROUND`, and the
    row (R,) of its target."""

    places: Places
    kinds: Tensor
    row: Tensor


class RegionHead(nn.Module):
    """What is in regions (R, width, 7, 7) to (R, 5 * (classes + 1)): logits and corrections."""

    def __init__(self, width: int, hidden: int, classes: int) -> None:
        from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

        super().__init__()
        self.mlp = TwoMLPHead(width * SIDE**2, hidden)
        self.out = FastRCNNPredictor(hidden, classes + 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self.out(self.mlp(x)), -1)


class TwoStages(Detector):
    """An image (B, channels, H, W) to what is `Seen` of it; `chosen` says what was found.

    `head` judges regions, `proposer` finds them on all levels of the pyramid; regions are read from
    those of the backbone.
    """

    head: RegionHead

    def __init__(self, config: Any) -> None:
        check_width(config.width)
        backbone = hosted(config)
        made = neck(backbone.levels, config.width, config.finest, config.extra)
        head = RegionHead(config.width, config.hidden, config.classes or 1)
        super().__init__(config, backbone, made, head)
        self.proposer = Proposer(config.width)
        self._kinds = (config.classes or 1) + 1

    @property
    def strides(self) -> Sequence[int]:
        """Return the strides of the levels that regions are read from."""
        return self.neck.strides[: -self.config.extra]  # pyright: ignore

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Seen:  # pyright: ignore[reportIncompatibleMethodOverride]
        levels, size = self.levels_of(image), (image.shape[-2], image.shape[-1])
        first = exact(self.proposer(levels))
        with torch.no_grad():
            around = self.anchors(size, first)
            counts = [h * w * ANCHORS for h, w in self._grids[size]]
            found = proposals.proposed(first.detach(), around, counts, self.config.proposals)
        own = levels[: len(self.strides)]
        if self.training:
            return Seen(own, first, found, None)
        said = self.judged(own, of_batch(found.boxes), size).unflatten(0, found.there.shape)
        return Seen(own, first, found, self.choose(own, found, said, size))

    def judged(self, levels: list[Tensor], places: Places, image: tuple[int, int]) -> Tensor:
        """Return what the head says of regions: (R, 5 * (classes + 1))."""
        return exact(self.head(regions(levels, places, self.strides, image, SIDE)))

    def anchors(self, image: tuple[int, int], like: Tensor) -> Float[Tensor, "n 4"]:
        """Return the anchors of images of (H, W) that it has seen, in shares of the sides."""
        return proposals.anchors(self.places(image, like.device), image, like)

    def choose(
        self, levels: list[Tensor], proposed: Proposals, said: Tensor, image: tuple[int, int]
    ) -> Chosen:
        """Return what is found: of all classes the surest boxes that none of its class overlaps.

        `said` (B, M, 5 * (classes + 1)) are logits, the first of which is that of nothing, and
        corrections of what was proposed.
        """
        kinds = self._kinds
        scores = said[..., :kinds].softmax(-1)[..., 1:] * proposed.there[..., None]
        moves = said[..., kinds:].unflatten(-1, (kinds, 4))[..., 1:, :]
        moves = moves / moves.new_tensor(WEIGHTS)
        boxes = corrected(proposed.boxes[..., None, :].to(moves.dtype), moves)
        answers = inside(boxes.flatten(1, 2), scores.flatten(1, 2)[..., None])
        every, sure = answers.boxes, answers.scores[..., 0]
        label = torch.arange(kinds - 1, device=said.device).expand(scores.shape[1:]).flatten()
        # Boxes of a class lie apart from those of others, so that only its own overlap.
        apart = every + 2.0 * label[:, None]
        kept = surest(apart, sure, MOST_BOXES, MOST_OVERLAP, LEAST_SCORE)
        at = kept.clamp(min=0)
        found = every.gather(1, at[..., None].expand(-1, -1, 4))
        return Chosen(found, sure.gather(1, at) * (kept >= 0), at % (kinds - 1))

    def chosen(self, raw: Seen) -> Chosen:
        """Return what was found, at most `MOST_BOXES` in an image. Raises RuntimeError for what a
        network in training saw, which says nothing of proposals."""
        if raw.found is None:
            raise RuntimeError("a network in training says nothing of proposals: call eval() first")
        return raw.found

    def found(self, raw: Seen) -> list[Boxes]:
        """Return the boxes of each image, the surest first."""
        told = self.chosen(raw)
        return [
            Boxes(*(None if one is None else one[at][scores > 0] for one in told))  # pyright: ignore
            for at, scores in enumerate(told.scores)
        ]

    def losses(self, raw: Seen, targets: Tensor, image: tuple[int, int]) -> dict[str, Tensor]:
        """Return the losses of both stages, for each anchor and each region that is learned from,
        and their sum. What is drawn in training is torch's, otherwise always the same."""
        random = None
        if not self.training:
            random = torch.Generator(targets.device).manual_seed(0)
        terms = proposals.losses(raw.first, self.anchors(image, raw.first), targets, random)
        some = learned_from(raw.proposals, targets, random)
        terms |= self.of_regions(raw, some, targets, image)
        return {"loss": torch.stack([*terms.values()]).sum(), **terms}

    def of_regions(
        self, raw: Seen, some: Drawn, targets: Tensor, image: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Return the losses "classes" and "boxes" of regions, for each of them."""
        said, kinds = self.judged(raw.levels, some.places, image), self._kinds
        total = max(1, len(said))
        label = (some.kinds + 1).clamp(min=0)
        classes = F.cross_entropy(said[:, :kinds], label, reduction="sum") / total
        own = some.kinds >= 0
        moves = said[:, kinds:].unflatten(-1, (kinds, 4))[own, label[own]]
        truth = targets[some.places.image[own], some.row[own], 1:5]
        wanted = corrections(some.places.boxes[own], truth.to(said.dtype))
        wanted = wanted * wanted.new_tensor(WEIGHTS)
        boxes = F.smooth_l1_loss(moves, wanted, beta=BEND, reduction="sum") / total
        return {"classes": classes, "boxes": boxes}


def learned_from(found: Proposals, targets: Tensor, random: torch.Generator | None) -> Drawn:
    """Return regions of images that are drawn from proposals and the truth, targets (B, m, c)."""
    boxes = torch.cat([found.boxes, targets[..., 1:5].to(found.boxes.dtype)], 1)
    pairs = [
        matched(own, one, OWN, OWN, every=False) for own, one in zip(boxes, targets, strict=True)
    ]
    kinds, row = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    there = torch.cat([found.there, targets[..., 0] >= 0], 1)
    own, rest = drawn(torch.where(there, kinds, IGNORED), LEARNED, SHARE, random)
    image, at = (own | rest).nonzero(as_tuple=True)
    return Drawn(Places(boxes[image, at], image), kinds[image, at], row[image, at])


def exact(x: Tensor) -> Tensor:
    """Return x in float32 at least."""
    return x if x.dtype == torch.float64 else x.float()
