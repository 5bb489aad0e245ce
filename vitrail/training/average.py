"""An exponential moving average of weights and buffers (Polyak averaging)."""

from __future__ import annotations

from copy import deepcopy

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """A copy of `model`, in eval mode, that follows it with weight `decay` on the past.

    The first steps take min(decay, (1 + t) / (10 + t)), so that the random start is forgotten
    soon. Integer buffers (a batch counter) are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = deepcopy(model).eval().requires_grad_(False)
        self._pairs = Pairs(self.model, model)

    def update(self, step: int) -> None:
        """Follow the model after its step number `step` (from 0)."""
        self._pairs.follow(self.decay, step)


class Pairs:
    """The tensors of a copy of a module beside those that it follows, while both stay in place."""

    def __init__(self, copy: nn.Module, model: nn.Module) -> None:
        ours, theirs = copy.state_dict(keep_vars=True), model.state_dict(keep_vars=True)
        names = {id(value): name for name, value in theirs.items()}.values()  # tied ones once
        # What takes no gradients stays as it was copied.
        names = [n for n in names if theirs[n].requires_grad or not _parameter(theirs[n])]
        floats = [name for name in names if theirs[name].is_floating_point()]
        self._slow: list[Tensor] = [ours[name].detach() for name in floats]
        self._fast: list[Tensor] = [theirs[name].detach() for name in floats]
        self._copied = [(ours[name], theirs[name]) for name in names if name not in floats]

    def follow(self, decay: float, step: int) -> None:
        """Move the copy after step number `step`: weight `decay`, at first less, is on its past."""
        decay = min(decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(self._slow, self._fast, step)
        for ours, theirs in self._copied:
            ours.copy_(theirs)


def _parameter(value: Tensor) -> bool:
    return isinstance(value, nn.Parameter)
