"""UVC's first stage: weights, numbers that go, and gates of blocks learned under a budget.

Yu et al., "Unified Visual Transformer Compression", ICLR 2022, arXiv 2203.08243. What goes is in
`compression.uvc`; here are the primal and dual steps of

    min over weights, s, r, gates, max over y, p, z >= 0:
    loss + sum y least(s) + sum p least(r) + z (resource - budget)

A step lowers the loss of a network whose blocks run as far as their gates are drawn open (Gumbel),
shrinks the groups that are to go, moves s and r against their penalties and the budget, and the
multipliers the other way. In the first sixth of the training gates stand at a half and nothing is
counted yet, as in 5 of the authors' 30 epochs. As in their released code the rate of z stays 1, and
the resource has no gradient where it is further than 0.5 from the budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.compression import uvc
from vitrail.errors import ConfigError
from vitrail.objectives.context import Context
from vitrail.training.batch import Batch
from vitrail.training.objective import Frozen, Model, Objective, Step

# The authors' rates: of s and r, of y and p, of the gates and their share of the resource.
COUNTS, DUALS, GATES, SHARE, MOMENTUM, DECAY = 0.02, 1e-4, 0.1, 5e-4, 0.9, 1e-4
START, TEMPERATURE, REACH, WARM = 1e-3, 0.5, 0.5, 6
# The most that a count moves at once, as a share of its range.
ONCE = 1 / 20


@dataclass(frozen=True)
class Uvc:
    """Learns which heads, channels, neurons and blocks of a ViT or DeiT go.

    `teacher` is the run that it began as, of whose answers a divergence counts `share`; `budget`
    is the share of the multiply-adds that may stay; groups that are to go shrink at the `rate` of
    the weights; gates move once in `interval` steps. `pace` is for how many of the authors' 75,000
    steps one counts, where a training is shorter: no count moves by more than a twentieth of its
    range at once.

        vitrail compress RUN --method uvc --macs 50%
    """

    teacher: str = ""
    budget: float = 0.5
    share: float = 0.1
    rate: float = 1e-4
    interval: int = 50
    pace: float = 1.0
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.budget < 1:
            raise ConfigError(f"budget {self.budget} is not between 0 and 1: 0.5 is half of it")
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share {self.share} is not in [0, 1]: 0.1 is usual")
        if not self.rate > 0:
            raise ConfigError(f"rate {self.rate} is not above 0: give that of the weights")
        if not self.pace > 0:
            raise ConfigError(f"pace {self.pace} is not above 0: 1 is the authors'")
        if self.interval < 1:
            raise ConfigError(f"interval {self.interval} is below 1: 50 steps are usual")
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"smoothing {self.smoothing} is not in [0, 1): 0.1 is usual")

    def build(self, model: nn.Module, context: Context) -> Objective:
        """Open the teacher and make the module that the loop calls. Raises VitrailError."""
        sizes = uvc.sizes_of(model)  # pyright: ignore[reportArgumentType]
        return UvcLoss(context.open_model(self.teacher), self, sizes)


class UvcLoss(Objective):
    """Maps a plain transformer and a batch to the loss; its buffers are all that is learned of what
    goes, so that a snapshot has them."""

    s: Tensor
    r: Tensor
    gates: Tensor
    y: Tensor
    p: Tensor
    z: Tensor
    pull: Tensor
    speed: Tensor

    def __init__(self, teacher: nn.Module, value: Uvc, sizes: uvc.Sizes) -> None:
        super().__init__()
        self.teacher, self.value, self.sizes = Frozen(teacher), value, sizes
        blocks, heads = sizes.blocks, sizes.heads
        start = {
            "s": torch.zeros(blocks, 2), "r": torch.zeros(blocks, heads),
            "gates": torch.tensor([[-1.0, 1.0]]).repeat(blocks, 1),
            "y": torch.full((blocks, 2), START), "p": torch.full((blocks, heads), START),
            "z": torch.tensor(START),
            # Gradients of the gates since they moved last, and their momentum.
            "pull": torch.zeros(blocks, 2), "speed": torch.zeros(blocks, 2),
        }  # fmt: skip
        for name, tensor in start.items():
            self.register_buffer(name, tensor)
        self._leaf: Tensor | None = None

    def forward(self, model: Model, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return `{"loss", "labels", "teacher", "resource"}`, means over the batch."""
        logits = self._gated(model, batch.images, step)
        own = F.cross_entropy(logits, batch.targets, label_smoothing=self.value.smoothing)
        taught = self.teacher(batch.images).float().log_softmax(1)
        apart = F.kl_div(logits.log_softmax(1), taught, reduction="sum", log_target=True)
        theirs = apart / logits.numel()
        loss = (1 - self.value.share) * own + self.value.share * theirs
        return {"loss": loss, "labels": own, "teacher": theirs}

    def _gated(self, model: Any, images: Tensor, step: Step) -> Tensor:
        """Run every block as far as its gate is drawn open, and go around it as far as not."""
        if _warming(step):
            self._leaf, drawn = None, torch.full_like(self.gates, 0.5)
        else:
            # Micro-batches of one step share the leaf, so that their gradients add up.
            self._leaf = self.gates.clone().requires_grad_() if self._leaf is None else self._leaf
            drawn = F.gumbel_softmax(self._leaf, tau=TEMPERATURE)
        x = model.embed(images)
        for block, gate in zip(model.blocks, drawn, strict=True):
            x = gate[1] * block(x) + gate[0] * x
        logits = model.head(model.pool(model.norm(x)))
        logits = torch.stack(logits).mean(0) if isinstance(logits, tuple) else logits
        return logits.float()

    def after_step(self, model: nn.Module, step: Step) -> None:
        """Take the proximal, the primal and the dual step."""
        blocks: Any = model.blocks
        found = uvc.scores(model, self.sizes.heads)  # pyright: ignore[reportArgumentType]
        self._shrink(blocks, found)
        if _warming(step):
            return
        with torch.enable_grad():
            s, r, gates = (v.clone().requires_grad_() for v in (self.s, self.r, self.gates))
            for_s, for_r = uvc.penalties(s, r, self.y, self.p, found)
            # The multipliers' own gradients: what would go and is not zero yet.
            y, p = (v.clone().requires_grad_() for v in (self.y, self.p))
            sum(uvc.penalties(self.s, self.r, y, p, found)).backward()  # pyright: ignore
            runs = F.gumbel_softmax(gates, tau=TEMPERATURE)[:, 1]
            excess = uvc.resource(s, r, runs, found, self.sizes) - self.value.budget
            (for_s + for_r + self.z * excess.clamp(-REACH, REACH)).backward()
        self._count(s.grad, r.grad)  # pyright: ignore[reportArgumentType]
        own = self._leaf.grad if self._leaf is not None else None
        self._move_gates(own, gates.grad, step)  # pyright: ignore[reportArgumentType]
        self._leaf = None
        pace = self.value.pace
        assert y.grad is not None and p.grad is not None
        self.y.add_(DUALS * pace * y.grad).clamp_(min=0)
        self.p.add_(DUALS * pace * p.grad).clamp_(min=0)
        self.z.add_(pace * excess.detach()).clamp_(min=0)

    @torch.no_grad()
    def _shrink(self, blocks: Any, found: uvc.Scores) -> None:
        """Divide the columns that are to go, as the group penalties' closed form does."""
        rate = 2 * self.value.rate
        channels = 1 + rate * self.p[..., None] * ~uvc.kept(self.r, found.channels)
        heads = 1 + rate * self.y[:, :1] * ~uvc.kept(self.s[:, 0], found.heads)
        neurons = 1 + rate * self.y[:, 1:] * ~uvc.kept(self.s[:, 1], found.neurons)
        for block, of, mlp in zip(blocks, channels * heads[..., None], neurons, strict=True):
            block.mixer.proj.weight.div_(of.flatten())
            block.ffn.fc2.weight.div_(mlp)

    def _count(self, of_s: Tensor, of_r: Tensor) -> None:
        """Move s and r, so that at least one head, channel and neuron stays."""
        most = torch.tensor([self.sizes.heads, self.sizes.hidden], device=self.s.device) - 1 - 1e-6
        for value, grad, bound in ((self.s, of_s, most), (self.r, of_r, self.sizes.width - 1.0)):
            bounds = torch.zeros_like(value) + bound
            # Kind by kind: neurons, of which there are many, would wait for heads.
            largest = grad.abs().amax(0, keepdim=True).clamp(min=1)
            moved = COUNTS * self.value.pace * grad / largest
            moved = moved.clamp(-ONCE * bounds, ONCE * bounds)
            value.copy_((value - moved).clamp(torch.zeros_like(value), bounds))

    def _move_gates(self, own: Tensor | None, of: Tensor, step: Step) -> None:
        """Gather the gates' gradients, weighted towards the end of an interval, and step once."""
        at = step.number % self.value.interval
        loss = torch.zeros_like(of) if own is None else own
        self.pull.add_((loss + SHARE * of) * at / self.value.interval)
        if at == self.value.interval - 1:
            self.speed.mul_(MOMENTUM).add_(self.pull + DECAY * self.gates)
            self.gates.sub_(GATES * self.speed)
            self.pull.zero_()


def _warming(step: Step) -> bool:
    return step.number < step.total // WARM
