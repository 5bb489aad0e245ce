"""A stem whose patch size is chosen from outside: for good, or drawn for one step of a training."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from vitrail.layers.cache import Derived
from vitrail.layers.pi_resize import Size, pi_resize


class Flexible(Derived):
    """Cuts images into patches of `patch` pixels, with kernels that follow.

    `own` is the size that it was made for, `patches` are those that a training draws from. A
    drawn size holds until `train()` or `eval()` is called, so that evaluation never sees it.
    """

    room = 16
    own: int
    patches: tuple[int, ...] = ()
    _chosen: int | None = None
    _drawn: int | None = None

    @property
    def patch(self) -> int:
        """Return how many pixels of the image a token spans, down and across, now."""
        return self._drawn or self._chosen or self.own

    def choose(self, patch: int) -> None:
        """Cut patches of this size from now on."""
        self._chosen, self._drawn = patch, None

    def draw(self, patch: int) -> None:
        """Cut patches of this size until the mode is set again."""
        self._drawn = patch

    def train(self, mode: bool = True) -> Flexible:
        """Set the mode as nn.Module does, and forget what was drawn."""
        self._drawn = None
        super().train(mode)
        return self

    def _kernel(self, weight: Float[Tensor, "o i h w"], size: Size) -> Float[Tensor, "o i h2 w2"]:
        """Return the kernel of a size, kept for each while no gradients flow."""
        make: Callable[[], Tensor] = lambda: pi_resize(weight, size)  # noqa: E731
        return self._kept_or(make, ("kernel", size))
