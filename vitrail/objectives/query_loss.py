"""The loss of OWL-ViT: predictions are paired with objects, then labels and boxes are learned.

Minderer et al., ECCV 2022, arXiv 2205.06230; of OWLv2, which trains its likeliest candidates alone:
NeurIPS 2023, arXiv 2306.09683.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.data.queries import QueryBatch
from vitrail.errors import ConfigError
from vitrail.models.owl_vit import OwlViT
from vitrail.models.parts.query_losses import PUBLISHED, Weights, likeliest, loss, objects_of
from vitrail.objectives.context import Context
from vitrail.training.objective import Model, Objective, Step


@dataclass(frozen=True)
class QueryLoss:
    """Minimises how badly sentences are told by the objects that they ask for, and their boxes.

    `candidates` is how many of the likeliest objects of an image are trained, all of them unless
    given; only a network that tells objects knows which. Sentences learn at `text_pace` times the
    rate of images, published 0.04.

    vitrail train --set task=open_vocabulary --set objective.weights.alpha=0.25 ...
    """

    weights: Weights = PUBLISHED
    candidates: int | None = None
    text_pace: float = 1.0

    def __post_init__(self) -> None:
        if self.candidates is not None and self.candidates < 1:
            raise ConfigError(f"objective.candidates is {self.candidates}: give 1 or more, or none")
        if not 0 <= self.text_pace <= 1:
            raise ConfigError(f"objective.text_pace is {self.text_pace}: give a share, 0 to 1")

    def build(self, model: nn.Module, context: Context) -> Objective:
        """Make the module that the loop calls. Raises ConfigError for what takes no queries."""
        if not isinstance(model, OwlViT):
            raise ConfigError(
                f"objective query_loss needs a network that is asked in words, and "
                f"{type(model).__name__} is another: set task=open_vocabulary"
            )
        if self.candidates is not None and model.objectness_head is None:
            raise ConfigError(
                "objective.candidates needs a network that tells objects: add --set "
                "model.objectness=true, or leave it out"
            )
        return QueriedLoss(self, model)


class QueriedLoss(Objective):
    """Maps images (b, C, H, W), the sentences that they are asked for (b, Q, N), and the objects of
    each to the terms of the loss, means over the images."""

    def __init__(self, what: QueryLoss, model: OwlViT) -> None:
        super().__init__()
        self.what = what
        if what.text_pace != 1:
            names = [f"model.text.{name}" for name, _ in model.text.named_parameters()]
            self.paces = dict.fromkeys(names, what.text_pace)

    def forward(self, model: Model, batch: QueryBatch, step: Step) -> dict[str, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return "loss" and its summands, scalars in float32."""
        network, tokens = cast(OwlViT, model), batch.tokens
        # Images are asked for much the same: what a sentence means is computed once.
        said, at = tokens.flatten(0, 1).unique(dim=0, return_inverse=True)
        queries = F.embedding(at.view(tokens.shape[:2]), network.queries(said))
        present = tokens[..., 0] > 0
        found = network.find(batch.images, queries, present)
        if self.what.candidates is not None:
            found = likeliest(found, self.what.candidates)
        return loss(found, objects_of(batch.targets, tokens.shape[1]), present, self.what.weights)
