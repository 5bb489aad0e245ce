"""ViTAS's space: patch, one width, and for each slot heads or nothing, attention and MLP widths.

Su et al., ECCV 2022, arXiv 2106.13700. On 224x224 the sizes are the paper's (patches 14, 16, 32;
heads 3, 6, 12, 16; ten ratios of 384, 1440 and 1440; 16 slots); smaller images have smaller ones
in the same proportions. Sharing is "sides", the released code's (left and right, whose logits are
added in a step), "left" alone (AutoSlim's), or "cyclic", the second version's windows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal

from vitrail.measure.counts import Counts
from vitrail.models.vitas import Config
from vitrail.search.spaces.images import Images, cut
from vitrail.search.spaces.space import Gene, Genes, Row
from vitrail.search.supernets.indices import Circular, Prefix, Rule, Suffix
from vitrail.search.supernets.vitas import Super

TENTHS = tuple(range(1, 11))
WINDOWS = 4
LEAST, MOST = 5, 85  # of the identity's probability, in hundredths


@dataclass(frozen=True)
class ViTAS:
    """The space for `widest` sizes (its heads are the numbers of slots), `patches` and `heads`.

    `identity` is how likely a random slot is empty. With `shift` empty slots come last, so that a
    network has one representative: identity shifting of the second version.
    """

    name: ClassVar[str] = "vitas"
    title: ClassVar[str] = "ViTAS"
    paper: ClassVar[str] = "arXiv 2106.13700"

    widest: Config
    patches: tuple[int, ...]
    heads: tuple[int, ...]
    sharing: Literal["sides", "left", "cyclic"] = "sides"
    identity: float = 0.5
    shift: bool = True

    @classmethod
    def of(cls, images: Images) -> ViTAS:
        """Return the space for images. Raises ConfigError where no patch divides them."""
        large = min(images.size) >= 160
        patches = cut(images, (14, 16, 32), cls.title) if large else cut(images, (), cls.title)
        heads = (3, 6, 12, 16) if large else (2, 4, 8)
        dim, rows, slots = (384, 1440, 16) if large else (160, 480, 8)
        widest = Config(
            dim=dim, heads=(heads[0],) * slots, attention=(rows,) * slots, hidden=(rows,) * slots,
            patch=patches[0], drop_path=0.0, image=images.size, channels=images.channels,
            classes=images.classes,
        )  # fmt: skip
        return cls(widest, patches, heads)

    @property
    def slots(self) -> int:
        """Return how many blocks there may be."""
        return len(self.widest.heads)

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        some = (1 - self.identity) / len(self.heads)
        choice = ((*self.heads, 0), (*[some] * len(self.heads), self.identity))
        slots = [
            gene
            for i in range(self.slots)
            for gene in (
                Gene(f"heads {i}", *choice),
                Gene(f"attention {i}", TENTHS),
                Gene(f"hidden {i}", TENTHS),
            )
        ]
        return (Gene("patch", self.patches), Gene("width", TENTHS), *slots)

    @property
    def rules(self) -> tuple[Rule, ...]:
        if self.sharing == "cyclic":
            return tuple(Circular(i, WINDOWS) for i in range(WINDOWS))
        return (Prefix(), Suffix()) if self.sharing == "sides" else (Prefix(),)

    @property
    def summed(self) -> bool:
        return self.sharing == "sides"

    @property
    def ends(self) -> tuple[Genes, Genes]:
        nothing, full = len(self.heads), len(TENTHS) - 1
        ordered = sorted(range(len(self.patches)), key=self.patches.__getitem__)
        coarse, fine = ordered[-1], ordered[0]
        small = (coarse, 0, 0, 0, 0, *(nothing, 0, 0) * (self.slots - 1))
        return small, (fine, full, *(0, full, full) * self.slots)

    def canonical(self, genes: Genes) -> Genes:
        nothing = len(self.heads)
        slots = [genes[i : i + 3] for i in range(2, len(genes), 3)]
        slots = [(nothing, 0, 0) if slot[0] == nothing else slot for slot in slots]
        if all(slot[0] == nothing for slot in slots):
            slots[0] = (0, *genes[3:5])
        if self.shift:
            slots.sort(key=lambda slot: slot[0] == nothing)
        return (*genes[:2], *(number for slot in slots for number in slot))

    def config(self, genes: Genes) -> Config:
        c, heads = self.widest, (*self.heads, 0)
        slots = [genes[i : i + 3] for i in range(2, len(genes), 3)]
        chosen = [heads[slot[0]] for slot in slots]

        def sizes(widest: tuple[int, ...], place: int) -> tuple[int, ...]:
            return tuple(
                round(most * TENTHS[slot[place]] / 10) if n else 0
                for most, slot, n in zip(widest, slots, chosen, strict=True)
            )

        return replace(
            c, patch=self.patches[genes[0]], dim=round(c.dim * TENTHS[genes[1]] / 10),
            heads=tuple(chosen), attention=sizes(c.attention, 1), hidden=sizes(c.hidden, 2),
        )  # fmt: skip

    def count(self, config: Config) -> Counts:
        c, n = config, (config.image[0] // config.patch) * (config.image[1] // config.patch)
        pixels, tokens, dim = c.channels * c.patch**2, n + 1, c.dim
        params = dim * (pixels + 1) + dim * tokens + 2 * dim + c.classes * (dim + 1)
        macs = n * pixels * dim + dim * c.classes
        for slot in c.filled:
            rows, third, hidden = c.attention[slot], c.attention[slot] // 3, c.hidden[slot]
            params += 4 * dim + rows * (dim + 1) + dim * (third + 1)
            params += hidden * (dim + 1) + dim * (hidden + 1)
            macs += tokens * dim * (rows + third + 2 * hidden) + 2 * tokens**2 * third
        return Counts(params, macs)

    def supernet(self) -> Super:
        return Super(self.widest, patches=self.patches, heads=self.heads)

    def fitted(self, costs: Callable[[ViTAS], float], low: float, high: float) -> ViTAS:
        """Move the identity's probability, in hundredths, until the mean is within the window.

        The paper goes step by step; the mean falls with the probability, so halving finds it too.
        Where none from 0.05 to 0.85 does it the nearest is kept, since of nearly empty networks
        there is little to search: then whatever is over the limit is rejected.
        """
        least, most, space = LEAST - 1, MOST + 1, self
        while True:
            mean, at = costs(space), round(100 * space.identity)
            if low <= mean <= high:
                return space
            least, most = (at, most) if mean > high else (least, at)
            if most - least < 2:
                return space
            space = replace(space, identity=(least + most) // 2 / 100)

    def deeper(self, genes: Genes) -> ViTAS | None:
        """Return None: there is one level."""
        return None

    def described(self, config: Config) -> dict[str, str]:
        return {
            "patches": f"{config.patch} x {config.patch} pixels",
            "width of the tokens": str(config.dim),
            "blocks": f"{len(config.filled)} of {self.slots} slots",
        }

    def rows(self, config: Config) -> list[Row]:
        found = []
        for i, heads in enumerate(config.heads):
            parts = (("attention", config.attention[i] / 3), ("MLP", config.hidden[i]))
            found.append(Row(f"{i + 1}", parts, f"{heads} heads") if heads else Row(f"{i + 1}"))
        return found
