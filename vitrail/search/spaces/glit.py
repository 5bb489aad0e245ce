"""GLiT's space in its two levels: which heads of a block are local, then the details.

Chen et al., ICCV 2021, arXiv 2107.02960. Level 1 chooses how many thirds of each block's heads
attend, with plain details; level 2, for what was chosen, one of nine sizes a block. Together that
is 4^12 + 9^12 candidates instead of their product. On 224x224 it is the frame of GLiT-Tiny; smaller
images have six blocks of width 48.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from vitrail.measure.counts import Counts
from vitrail.models.glit import Config, decoded, plain
from vitrail.search.spaces.images import Images, cut
from vitrail.search.spaces.space import Gene, Genes, Row
from vitrail.search.supernets.glit import Super
from vitrail.search.supernets.indices import Prefix, Rule

THIRDS, DETAILS = (0, 1, 2, 3), tuple(range(9))
# Mixed blocks of one attending third are the cheapest, all-attention the dearest.
CHEAPEST, DEAREST = 1, 3


@dataclass(frozen=True)
class GLiT:
    """The space in the frame of `base`; `thirds` are what level 1 chose, None at level 1."""

    name: ClassVar[str] = "glit"
    title: ClassVar[str] = "GLiT"
    paper: ClassVar[str] = "arXiv 2107.02960"

    base: Config
    thirds: tuple[int, ...] | None = None

    @classmethod
    def of(cls, images: Images) -> GLiT:
        """Return level 1 for images. Raises ConfigError where no patch divides them."""
        large = min(images.size) >= 160
        patch = cut(images, (16,) if large else (), cls.title)[0]
        dim, blocks = (192, 12) if large else (48, 6)
        base = Config(
            dim=dim, heads=3, patch=patch, drop_path=0.0, image=images.size,
            channels=images.channels, classes=images.classes, **plain((CHEAPEST,) * blocks, 3),
        )  # fmt: skip
        return cls(base)

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        blocks = range(len(self.base.local))
        if self.thirds is None:
            return tuple(Gene(f"attending thirds {i}", THIRDS) for i in blocks)
        return tuple(Gene(f"details {i}", DETAILS) for i in blocks)

    @property
    def rules(self) -> tuple[Rule, ...]:
        return (Prefix(),)

    @property
    def summed(self) -> bool:
        return False

    @property
    def ends(self) -> tuple[Genes, Genes]:
        n = len(self.base.local)
        if self.thirds is None:
            return (CHEAPEST,) * n, (DEAREST,) * n
        return (0,) * n, (len(DETAILS) - 1,) * n

    def canonical(self, genes: Genes) -> Genes:
        return genes

    def config(self, genes: Genes) -> Config:
        heads = self.base.heads
        if self.thirds is None:
            return replace(self.base, **plain(genes, heads))
        return replace(self.base, **decoded(self.thirds, genes, heads))

    def count(self, config: Config) -> Counts:
        c, n = config, (config.image[0] // config.patch) * (config.image[1] // config.patch)
        pixels, tokens, dim = c.channels * c.patch**2, n + 1, c.dim
        params = dim * (pixels + 1) + dim * tokens + 2 * dim + c.classes * (dim + 1)
        macs = n * pixels * dim + dim * c.classes
        for i, local in enumerate(c.local):
            share = dim * (c.heads - local) // c.heads
            inner, hidden = int(c.attention_ratios[i] * share), int(c.mlp_ratios[i] * dim)
            params += 4 * dim + hidden * (dim + 1) + dim * (hidden + 1)
            macs += 2 * tokens * dim * hidden
            if share:
                params += 3 * inner * (share + 1) + share * (inner + 1)
                macs += 4 * tokens * share * inner + 2 * tokens**2 * inner
            if local:
                rest = dim - share
                width, kernel = int(c.local_ratios[i] * rest), c.kernels[i]
                params += 2 * width * (rest + 1) + width * (kernel + 3) + rest * (width + 1)
                macs += tokens * width * (3 * rest + kernel)
        return Counts(params, macs)

    def supernet(self) -> Super:
        n, options = len(self.base.local), THIRDS if self.thirds is None else DETAILS
        return Super([self.config((option,) * n) for option in options])

    def fitted(self, costs: Callable[[GLiT], float], low: float, high: float) -> GLiT:
        """Return the space itself: the paper rejects what is over the limit and fits nothing."""
        return self

    def deeper(self, genes: Genes) -> GLiT | None:
        """Return level 2 for what level 1 chose."""
        return replace(self, thirds=genes) if self.thirds is None else None

    def described(self, config: Config) -> dict[str, str]:
        return {
            "patches": f"{config.patch} x {config.patch} pixels",
            "width of the tokens": str(config.dim),
            "heads that attend": f"{sum(config.heads - n for n in config.local)} of "
            f"{config.heads * len(config.local)}",
        }

    def rows(self, config: Config) -> list[Row]:
        c, found = config, []
        for i, local in enumerate(c.local):
            share = c.dim * (c.heads - local) // c.heads
            parts, note = [("MLP", float(int(c.mlp_ratios[i] * c.dim)))], []
            if local:
                parts.insert(0, ("convolution", float(int(c.local_ratios[i] * (c.dim - share)))))
                note.insert(0, f"kernel {c.kernels[i]}")
            if share:
                parts.insert(0, ("attention", float(int(c.attention_ratios[i] * share))))
                note.insert(0, f"{c.heads - local} heads")
            found.append(Row(f"{i + 1}", tuple(parts), ", ".join(note)))
        return found
