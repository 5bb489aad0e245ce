"""What every channel of a model is worth: how far its answers move when the channel is gone.

UP-ViTs, Yu, Wu, "A Unified Pruning Framework for Vision Transformers", arXiv 2111.15127. The worth
of a channel is the sum over a few training images of KL(p || q), p being the probabilities of the
whole model and q those of the model without the channel, all other weights unchanged. A channel of
the embedding is really removed, so that norms are over one less; one of attention is as good as
zero in queries, keys and values, and heads keep their scale.

`slow` does as this says for any family with width tables. `importances` gives the same numbers
sooner where the model is a plain transformer: each block begins with its remembered input, a neuron
is a product of two vectors taken off the block's output, a channel of attention one taken off one
head's scores, the embedding's are left out of norms by a mask, many candidates go through the
rest of the model as one batch, and of the last block only the tokens that are read are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.layers.attention import Attention
from vitrail.layers.ffn import Mlp
from vitrail.layers.residual import Block
from vitrail.layers.tokens import FirstToken, Mean
from vitrail.models.trunk.backbone import Backbone, Isotropic
from vitrail.models.trunk.widths import HEADS, INNER, Cut, places, sizes, sliced

# Numbers of the widest map that all candidates of a batch may have together.
ROOM = 1 << 22
Advance = Callable[[int], None]


def divergence(whole: Tensor, others: Tensor) -> Tensor:
    """Return KL(whole || other) for logits (b, K) and (..., b, K), summed over the b images."""
    p = whole.log_softmax(-1)
    return (p.exp() * (p - others.log_softmax(-1))).sum((-1, -2))


def candidates(model: Backbone) -> int:
    """Return of how many channels `importances` tells."""
    return sum(n for width, n in sizes(model).items() if not width.startswith(HEADS + "."))


def importances(
    model: Backbone, batches: Sequence[Tensor], advance: Advance = lambda n: None
) -> dict[str, Tensor]:
    """Return for every width the importance of its channels (n,), summed over all images.

    `batches` are normalised images (b, C, H, W) on the model's device, which is in eval mode;
    `advance` hears how many channels are done, for each batch.
    """
    found = {w: torch.zeros(n) for w, n in sizes(model).items() if not w.startswith(HEADS + ".")}
    quick = _Quick(model) if isinstance(model, Isotropic) and _Quick.fits(model) else None
    with torch.no_grad():
        for images in batches:
            parts = quick.importances(images) if quick else slow(model, images)
            for width, channels, values in parts:
                if found[width].dtype != values.dtype:
                    found[width] = found[width].to(values.dtype)
                found[width][channels] += values.cpu()
                advance(len(channels))
    return found


Part = tuple[str, list[int], Tensor]


def slow(model: Backbone, images: Tensor, only: Sequence[tuple[str, int]] = ()) -> Iterator[Part]:
    """Give the importance of channels for images (b, C, H, W), one model for each.

    `only` names some (width, channel) in place of all.
    """
    whole, known = model(images), sizes(model)
    every = [(w, c) for w, n in known.items() if not w.startswith(HEADS + ".") for c in range(n)]
    for width, channel in only or every:
        if width.startswith(INNER + "."):
            other = _silent(model, width, channel)
        else:
            rest = tuple(c for c in range(known[width]) if c != channel)
            other = sliced(model, Cut({width: rest}))
        yield width, [channel], divergence(whole, other(images))[None]


def _silent(model: Backbone, width: str, channel: int) -> Backbone:
    """Return a copy of the model in which a channel is zero wherever it is made."""
    copy = deepcopy(model)
    state = copy.state_dict()
    for place in places(model):
        if place.width == width:
            state[place.tensor].select(place.axis, place.start + channel).zero_()
    return copy


class _Quick:
    """A plain pre-norm transformer, run from anywhere and with channels missing."""

    def __init__(self, model: Isotropic) -> None:
        self.model = model
        self.blocks: list[Any] = list(model.blocks)
        # Of a class token alone the last block is computed for it alone.
        self.read = 1 if isinstance(model.pool, FirstToken) else None

    @staticmethod
    def fits(model: Isotropic) -> bool:
        """Return whether a model is made of what this knows, and of nothing else."""
        return (
            type(model).embedding is Isotropic.embedding
            and isinstance(model.pool, FirstToken | Mean)
            and isinstance(model.norm, nn.LayerNorm)
            and all(
                type(block) is Block
                and type(block.mixer) is Attention
                and type(block.ffn) is Mlp
                and isinstance(block.norm1, nn.LayerNorm)
                and isinstance(block.norm2, nn.LayerNorm)
                and isinstance(block.scale1, nn.Identity)
                for block in model.blocks
            )
        )

    def importances(self, images: Tensor) -> Iterator[Part]:
        """Give the importance of every channel for images (b, C, H, W), many at a time."""
        inputs = [self.model.embed(images)]
        for block in self.blocks:
            inputs.append(block(inputs[-1]))
        whole = self.model.head(self.model.pool(self.model.norm(inputs[-1])))
        yield from self._embedding(inputs[0], whole)
        for number in range(len(self.blocks)):
            yield from self._attention(number, inputs[number], whole)
            yield from self._neurons(number, inputs[number], whole)

    def _portions(self, count: int, x: Tensor, widest: int) -> Iterator[list[int]]:
        """Divide channels into as many at a time as there is room for."""
        size = max(1, ROOM // (x.shape[0] * x.shape[1] * widest))
        for start in range(0, count, size):
            yield list(range(start, min(count, start + size)))

    @property
    def _widest(self) -> int:
        return max(block.ffn.fc1.out_features for block in self.blocks)

    def _told(self, width: str, some: list[int], x: Tensor, after: int, whole: Tensor) -> Part:
        """Run (c, b, n, d), what `c` candidates give after block `after`, to their importance."""
        flat = x.flatten(0, 1)
        for block in self.blocks[after + 1 : -1]:
            flat = block(flat)
        if after + 1 < len(self.blocks):
            flat = self._last(flat)
        logits = self.model.head(self.model.pool(self.model.norm(flat)))
        return width, some, divergence(whole, logits.unflatten(0, x.shape[:2]))

    def _last(self, x: Tensor) -> Tensor:
        """Run the last block (b, n, d), for the tokens that are read."""
        block = self.blocks[-1]
        if self.read is None:
            return block(x)
        mixer, y = block.mixer, block.norm1(x)
        inner = mixer.proj.in_features
        weight, bias = mixer.qkv.weight, mixer.qkv.bias
        first, rest = (None, None) if bias is None else (bias[:inner], bias[inner:])
        q = _by_head(F.linear(y[:, : self.read], weight[:inner], first), mixer.heads)
        k, v = F.linear(y, weight[inner:], rest).chunk(2, -1)
        k, v = _by_head(k, mixer.heads), _by_head(v, mixer.heads)
        mixed = F.scaled_dot_product_attention(q, k, v, scale=mixer.scale)
        x = x[:, : self.read] + mixer.proj(mixed.transpose(1, 2).flatten(2))
        return x + block.ffn(block.norm2(x))

    def _neurons(self, number: int, x: Tensor, whole: Tensor) -> Iterator[Part]:
        """Yield what each neuron is worth: without neuron j the block gives a_j w_j less, its
        activation and its column of fc2.
        """
        block, width = self.blocks[number], f"hidden.{number}"
        x = x + block.mixer(block.norm1(x))
        if number == len(self.blocks) - 1 and self.read:
            x = x[:, : self.read]
        inside = block.ffn.act(block.ffn.fc1(block.norm2(x)))
        x = x + block.ffn.fc2(inside)
        columns = block.ffn.fc2.weight
        for some in self._portions(inside.shape[-1], x, self._widest):
            less = inside[..., some].permute(2, 0, 1)[..., None] * columns.T[some][:, None, None]
            yield self._told(width, some, x - less, number, whole)

    def _attention(self, number: int, x: Tensor, whole: Tensor) -> Iterator[Part]:
        """Yield what each channel of the heads is worth: without channel j the scores of its head
        are q_j k_j' less, and v_j is not there.
        """
        block, width = self.blocks[number], f"{INNER}.{number}"
        mixer = block.mixer
        q, k, v = mixer._heads(block.norm1(x))
        usual = x + mixer(block.norm1(x))
        if number == len(self.blocks) - 1 and self.read:
            q, usual = q[:, :, : self.read], usual[:, : self.read]
        heads, own = q.shape[1], q.shape[-1]
        scale = own**-0.5 if mixer.scale is None else mixer.scale
        columns = mixer.proj.weight.unflatten(1, (heads, own))
        for head in range(heads):
            qh, kh, vh = q[:, head], k[:, head], v[:, head]
            scores = scale * qh @ kh.mT
            out, weights = scores.softmax(-1) @ vh, columns[:, head]
            for some in self._portions(own, x, max(self._widest, x.shape[1])):
                less = scale * torch.einsum("bqc,bkc->cbqk", qh[..., some], kh[..., some])
                mixed = (scores - less).softmax(-1) @ vh
                for at, channel in enumerate(some):
                    mixed[at, ..., channel] = 0
                y = usual + (mixed - out) @ weights.T
                y = y + block.ffn(block.norm2(y))
                yield self._told(width, [head * own + c for c in some], y, number, whole)

    def _embedding(self, x: Tensor, whole: Tensor) -> Iterator[Part]:
        """Yield what each channel of the embedding is worth: without one, it is zero everywhere,
        and norms do not count it.
        """
        for some in self._portions(x.shape[-1], x, self._widest):
            mask = torch.ones(len(some), x.shape[-1], dtype=x.dtype, device=x.device)
            mask[range(len(some)), some] = 0
            mask = mask.repeat_interleave(x.shape[0], 0)[:, None]
            y = x.repeat(len(some), 1, 1) * mask
            for block in self.blocks:
                y = y + mask * block.mixer(_masked(block.norm1, y, mask))
                y = y + mask * block.ffn(_masked(block.norm2, y, mask))
            y = _masked(self.model.norm, y, mask)
            logits = self.model.head(self.model.pool(y))
            yield "dim", some, divergence(whole, logits.unflatten(0, (len(some), x.shape[0])))


def _by_head(x: Tensor, heads: int) -> Tensor:
    """Turn (b, n, heads d) into (b, heads, n, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _masked(norm: Any, x: Tensor, mask: Tensor) -> Tensor:
    """Apply a LayerNorm over the channels that are there; the others, which are zero, stay zero."""
    count = mask.sum(-1, keepdim=True)
    centred = (x - x.sum(-1, keepdim=True) / count) * mask
    spread = centred.square().sum(-1, keepdim=True) / count
    return (centred * (spread + norm.eps).rsqrt() * norm.weight + norm.bias) * mask
