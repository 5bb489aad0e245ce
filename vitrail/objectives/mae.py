"""MAE: an encoder sees a quarter of the patches, a small decoder paints the rest.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv 2111.06377. The
encoder computes the visible patches alone. Pixels to paint are normalised by each patch's own mean
and deviation, and the loss is the squared error of the hidden patches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.layers.attention import Attention
from vitrail.layers.ffn import Mlp
from vitrail.layers.normal import Normal
from vitrail.layers.position import sincos_2d
from vitrail.layers.residual import Block, Blocks
from vitrail.objectives.context import Context
from vitrail.objectives.parts.draws import uniform
from vitrail.objectives.parts.tokens import grid, prefix, require_patches
from vitrail.objectives.parts.views import View, draw_for, make_view
from vitrail.training.batch import Batch
from vitrail.training.objective import Objective, Step

_STILL = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Mae:
    """Minimises the squared error of hidden patches, a share `ratio` of all, as a decoder paints
    them.

    The decoder has `depth` blocks of width `dim` with `heads` heads; it is thrown away afterwards.

        vitrail pretrain photos/ --method mae --set objective.ratio=0.6
    """

    ratio: float = 0.75
    dim: int = 512
    depth: int = 8
    heads: int = 16
    view: View = field(default_factory=lambda: View((0.2, 1.0), jitter=_STILL, grey=0.0))

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ConfigError(f"ratio {self.ratio} is not between 0 and 1: 0.75 is usual")
        if self.depth < 1 or self.heads < 1 or self.dim % (4 * self.heads):
            raise ConfigError(
                f"a decoder of dim {self.dim}, depth {self.depth} and heads {self.heads} cannot be "
                "made: give a dim that is a multiple of 4 times heads"
            )

    def build(self, model: Any, context: Context) -> Objective:
        """Make the module that the loop calls. Raises ConfigError for a model without patches, or
        one that needs all of them."""
        require_patches(model, "mae")
        return Painting(model, self, context.normal)


class Painting(Objective):
    """Maps a batch to `{"loss"}`, the mean over hidden patches of the squared error."""

    def __init__(self, model: Any, value: Mae, normal: Normal) -> None:
        super().__init__()
        self.value, self.normal = value, normal
        config = model.config
        self.patch = model.levels[-1].stride
        width = model.levels[-1].channels
        self.prefix = prefix(model)
        self.widen = nn.Linear(width, value.dim)
        self.token = nn.Parameter(torch.zeros(value.dim))
        nn.init.normal_(self.token, std=0.02)
        self.blocks = Blocks(
            Block(value.dim, Attention(value.dim, value.heads), Mlp(value.dim, 4 * value.dim))
            for _ in range(value.depth)
        )
        self.norm = nn.LayerNorm(value.dim)
        self.paint = nn.Linear(value.dim, self.patch**2 * config.channels)
        _try_some(model)

    def forward(self, model: Any, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return the loss, a mean over the batch."""
        pixels = self.normal.undo(batch.images)
        size = pixels.shape[-2], pixels.shape[-1]
        drawn = draw_for(batch.indices, step, 0)
        images = self.normal.apply(make_view(pixels, self.value.view, size, drawn))
        patches = (size[0] // self.patch) * (size[1] // self.patch)
        order = uniform(batch.indices, step, 40, patches).argsort(1)
        return {"loss": self.painted(model, images, order)}

    def painted(self, model: Any, images: Tensor, order: Tensor) -> Tensor:
        """Return the loss where the first patches of `order` (B, N) are seen and the rest
        painted."""
        seen = order.shape[1] - int(order.shape[1] * self.value.ratio)
        tokens = encoded(model, images, order[:, :seen])
        x, places = self.widen(tokens), grid(model, images)
        whole = self.token.to(x).expand(len(x), order.shape[1], -1)
        index = order[:, :seen, None].expand(-1, -1, x.shape[-1])
        whole = whole.scatter(1, index, x[:, self.prefix :])
        whole = whole + sincos_2d(places, x.shape[-1]).to(x)
        x = self.norm(self.blocks(torch.cat([x[:, : self.prefix], whole], 1)))[:, self.prefix :]
        hidden = order[:, seen:, None]
        said = self.paint(x).gather(1, hidden.expand(-1, -1, self.paint.out_features))
        wanted = self.wanted(images).gather(1, hidden.expand_as(said))
        return (said - wanted).square().mean()

    def wanted(self, images: Tensor) -> Tensor:
        """Return what is to be painted: patches (B, N, p p C), each with mean 0 and deviation 1."""
        p = self.patch
        x = images.unflatten(3, (-1, p)).unflatten(2, (-1, p)).permute(0, 2, 4, 3, 5, 1)
        x = x.flatten(3).flatten(1, 2)
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-6).sqrt()


def encoded(model: Any, images: Tensor, places: Tensor) -> Tensor:
    """Return the tokens of some patches `places` (B, k), behind the prefix: (B, prefix + k, C)."""
    x = model.embed.some(images, places)
    return model.norm(model.blocks(x))


@torch.no_grad()
def _try_some(model: Any) -> None:
    """Raise ConfigError for a model that cannot compute some of its patches."""
    config, mode, like = model.config, model.training, next(model.parameters())
    image = like.new_zeros(1, config.channels, *config.image)
    try:
        encoded(model.eval(), image, torch.arange(1, device=like.device)[None])
    except (ValueError, RuntimeError, TypeError) as error:
        raise ConfigError(
            f"mae computes the visible patches alone, and {type(model).__name__} needs all of "
            "them: take vit_ti16 or deit_tiny, or --method sit"
        ) from error
    finally:
        model.train(mode)
