"""What draws LESA's gate from both of its terms, where that is more than one linear layer."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import ConvNorm, channels_first, channels_last
from vitrail.layers.relative import Grid

# for each hidden layer what its width is divided by, its kernel's side and its groups
Fusion = tuple[tuple[int | float, int, int], ...]
PUBLISHED: Fusion = ((2, 1, 1),)


class HiddenConvs(nn.Module):
    """Convolutions with BatchNorm and ReLU on the map of tokens: (B, h w, C) of a grid (h, w) to
    (B, h w, `width`). Raises ValueError for even kernels and groups that do not divide."""

    def __init__(self, dim: int, fusion: Fusion) -> None:
        super().__init__()
        convs = []
        for shrink, kernel, groups in fusion:
            width = int(dim / shrink)
            if kernel % 2 == 0 or width < 1 or dim % groups or width % groups:
                raise ValueError(
                    f"fusion has kernel {kernel}, width {width} of {dim} and groups {groups}: "
                    "expected an odd kernel, and groups that divide both widths"
                )
            convs.append(ConvNorm(dim, width, kernel, groups=groups))
            dim = width
        self.convs, self.act, self.width = nn.ModuleList(convs), nn.ReLU(inplace=True), dim

    def forward(self, x: Float[Tensor, "b n c"], grid: Grid) -> Float[Tensor, "b n c2"]:
        y = channels_first(x.unflatten(1, grid))
        for conv in self.convs:
            y = conv.then(y, self.act)  # pyright: ignore[reportCallIssue]
        return channels_last(y).flatten(1, 2)
