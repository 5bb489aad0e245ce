"""iBOT: DINO, and what the teacher says of patches that the student does not see.

Zhou et al., "iBOT: Image BERT Pre-Training with Online Tokenizer", ICLR 2022, arXiv 2111.07832.
Blocks of patches are hidden, and head and temperatures of class and patches are shared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vitrail.objectives.attmask import AttMask
from vitrail.objectives.context import Context
from vitrail.objectives.parts.crops import Crops
from vitrail.objectives.parts.distilled import Teaching
from vitrail.training.objective import Objective


@dataclass(frozen=True)
class Ibot:
    """Minimises DINO's cross entropy and that of patches which are hidden in blocks.

    `ratio` of the patches, give or take `spread`, are hidden, in an image with probability
    `masked`.

        vitrail pretrain photos/ --method ibot
    """

    ratio: float = 0.3
    spread: float = 0.2
    masked: float = 0.5
    crops: Crops = field(default_factory=Crops)
    teaching: Teaching = field(default_factory=Teaching)

    def __post_init__(self) -> None:
        self._blocks()

    def build(self, model: Any, context: Context) -> Objective:
        """Make the module that the loop calls. Raises ConfigError for a model without patches."""
        return self._blocks().build(model, context)

    def _blocks(self) -> AttMask:
        return AttMask(
            "block", self.ratio, self.spread, self.masked, crops=self.crops, teaching=self.teaching
        )
