"""What a PNASNet costs, by a formula: thousands of cells are looked at."""

from __future__ import annotations

from dataclasses import dataclass

from vitrail.measure.counts import Counts
from vitrail.models.pnasnet import Config


@dataclass
class _Sum:
    params: int = 0
    macs: int = 0

    def conv(self, weights: int, places: int, dim: int) -> None:
        """Add a convolution of so many weights at so many places, with a BatchNorm of `dim`."""
        self.params += weights + 2 * dim
        self.macs += weights * places


def counted(config: Config) -> Counts:
    """Return the parameters and multiply-adds of a network, the auxiliary head left out."""
    c, total = config, _Sum()
    height, width = c.image
    if c.stem_cells:
        height, width = (height - 3) // 2 + 1, (width - 3) // 2 + 1
    total.conv(9 * c.channels * c.stem_dim, height * width, c.stem_dim)
    plan = [(c.dim >> i, 2) for i in range(c.stem_cells, 0, -1)]
    for i in range(3):
        plan += [(c.dim << i, 2 if i and not j else 1) for j in range(c.depth)]
    nodes = len(config.concat) or len(config.genotype) // 2
    before = last = c.stem_dim
    for i, (dim, stride) in enumerate(plan):
        has_left = i > 0 or not c.stem_cells
        sides = (dim if has_left else before, dim)
        read = {state for _, state in c.genotype}
        if has_left and 0 in read:
            total.conv(before * dim, height * width, dim)
        if 1 in read:
            total.conv(last * dim, height * width, dim)
        out = -(-height // stride), -(-width // stride)
        for name, state in c.genotype:
            dim_in = sides[state] if state < 2 else dim
            size = (height, width) if state < 2 else out
            _operation(total, name, (dim_in, dim), size, stride if state < 2 else 1)
        (height, width), before, last = out, last, nodes * dim
    total.params += (last + 1) * c.classes
    total.macs += last * c.classes
    return Counts(total.params, total.macs)


def _operation(
    total: _Sum, name: str, dims: tuple[int, int], size: tuple[int, int], stride: int
) -> None:
    (dim_in, dim), (height, width) = dims, size
    low, narrow = -(-height // stride), -(-width // stride)
    places = low * narrow
    if name.startswith("sep"):
        kernel = int(name[-1]) ** 2
        total.conv(dim_in * kernel + dim_in * dim, places, dim)
        total.conv(dim * kernel + dim * dim, places, dim)
    elif name == "1x7_7x1":
        total.conv(7 * dim_in * dim, height * narrow, dim)
        total.conv(7 * dim * dim, places, dim)
    elif name == "dil_3x3":
        total.conv(9 * dim_in * dim, places, dim)
    elif dim_in != dim or (name == "identity" and stride > 1):
        total.conv(dim_in * dim, places, dim)
