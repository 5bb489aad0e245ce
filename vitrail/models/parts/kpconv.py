"""KPConv: a convolution over the neighbours of a point, its kernel a few points in space.

Thomas et al., "KPConv: Flexible and Deformable Convolution for Point Clouds", ICCV 2019,
arXiv 1904.08889. A neighbour counts for a kernel point by how near it lies to it, linearly down to
nothing at `extent`; each kernel point has a matrix, and all are summed, without a bias.

Kernel points are a tensor of the state that never learns, since weights belong to where they lie.
The authors draw theirs by an optimisation, rotate and jitter them; here they are the corners and
the faces of a cube on a sphere around the centre, rotated at random.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.layers.points import Points

KERNEL_POINTS = 15
EXTENT, RADIUS = 1.2, 0.6
# Rows at once where nothing learns: what is gathered for them stays in a processor's cache.
AT_ONCE = 1 << 10


class KPConv(nn.Module):
    """Features (N, C) of points to (N, C2), from those of their neighbours.

    Distances are in the units of `xyz`, metres.

    Examples:
        >>> import torch
        >>> conv = KPConv(8, 16)
        >>> conv(torch.randn(5, 3), torch.randn(5, 8), torch.tensor([[0, 1, 2]] * 5)).shape
        torch.Size([5, 16])
    """

    kernel_points: Tensor

    def __init__(self, dim_in: int, dim_out: int, *, extent: float = EXTENT) -> None:
        super().__init__()
        self.extent = extent
        self.weights = nn.Parameter(torch.empty(KERNEL_POINTS, dim_in, dim_out))
        nn.init.kaiming_uniform_(self.weights, a=math.sqrt(5))
        self.register_buffer("kernel_points", kernel_points())

    def forward(
        self, xyz: Float[Tensor, "n 3"], x: Float[Tensor, "n c"], neighbours: Int[Tensor, "n k"]
    ) -> Float[Tensor, "n c2"]:
        if torch.is_grad_enabled():
            return self._gathered(xyz, x, xyz, neighbours) @ self._rows
        rows, parts = self._rows, zip(xyz.split(AT_ONCE), neighbours.split(AT_ONCE), strict=True)
        return torch.cat([self._gathered(xyz, x, some, near) @ rows for some, near in parts])

    @property
    def _rows(self) -> Tensor:
        """Return the weights of all kernel points as one matrix (C P, C2)."""
        return self.weights.transpose(0, 1).flatten(0, 1)

    def _gathered(self, xyz: Tensor, x: Tensor, centres: Tensor, near: Tensor) -> Tensor:
        """Return what each kernel point gathers for some `centres`, (m, C P).

        Kernel points come last: the product is 3.5 times as fast as with channels last.
        """
        counts = self.influences(xyz, centres, near).to(x.dtype)
        found = x.index_select(0, near.flatten()).unflatten(0, near.shape)
        return torch.bmm(found.transpose(1, 2), counts).flatten(1)

    def influences(
        self, xyz: Float[Tensor, "n 3"], centres: Float[Tensor, "m 3"], near: Int[Tensor, "m k"]
    ) -> Float[Tensor, "m k p"]:
        """Return how much each neighbour counts for each kernel point, from 0 to 1."""
        offsets, square = xyz[near] - centres[:, None], None
        # Axis by axis: a sum over an axis of three is slow.
        for axis in range(3):
            apart = (offsets[..., axis, None] - self.kernel_points[:, axis]).square()
            square = apart if square is None else square + apart
        assert square is not None
        return (1 - square.sqrt() / self.extent).clamp_min(0)


def kernel_points(radius: float = RADIUS) -> Float[Tensor, "p 3"]:
    """Return 15 points: the centre, and 14 on a sphere, rotated at random."""
    signs = torch.tensor([-1.0, 1.0])
    corners = torch.cartesian_prod(signs, signs, signs) / math.sqrt(3)
    faces = torch.cat([torch.eye(3), -torch.eye(3)])
    turn, _ = torch.linalg.qr(torch.randn(3, 3))
    return radius * torch.cat([torch.zeros(1, 3), torch.cat([corners, faces]) @ turn])


class Refiner(nn.Module):
    """A map (B, C, H, W), read at each point, and the points' neighbours: features (N, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.kpconv = KPConv(dim, dim)
        self.norm = nn.BatchNorm1d(dim)

    def forward(self, x: Float[Tensor, "b c h w"], points: Points) -> Float[Tensor, "n c"]:
        sampled = [
            F.grid_sample(
                one[None], places[None, None], padding_mode="border", align_corners=False
            )[0, :, 0].mT
            for one, places in zip(x, points.places.split(points.counts), strict=True)
        ]
        x = self.kpconv(points.xyz, torch.cat(sampled), points.neighbours)
        return self.norm(x).relu()
