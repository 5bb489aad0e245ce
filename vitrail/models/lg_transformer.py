"""LG-Transformer: a Swin whose every block also attends on coarser copies of its map.

Li et al., "Local-to-Global Self-Attention in Vision Transformers", 2021, arXiv 2107.04735.
A block runs window attention in parallel paths, each on a map half as fine as the one before,
until a window covers it: so all stages see from local to global. The paths' results are
brought back to the map's size and summed; norms and the MLP are shared.

The authors' weights were not at hand, so there is no table of their names. The published
parameters and operations of both models fix these readings: each path has its own q, k, v,
output and bias table, and neither down- nor up-sampling, sum or MLP adds a parameter. They
leave open and here are: mean pooling after the norm, bilinear up-sampling (half-pixel), every
path shifted in odd blocks where it has more than one window, Swin's stochastic depth. Odd
maps are pooled with the positions that there are (2x2, the last ones smaller) and padded to
whole windows path by path, so any image may be given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import channels_first, channels_last
from vitrail.layers.position import bicubic_grid
from vitrail.layers.windows import WindowAttention
from vitrail.models import swin
from vitrail.models.swin import Swin
from vitrail.models.trunk.backbone import Small, Variant
from vitrail.models.trunk.positions import Table


@dataclass(frozen=True)
class Config(swin.Config):
    """Sizes of a Swin, and the number of `paths` of each stage's blocks."""

    paths: tuple[int, ...] = (4, 3, 2, 1)


VARIANTS = {
    "lg_transformer_tiny": Variant(Config(), params_m=32.6, flops_g=4.8, top1=82.1),
    "lg_transformer_small": Variant(
        Config(depths=(2, 2, 18, 2), drop_path=0.3), params_m=61.0, flops_g=9.4, top1=83.3
    ),
}

SPACE = Small(
    Config(drop_path=0.05),
    {
        ("dim", "depths", "heads", "paths"): (
            (32, (2, 2), (2, 4), (2, 1)),
            (48, (2, 4), (2, 4), (2, 1)),
            (48, (2, 2, 4), (2, 4, 8), (3, 2, 1)),
        ),
        "patch": (2, 4, 8, 16),
    },
)

NAMES: dict[str, list] = {}
# Bias tables move only where an image is so small that a path's window changes.
POSITIONS = (
    Table("stem.position", lambda c: swin.grids(c)[0], bicubic_grid),
    Table(
        "stages.{i}.blocks.{j}.mixer.paths.{p}.bias.table",
        lambda c, i, j, p: (2 * min(c.window, *grids(c, i)[p]) - 1,) * 2,
        bicubic_grid,
        axes=(0,),
    ),
)


def grids(config: Config, stage: int) -> list[tuple[int, int]]:
    """Return the rows and columns of each path's map at the config's image, finest first."""
    h, w = swin.grids(config)[stage]
    return [(-(-h // 2**p), -(-w // 2**p)) for p in range(config.paths[stage])]


class LocalToGlobal(nn.Module):
    """The sum of `paths` over a map and its coarser copies: (B, h, w, C) to the same."""

    def __init__(self, paths: Sequence[nn.Module]) -> None:
        super().__init__()
        self.paths = nn.ModuleList(paths)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        size, total = x.shape[1:3], self.paths[0](x)
        for path in self.paths[1:]:
            x = channels_last(
                F.avg_pool2d(channels_first(x), 2, ceil_mode=True, count_include_pad=False)
            )
            y = F.interpolate(channels_first(path(x)), size, mode="bilinear", align_corners=False)
            total = total + channels_last(y)
        return total


class LGTransformer(Swin):
    """Swin's trunk around local-to-global mixers."""

    def __init__(self, config: Config) -> None:
        c = config
        if len(c.paths) != len(c.depths) or len(c.heads) != len(c.depths) or min(c.paths) < 1:
            raise ValueError(
                f"paths {c.paths}, depths {c.depths}, heads {c.heads}: expected one entry a "
                "stage each, and a path at least"
            )
        for stage, paths in enumerate(c.paths):
            if min(grids(c, stage)[-1]) < 2:
                h, w = c.image
                raise ValueError(
                    f"image is {h}x{w}; the last of {paths} paths of lg_transformer's stage "
                    f"{stage} would see a map of one row or column: take fewer paths, a smaller "
                    f"patch than {c.patch} or a larger image"
                )

        own = swin.widths(c)

        def mixer(i: int, j: int) -> nn.Module:
            return LocalToGlobal(
                [
                    WindowAttention(
                        c.dim * 2**i,
                        own[i][j].heads,
                        inner=own[i][j].inner,
                        window=c.window,
                        shifted=j % 2 == 1,
                        grid=grid,
                        qkv_bias=c.qkv_bias,
                    )
                    for grid in grids(c, i)
                ]
            )

        super().__init__(config, mixer)


MODEL = LGTransformer
