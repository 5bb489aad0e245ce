"""PatchDropout: an image shows only some of its patches while the model learns.

Liu, Matsoukas, Strand, Azizpour, Smith, "PatchDropout: Economizing Vision Transformers Using
Patch Dropout", WACV 2023, arXiv 2208.07220. Each image keeps int(keep n) patches of its own,
drawn anew in every step and left in their order; class and distillation tokens always stay;
positions are added before, so that a kept patch knows where it was. Patches that are left out are
not even projected where an embedding projects each by itself. Nothing is scaled.

In a Swin, windows cannot have holes: of every window whole rows and columns stay
(`dropped_windows`). Models whose blocks convolve, such as XCiT and GLiT, are refused: for them
the paper defines nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.methods.dropped_windows import DroppedMap, fits, install_windows
from vitrail.methods.dropping import (
    Dropping,
    check_share,
    drawn,
    install,
    require_single,
    require_tokens,
    same_for_all,
)
from vitrail.training.objective import Step

STEP = 0.05  # between two rates of the random variant


@dataclass(frozen=True)
class PatchDropout:
    """Keeps a random share `keep` of an image's patches in training: half of them cost half.

    With `random_rate` half of the steps keep everything, and the others a share from `keep` to 1
    in steps of 0.05, all equally likely: the paper's regulariser, with `keep` at 0.5. In eval mode
    `test_keep` of the patches stay, which are the same for all images. In a Swin both are shares of
    a window's rows, and of its columns: int(keep 7) of 7 each.

    vitrail train --set model=deit_tiny --set methods=patch_dropout --set methods.0.keep=0.25
    """

    keep: float = 0.5
    random_rate: bool = False
    test_keep: float = 1.0

    def __post_init__(self) -> None:
        check_share("keep", self.keep)
        check_share("test_keep", self.test_keep)

    def check(self, model: nn.Module) -> None:
        """Raise ConfigError unless patches may be missing in the model, and none are yet."""
        require_single("patch_dropout", model)
        if not fits(model):
            require_tokens("patch_dropout", model, ", or windows that divide its map, as in swin")

    def apply(self, model: nn.Module) -> nn.Module:
        """Put the dropout behind the embedding; returns the model."""
        if fits(model):
            return install_windows(model, self.keep, self.test_keep)
        return install(model, lambda embed: Dropped(embed, self.keep, self.test_keep))

    def before_step(self, model: nn.Module, step: Step) -> None:
        """Draw the rate of the step, the same in all processes, where it is random."""
        if self.random_rate:
            keep = self.rate(step)
            for module in model.modules():
                if isinstance(module, Dropped | DroppedMap):
                    module.keep = keep

    def rate(self, step: Step) -> float:
        """Return the share that a step keeps of the patches: a function of seed and number."""
        if not self.random_rate:
            return self.keep
        dice = np.random.default_rng((step.seed, step.number, 220807220))
        if dice.random() < 0.5:
            return 1.0
        choices = int((1 - self.keep) / STEP + 1e-9) + 1
        return 1 - int(dice.integers(choices)) / round(1 / STEP)


class Dropped(Dropping):
    """An embedding that keeps random patches: (B, channels, H, W) to (B, prefix + kept, C)."""

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b t c"]:
        n = self.patches(image)
        count = max(1, int(n * self.share))
        if count == n:
            return self.whole(image)
        choose = self.chosen if self.training else same_for_all
        places = choose(image.shape[0], n, count, image.device)
        return self.some(image, places.sort(1).values)

    def chosen(
        self, batch: int, patches: int, keep: int, device: torch.device
    ) -> Int[Tensor, "b k"]:
        """Return the patches that each image keeps in training."""
        return drawn(batch, patches, keep, device)
