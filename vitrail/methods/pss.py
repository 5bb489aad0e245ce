"""PSS: how many patches an image shows changes from step to step, by a schedule.

McDanel, Huynh, "Accelerating Vision Transformer Training via a Patch Sampling Schedule", 2022,
arXiv 2208.09520. A schedule says which share of the patches is dropped in a step, rounded to the
nearest 0.2 (halves to even), so that only five shapes occur. The patches that stay are those of the
largest L1 norm once positions are added, largest first, or random ones; nothing comes back later.
A model trained so also bears fewer patches when it is used.

As in the authors' code the drop ratio counts the prefix tokens, which always stay: of N tokens
round((1 - ratio) N) are left. The schedules are functions of the step alone, so that a resumed
training has the same ones; `steps.total` moves the end of "linear" and "cosine".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.errors import ConfigError
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

Schedule = Literal["linear", "cosine", "cyclic", "fixed"]
Sampling = Literal["magnitude", "random"]
MOST = 0.9  # rounds to 0.8; above it to all patches


@dataclass(frozen=True)
class PSS:
    """Drops a share of the patches that moves from `start` to `end`, by a schedule.

    "linear" and "cosine" take the whole training for it, "cyclic" goes there and back in every
    epoch, "fixed" stays at `start`. The end lies below 0 so that a part of the steps sees all
    patches. `sampling` takes those of the largest "magnitude", or "random" ones. In eval mode
    `test_keep` of the tokens stay, chosen in the same way, but random ones the same for all images.

    vitrail train --set model=deit_small --set methods=pss --set methods.0.schedule=linear ...
    """

    schedule: Schedule = "cyclic"
    sampling: Sampling = "magnitude"
    start: float = 0.8
    end: float = -0.1
    test_keep: float = 1.0

    def __post_init__(self) -> None:
        for name, value, known in (
            ("schedule", self.schedule, Schedule),
            ("sampling", self.sampling, Sampling),
        ):
            if value not in get_args(known):
                raise ConfigError(
                    f"{name} {value!r} is unknown: give one of {', '.join(get_args(known))}"
                )
        for name, value in (("start", self.start), ("end", self.end)):
            if not -1 <= value <= MOST:
                raise ConfigError(
                    f"{name} is {value}: give a share of the patches to drop from -1 to {MOST}, "
                    "so that some stay"
                )
        check_share("test_keep", self.test_keep)

    def check(self, model: nn.Module) -> None:
        """Raise ConfigError unless patches may be missing in the model, and none are yet."""
        require_single("pss", model)
        require_tokens("pss", model)

    def apply(self, model: nn.Module) -> nn.Module:
        """Put the sampling behind the embedding; returns the model."""
        return install(model, lambda embed: Sampled(embed, self.sampling, self.test_keep))

    def before_step(self, model: nn.Module, step: Step) -> None:
        """Set how much of the patches this step keeps."""
        keep = 1 - self.ratio(step)
        for module in model.modules():
            if isinstance(module, Sampled):
                module.keep = keep

    def ratio(self, step: Step) -> float:
        """Return the share of the patches that a step drops: 0, 0.2, 0.4, 0.6 or 0.8."""
        done, total = step.number, step.total
        if self.schedule == "linear":
            value = (1 - done / total) * self.start + done / total * self.end
        elif self.schedule == "cosine":
            value = self._cosine(done, total)
        elif self.schedule == "cyclic":
            value = self._cyclic(step)
        else:
            value = self.start
        return round(5 * min(1.0, max(0.0, value))) / 5

    def _cosine(self, done: int, total: int) -> float:
        if done == 0:
            return self.start
        if done >= total - 1:
            return self.end
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * done / total)) / 2

    def _cyclic(self, step: Step) -> float:
        """Return the value of a triangle over the epoch: `start`, `end` in the middle, `start`."""
        steps, done = _epoch(step)
        way = (done if done <= steps // 2 else steps - done) / (steps / 2)
        return (1 - way) * self.start + way * self.end


class Sampled(Dropping):
    """An embedding that keeps some patches: (B, channels, H, W) to (B, prefix + kept, C)."""

    def __init__(self, embed: nn.Module, sampling: Sampling, test_keep: float) -> None:
        super().__init__(embed, 1.0, test_keep)
        self.sampling: Sampling = sampling

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b t c"]:
        tokens, n = self.whole(image), self.patches(image)
        every = tokens.shape[1]
        count = max(1, round(self.share * every) - (every - n))
        if count >= n:
            return tokens
        return self.taken(tokens, self._places(tokens[:, every - n :], count), n)

    def _places(self, patches: Float[Tensor, "b n c"], count: int) -> Int[Tensor, "b k"]:
        if self.sampling == "magnitude":
            return patches.detach().abs().sum(-1).topk(count, 1).indices
        choose = drawn if self.training else same_for_all
        return choose(patches.shape[0], patches.shape[1], count, patches.device)


def _epoch(step: Step) -> tuple[float, float]:
    """Return how many steps an epoch has, and how many of the running one are done.

    Both are whole numbers unless micro-batches of one step belong to two epochs.
    """
    if step.number == 0:
        return 1, 0
    steps = step.number / step.epoch
    if abs(steps - round(steps)) < 1e-6 * steps:
        return round(steps), step.number % round(steps)
    return steps, step.epoch % 1 * steps
