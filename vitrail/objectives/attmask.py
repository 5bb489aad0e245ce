"""AttMask: a teacher's attention chooses what its student does not see.

Kakogeorgiou et al., "What to Hide from Your Students: Attention-Guided Masked Image Modeling", ECCV
2022, arXiv 2203.12719. The ratio is drawn once for a batch, so that every image with a mask has as
many hidden patches; the number is rounded down.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vitrail.errors import ConfigError
from vitrail.objectives.context import Context
from vitrail.objectives.parts import masks
from vitrail.objectives.parts.crops import Crops
from vitrail.objectives.parts.distilled import Hidden, SelfDistillation, Teaching
from vitrail.objectives.parts.draws import once, uniform
from vitrail.objectives.parts.tokens import require_class_token, require_patches
from vitrail.training.objective import Objective, Step

Strategy = Literal["high", "hint", "low", "random", "block"]


@dataclass(frozen=True)
class AttMask:
    """Minimises DINO's cross entropy and that of hidden patches, chosen by the teacher's attention.

    `strategy` "high" hides the most attended patches, "low" the least, "hint" as "high" but shows
    some of the `shown` most attended again; "random" and "block" ask no teacher. `ratio` of the
    patches, give or take `spread`, are hidden, in an image with probability `masked`.

        vitrail pretrain photos/ --method attmask --set objective.strategy=hint
    """

    strategy: Strategy = "high"
    ratio: float = 0.3
    spread: float = 0.2
    masked: float = 0.5
    shown: float = 0.1
    crops: Crops = field(default_factory=Crops)
    teaching: Teaching = field(default_factory=Teaching)

    def __post_init__(self) -> None:
        if not 0 <= self.ratio - self.spread <= self.ratio + self.spread <= 1:
            raise ConfigError(
                f"ratio {self.ratio} give or take spread {self.spread} leaves 0 to 1: take 0.3 "
                "and 0.2"
            )
        for name in ("masked", "shown"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} {getattr(self, name)} is not a share in [0, 1]")

    def build(self, model: Any, context: Context) -> Objective:
        """Make the module that the loop calls. Raises ConfigError for a model without patches, or
        without a class token where attention chooses."""
        attends = self.strategy in ("high", "hint", "low")
        if attends:
            require_class_token(model, "attmask")
        else:
            require_patches(model, "ibot")
        hidden = Hidden(self.choose, attends)
        return SelfDistillation(model, self.crops, self.teaching, context.normal, hidden)

    def choose(
        self, attention: Tensor | None, grid: tuple[int, int], indices: Tensor, step: Step
    ) -> Tensor:
        """Return which patches of two views of each image are hidden, bool (2 B, N)."""
        ratio, other = (self._ratio(step, stream) for stream in (0, 1))
        patches = grid[0] * grid[1]
        count = int(patches * ratio)
        shares = torch.cat([uniform(indices, step, 10 + view, patches) for view in (0, 1)])
        bare = torch.cat([uniform(indices, step, 12 + view, 1) for view in (0, 1)]) > self.masked
        if self.strategy == "random":
            mask = masks.random_mask(shares, count)
        elif self.strategy == "block":
            mask = _blocks(grid, count, indices, step)
        else:
            assert attention is not None
            mask = masks.attention_mask(attention, count, lowest=self.strategy == "low")
        mask = mask & ~bare
        if self.strategy == "hint" and attention is not None:
            mask = masks.hint(mask, attention, shares, self.shown, other)
        return mask

    def _ratio(self, step: Step, stream: int) -> float:
        return self.ratio + self.spread * (2 * once(step, stream) - 1)


def _blocks(grid: tuple[int, int], count: int, indices: Tensor, step: Step) -> Tensor:
    """Draw rectangles for two views of each image, each by a generator of its own."""
    drawn = [
        masks.block_mask(grid, count, np.random.default_rng((step.seed, step.number, row, view)))
        for view in (0, 1)
        for row in indices.tolist()
    ]
    return torch.from_numpy(np.stack(drawn)).flatten(1).to(indices.device)
