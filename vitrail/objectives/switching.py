"""PriViT's joint training: weights and switches, until budgets of what is dear are met.

Dhyani et al., "PriViT: Vision Transformers for Fast Private Inference", TMLR 2024, arXiv
2310.04604. With a and b the switches of GELUs and softmaxes it minimises

    CE + T^2 KL(teacher || model at temperature T) + for_gelus sum |a| + for_softmaxes sum |b|

After every interval (the authors' is an epoch) from the fifth on a multiplier grows by a tenth
where its kind fell too little. A kind that keeps its budget is set to 0 and 1 and stays; then the
weights alone go on. The divergence is a mean over the batch, of the images that the model sees
(the authors' teacher sees them before they are mixed). Switches are counted after every step, not
every epoch, so that a short training does not fall far below its budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.layers.switches import flattened, keep, on, penalties, put, switches
from vitrail.objectives.context import Context
from vitrail.training.batch import Batch
from vitrail.training.objective import Frozen, Model, Objective, Step

# Intervals in which multipliers stay as they are.
STILL = 5


@dataclass(frozen=True)
class Switching:
    """Learns which GELUs and softmaxes of a ViT with switches stay, and then its weights.

    `teacher` is the run that it began as. `gelus` and `softmaxes` are the most switches that may
    stay on; of what is still on at step `joint` the largest stay. Switches learn at `pace` times
    the rate of the weights. `first` is where both multipliers begin; a multiplier grows by `growth`
    after an interval of `interval` steps in which its kind fell by less than `fall_gelus` or
    `fall_softmaxes`. With `drawn` a coin says after the first step which stay.

        vitrail compress RUN --method privit --gelus 25% --softmaxes 25%
    """

    teacher: str = ""
    gelus: int = 0
    softmaxes: int = 0
    joint: int = 1000
    interval: int = 780
    pace: float = 1.0
    first: float = 3e-5
    growth: float = 1.1
    fall_gelus: int = 1
    fall_softmaxes: int = 200
    temperature: float = 4.0
    drawn: bool = False

    def __post_init__(self) -> None:
        for name in ("gelus", "softmaxes"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} {getattr(self, name)} is below 0: 0 keeps none of them")
        for name in ("joint", "interval"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)} is below 1: give steps")
        for name in ("pace", "temperature"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} {getattr(self, name)} is not above 0: 1 is plain")
        if not self.first >= 0:
            raise ConfigError(f"first {self.first} is below 0: 3e-5 is the authors'")
        if not self.growth >= 1:
            raise ConfigError(f"growth {self.growth} is below 1: multipliers rise, 1.1 is usual")

    def build(self, model: nn.Module, context: Context) -> Objective:
        """Open the teacher and make the module that the loop calls. Raises VitrailError."""
        if not all(switches(model)):
            raise ConfigError("objective switching needs a model with switches: add methods=privit")
        return SwitchingLoss(context.open_model(self.teacher), self, model)


class SwitchingLoss(Objective):
    """Maps a model with switches and a batch to the loss.

    Multipliers, the fewest switches so far, which kind is settled and what of it stays are buffers,
    GELUs first, so that snapshots have them.
    """

    multipliers: Tensor
    fewest: Tensor
    settled: Tensor
    kept_gelus: Tensor
    kept_softmaxes: Tensor

    def __init__(self, teacher: nn.Module, value: Switching, model: nn.Module) -> None:
        super().__init__()
        self.teacher, self.value = Frozen(teacher), value
        theirs = {id(one) for kind in switches(model) for one in kind}
        self.paces = {
            f"model.{name}": value.pace for name, p in model.named_parameters() if id(p) in theirs
        }
        counted = [on(kind) for kind in switches(model)]
        for name, kind in zip(("kept_gelus", "kept_softmaxes"), switches(model), strict=True):
            self.register_buffer(name, flattened(kind))
        self.register_buffer("multipliers", torch.full((2,), value.first))
        self.register_buffer("fewest", torch.tensor(counted))
        self.register_buffer("settled", torch.zeros(2, dtype=torch.bool))

    def forward(self, model: Model, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return `{"loss", "labels", "teacher", "gelus", "softmaxes"}`, the last two as counts."""
        outputs = model(batch.images)
        logits = torch.stack(outputs).mean(0) if isinstance(outputs, tuple) else outputs
        logits, taught, t = (
            logits.float(),
            self.teacher(batch.images).float(),
            self.value.temperature,
        )
        own = F.cross_entropy(logits, batch.targets)
        theirs = t**2 * F.kl_div(
            (logits / t).log_softmax(1), (taught / t).log_softmax(1), reduction="batchmean",
            log_target=True,
        )  # fmt: skip
        inside: Any = model
        dear = torch.stack(penalties(inside)) * self.multipliers * ~self.settled
        told = dict(zip(("gelus", "softmaxes"), self.fewest.float(), strict=True))
        return {"loss": own + theirs + dear.sum(), "labels": own, "teacher": theirs} | told

    @torch.no_grad()
    def after_step(self, model: nn.Module, step: Step) -> None:
        """Settle a kind that keeps its budget, and raise the multiplier of one that does not."""
        value, done = self.value, step.number + 1
        kinds = zip(switches(model), (value.gelus, value.softmaxes), strict=True)
        falls, ends = (value.fall_gelus, value.fall_softmaxes), done % value.interval == 0
        for number, (kind, budget) in enumerate(kinds):
            kept = (self.kept_gelus, self.kept_softmaxes)[number]
            if self.settled[number]:
                # What its own gradient moved in this step is undone.
                put(kind, kept)
                continue
            if value.drawn:
                coin = torch.Generator().manual_seed(2 * step.seed + number)
                for one in kind:
                    one.copy_(torch.rand(one.shape, generator=coin))
            left = on(kind)
            if value.drawn or left <= budget or done >= value.joint:
                keep(kind, budget)
                kept.copy_(flattened(kind))
                self.settled[number], self.fewest[number] = True, on(kind)
            elif ends:
                if done >= STILL * value.interval and self.fewest[number] - left < falls[number]:
                    self.multipliers[number] *= value.growth
                self.fewest[number] = min(left, int(self.fewest[number]))
