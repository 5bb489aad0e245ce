"""AutoFormer's space: one width, one depth, and for each block heads and an MLP ratio.

Chen et al., ICCV 2021, arXiv 2107.00651. On 224x224 it is the paper's tiny space; smaller
images have smaller widths, two to six blocks, and one to three heads of 64 channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from vitrail.measure.counts import Counts
from vitrail.models.autoformer import REACH, WIDTH, Config
from vitrail.search.spaces.images import Images, cut
from vitrail.search.spaces.space import Gene, Genes, Row
from vitrail.search.supernets.autoformer import Super
from vitrail.search.supernets.indices import Prefix, Rule

# How likely a mutation changes a block's sizes, and width and depth: the authors'.
BLOCK, WHOLE = 0.2, 0.4


@dataclass(frozen=True)
class AutoFormer:
    """The space below `widest`: `dims`, `depths`, and for each block `heads` and `ratios`."""

    name: ClassVar[str] = "autoformer"
    title: ClassVar[str] = "AutoFormer"
    paper: ClassVar[str] = "arXiv 2107.00651"

    widest: Config
    dims: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    ratios: tuple[float, ...]

    @classmethod
    def of(cls, images: Images) -> AutoFormer:
        """Return the space for images. Raises ConfigError where no patch divides them."""
        large = min(images.size) >= 160
        patch = cut(images, (16,) if large else (), cls.title)[-1 if large else 0]
        dims, depths, heads, ratios = (48, 64, 80), (2, 3, 4, 5, 6), (1, 2, 3), (1.0, 2.0, 3.0)
        if large:
            dims, depths, heads, ratios = (192, 216, 240), (12, 13, 14), (3, 4), (3.5, 4.0)
        widest = Config(
            dim=dims[-1], heads=heads[-1:] * depths[-1], mlp_ratios=ratios[-1:] * depths[-1],
            patch=patch, drop_path=0.0, image=images.size, channels=images.channels,
            classes=images.classes,
        )  # fmt: skip
        return cls(widest, dims, depths, heads, ratios)

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        blocks = [
            gene
            for i in range(self.depths[-1])
            for gene in (
                Gene(f"heads {i}", self.heads, often=BLOCK),
                Gene(f"ratio {i}", self.ratios, often=BLOCK),
            )
        ]
        whole = Gene("width", self.dims, often=WHOLE), Gene("depth", self.depths, often=WHOLE)
        return (*whole, *blocks)

    @property
    def rules(self) -> tuple[Rule, ...]:
        return (Prefix(),)

    @property
    def summed(self) -> bool:
        return False

    @property
    def ends(self) -> tuple[Genes, Genes]:
        return (0,) * len(self.genes), tuple(len(gene.options) - 1 for gene in self.genes)

    def canonical(self, genes: Genes) -> Genes:
        used = 2 + 2 * self.depths[genes[1]]
        return (*genes[:used], *(0,) * (len(genes) - used))

    def config(self, genes: Genes) -> Config:
        depth = self.depths[genes[1]]
        blocks = genes[2 : 2 + 2 * depth]
        return replace(
            self.widest, dim=self.dims[genes[0]], heads=tuple(self.heads[i] for i in blocks[::2]),
            mlp_ratios=tuple(self.ratios[i] for i in blocks[1::2]),
        )  # fmt: skip

    def count(self, config: Config) -> Counts:
        c, n = config, (config.image[0] // config.patch) * (config.image[1] // config.patch)
        pixels, tokens, dim = c.channels * c.patch**2, n + 1, c.dim
        params = dim * (pixels + 1) + dim * tokens + 2 * dim + c.classes * (dim + 1)
        macs = n * pixels * dim + dim * c.classes
        for heads, ratio in zip(c.heads, c.mlp_ratios, strict=True):
            inner, hidden = WIDTH * heads, int(dim * ratio)
            params += 4 * dim + 3 * inner * (dim + 1) + dim * (inner + 1)
            params += hidden * (dim + 1) + dim * (hidden + 1) + 4 * WIDTH * (2 * REACH + 2)
            macs += tokens * dim * (4 * inner + 2 * hidden) + 4 * tokens**2 * inner
        return Counts(params, macs)

    def supernet(self) -> Super:
        return Super(self.widest)

    def fitted(self, costs: Callable[[AutoFormer], float], low: float, high: float) -> AutoFormer:
        """Return the space itself: the paper rejects what is over the limit and fits nothing."""
        return self

    def deeper(self, genes: Genes) -> AutoFormer | None:
        """Return None: there is one level."""
        return None

    def described(self, config: Config) -> dict[str, str]:
        return {
            "patches": f"{config.patch} x {config.patch} pixels",
            "width of the tokens": str(config.dim),
            "blocks": str(len(config.heads)),
        }

    def rows(self, config: Config) -> list[Row]:
        found = []
        for i, (heads, ratio) in enumerate(zip(config.heads, config.mlp_ratios, strict=True)):
            parts = (("attention", float(WIDTH * heads)), ("MLP", float(int(config.dim * ratio))))
            found.append(Row(f"{i + 1}", parts, f"{heads} head" + ("s" if heads > 1 else "")))
        return found
