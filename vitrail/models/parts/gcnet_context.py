"""GCNet's blocks: global context, simplified non-local, and non-local in its four forms.

Cao et al., ICCV 2019 workshops, arXiv 1904.11492; Wang et al., "Non-local Neural Networks", CVPR
2018, arXiv 1711.07971. All take a map (B, C, H, W), a view of channels-last memory, and add to it
what comes from all of its positions, or multiply it by that.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import attend, attention_weights
from vitrail.layers.conv import affine, channels_first, channels_last
from vitrail.layers.gates import squeezed
from vitrail.layers.linear import Linear, linear

FORMS = ("gaussian", "embedded_gaussian", "dot_product", "concatenation")


def _tokens(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n c"]:
    """View a map as its positions."""
    return channels_last(x).flatten(1, 2)


class AttentionPool(nn.Module):
    """The mean over positions with weights softmax(x w): (B, C, H, W) to (B, C).

    The bias shifts all logits alike and changes nothing; checkpoints have it.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mask = Linear(dim, 1)
        nn.init.kaiming_normal_(self.mask.weight)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
        tokens = _tokens(x)
        return (self._shares(tokens) @ tokens).squeeze(1)

    def weights(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 1 n"]:
        """Return where the context comes from: one row for all positions, of one head."""
        return self._shares(_tokens(x))[:, None]

    def _shares(self, tokens: Tensor) -> Tensor:
        exact = torch.promote_types(tokens.dtype, torch.float32)
        return self.mask(tokens).mT.softmax(-1, dtype=exact).to(tokens.dtype)


class MeanPool(nn.Module):
    """The plain mean over positions: (B, C, H, W) to (B, C)."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
        return squeezed(x).to(x.dtype)


class Transform(nn.Module):
    """Linear, LayerNorm, ReLU, linear: (B, C) to the same; zero at the start."""

    def __init__(self, dim: int, hidden: int, eps: float) -> None:
        super().__init__()
        self.fc1, self.norm, self.act = Linear(dim, hidden), nn.LayerNorm(hidden, eps), nn.ReLU()
        self.fc2 = zeroed(Linear(hidden, dim))

    def forward(self, x: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:
        return self.fc2(self.act(self.norm(self.fc1(x))))


def zeroed(layer: Linear) -> Linear:
    """Set the layer to zero: a block that adds what it makes then begins as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class Context(nn.Module):
    """x * factor(c) + term(c), for a context c of x; (B, C, H, W) to the same. Subclasses write
    `shared`."""

    def shared(
        self, x: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b c 1 1"] | None, Float[Tensor, "b c ..."] | None]:
        """Return the factor and the term, where there are such."""
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        factor, term = self.shared(x)
        if factor is None:
            return x if term is None else x + term
        return x * factor if term is None else torch.addcmul(term, x, factor)

    def joined(
        self, x: Float[Tensor, "b c h w"], other: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Return what forward makes plus `other`, without a pass of its own for the factor."""
        factor, term = self.shared(x)
        y = x + other if factor is None else torch.addcmul(other, x, factor)
        return y if term is None else y.add_(term)  # nobody else holds y


class GlobalContext(Context):
    """Context through one transform for its sigmoid factor, through another for its term."""

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        pooling: str = "att",
        fusion: tuple[str, ...] = ("add",),
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if pooling not in ("att", "avg"):
            raise ValueError(f"pooling is {pooling!r}: expected att or avg")
        if not fusion or not set(fusion) <= {"mul", "add"}:
            raise ValueError(f"fusion is {fusion}: expected mul, add or both")
        self.pool = AttentionPool(dim) if pooling == "att" else MeanPool()
        self.mul, self.add = (
            Transform(dim, hidden, eps) if name in fusion else None for name in ("mul", "add")
        )

    def shared(
        self, x: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b c 1 1"] | None, Float[Tensor, "b c 1 1"] | None]:
        context = self.pool(x)
        factor = None if self.mul is None else self.mul(context).sigmoid()[:, :, None, None]
        term = None if self.add is None else self.add(context)[:, :, None, None]
        return factor, term


class Simplified(Context):
    """Simplified non-local: the same linear layer of the same context for all positions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pool, self.value = AttentionPool(dim), zeroed(Linear(dim, dim))

    def shared(self, x: Float[Tensor, "b c h w"]) -> tuple[None, Float[Tensor, "b c 1 1"]]:
        return None, self.value(self.pool(x))[:, :, None, None]


class NonLocal(Context):
    """x plus what every position gathers from all: (B, C, H, W) to the same.

    theta, phi and g are one linear layer, packed [theta | phi | g], of `inner` each; "gaussian"
    has g alone and compares x itself. Weights are a softmax of (theta . phi) times `scale`;
    in "dot_product" (theta . phi) / N, in "concatenation" relu(w [theta, phi]) / N.
    """

    def __init__(
        self,
        dim: int,
        inner: int,
        *,
        form: str = "embedded_gaussian",
        scale: float = 1.0,
        normed: bool = False,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form is {form!r}: expected {', '.join(FORMS)}")
        self.form, self.scale, self.inner = form, scale, inner
        self.project = Linear(dim, inner if form == "gaussian" else 3 * inner)
        self.pair = Linear(2 * inner, 1, bias=False) if form == "concatenation" else None
        leave = Linear(inner, dim)
        self.leave, self.norm = leave if normed else zeroed(leave), nn.Identity()
        if normed:
            self.norm = nn.BatchNorm2d(dim)
            nn.init.zeros_(self.norm.weight)

    def shared(self, x: Float[Tensor, "b c h w"]) -> tuple[None, Float[Tensor, "b c h w"]]:
        theta, phi, g = self._parts(x)
        n = g.shape[1]
        if self.form.endswith("gaussian"):
            y = attend(theta[:, None], phi[:, None], g[:, None], scale=self.scale)[:, 0]
        elif self.form == "dot_product" and n > self.inner:
            y = theta @ (phi.mT @ (g / n))  # the same product, without N x N weights
        else:
            y = self._weights(theta, phi) @ g
        return None, self.norm(channels_first(self.leave(y).view(*channels_last(x).shape)))

    def weights(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 n n"]:
        """Return what each position (row) takes of each; rows sum to 1 in
        the Gaussian forms alone.
        """
        theta, phi, _ = self._parts(x)
        return self._weights(theta, phi)[:, None]

    def deployed(self) -> nn.Module:
        """Fold the BatchNorm into the layer before it."""
        if isinstance(self.norm, nn.BatchNorm2d):
            scale, shift = affine(self.norm)
            weight = self.leave.weight * scale[:, None]
            self.leave = linear(weight, self.leave.bias * scale + shift)
            self.norm = nn.Identity()
        return self

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tokens = _tokens(x)
        if self.form == "gaussian":
            return tokens, tokens, self.project(tokens)
        return self.project(tokens).chunk(3, -1)

    def _weights(self, theta: Tensor, phi: Tensor) -> Tensor:
        if self.form.endswith("gaussian"):
            return attention_weights(theta[:, None], phi[:, None], scale=self.scale)[:, 0]
        if self.pair is None:
            return theta @ phi.mT / theta.shape[1]
        left, right = self.pair.weight[0].chunk(2)
        return ((theta @ left)[:, :, None] + (phi @ right)[:, None]).relu() / theta.shape[1]
