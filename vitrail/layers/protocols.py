"""What a module may offer to those around it: the map of the house's inner language.

Nobody inherits from these. A module that has the method offers it, `isinstance` asks for it, and
who does not find it does the plain thing: two passes for one, a scale that stays where it is.
Maps are (B, *S, C), and (B, C, H, W) where convolutions chain.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn


@runtime_checkable
class Deployable(Protocol):
    """Has a cheaper form that computes the same in eval mode, e.g. a convolution with its norm.

    `fold.deploy` asks every module of a copy, innermost first: a module sees its children's
    deployed forms, may change itself and return itself, and keeps nothing for training.
    """

    def deployed(self) -> nn.Module: ...


@runtime_checkable
class Absorbs(Protocol):
    """Can multiply its own output's channels by `scale` (C,), for good and without gradients.

    A branch of a residual block that ends in a linear layer takes its LayerScale so, by
    `residual.absorbed`; one that cannot has the scale behind it.
    """

    def absorb(self, scale: Float[Tensor, "c"]) -> None: ...


@runtime_checkable
class AbsorbsNorm(Protocol):
    """Can multiply its own output's channels by `scale` and add `shift`, both (C,), for good.

    A mixer in a ResNet's block takes the BatchNorm behind it so; one that cannot gets a scale
    and a shift behind it.
    """

    def absorb_norm(self, scale: Float[Tensor, "c"], shift: Float[Tensor, "c"]) -> None: ...


@runtime_checkable
class Patchwise(Protocol):
    """Can embed some patches of an image, where each token depends on its own patch alone.

    `places` (B, k) are numbers of patches, row by row; the result (B, prefix + k, C) is what
    `forward` gives at them behind the prefix tokens, up to rounding, for less work.
    """

    def some(self, image: Tensor, places: Tensor) -> Tensor: ...


@runtime_checkable
class Restores(Protocol):
    """Gives only some of an image's tokens, and can put what became of them back on the grid.

    `restored` maps (B, prefix + k, C) to (B, prefix + n, C), with zeros for what was left out of
    the last image.
    """

    def restored(self, tokens: Tensor) -> Tensor: ...


@runtime_checkable
class Attends(Protocol):
    """Says who looks at whom: (B, heads, queries, keys) for the inputs of its `forward`.

    Rows sum to one. Explanations, and objectives that need maps, ask for them; `forward` never
    has a flag for it, and its own attention may be fused.
    """

    def weights(self, *inputs: Any) -> Tensor: ...


@runtime_checkable
class Fuses(Protocol):
    """Computes act(self(x)) in one pass over the result where the kernel knows the activation.

    Gives the same as the two passes, up to rounding. Linear layers, convolutions, and both with
    their BatchNorm have it.
    """

    def then(self, x: Tensor, act: nn.Module) -> Tensor: ...


@runtime_checkable
class Joins(Protocol):
    """Computes act(self(x) + other), the end of a residual block, in one pass as `Fuses`.

    `other` has the shape of the result. Convolutions, and those with a BatchNorm, have it.
    """

    def joined(self, x: Tensor, other: Tensor, act: nn.Module) -> Tensor: ...


@runtime_checkable
class Adds(Protocol):
    """Computes self(x) + other in the pass that multiplies x by its gate.

    `gates.Gate` has it, and what stands in its place in a ResNet's block; the activation
    follows by itself.
    """

    def joined(self, x: Tensor, other: Tensor) -> Tensor: ...


@runtime_checkable
class Scales(Protocol):
    """Returns a layer of the same kind whose outputs are `scale` (C',) times its own.

    The new layer takes no gradients; the old one is left as it is. It is how `absorb` is
    written where a branch ends in a linear layer.
    """

    def scaled(self, scale: Float[Tensor, "c2"]) -> nn.Module: ...


@runtime_checkable
class Bracketed(Protocol):
    """Can take a scale and a shift (C,) before its input or behind its output, for good.

    A network of series, whose norms stand between its layers, gives its BatchNorms so to the
    feed-forward layers around them.
    """

    def preceded(self, scale: Float[Tensor, "c"], shift: Float[Tensor, "c"]) -> None: ...

    def followed(self, scale: Float[Tensor, "c"], shift: Float[Tensor, "c"]) -> None: ...
