"""Points of range images, as networks take them beside the images."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor


class Points(NamedTuple):
    """The points of a batch of range images, one image after the other.

    `places` (N, 2) are where each lies in its image, (x, y) from -1 to 1; `xyz` (N, 3) in metres;
    `neighbours` (N, K) the rows of its nearest points, itself first; `counts` how many points each
    image has.
    """

    places: Float[Tensor, "n 2"]
    xyz: Float[Tensor, "n 3"]
    neighbours: Int[Tensor, "n k"]
    counts: tuple[int, ...]
