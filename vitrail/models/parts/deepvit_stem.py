"""How DeepViT makes tokens: of plain patches, of normed ones, or behind two convolutions."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import Conv2d, ConvNorm, channels_first
from vitrail.layers.linear import Linear
from vitrail.layers.patches import ClassPatches
from vitrail.models.trunk.backbone import check_image


class NormedPatches(nn.Module):
    """Patches of an image, normed, projected, normed: (B, channels, H, W) to (B, C, h, w)."""

    def __init__(self, channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.norm1, self.norm2 = nn.LayerNorm(patch**2 * channels), nn.LayerNorm(dim)
        self.linear = Linear(patch**2 * channels, dim)

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b c h2 w2"]:
        x = image.unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))
        x = x.permute(0, 2, 4, 3, 5, 1).flatten(3)
        return channels_first(self.norm2(self.linear(self.norm1(x))))


class Embed(ClassPatches):
    """Image (B, channels, H, W) to the class token and patches (B, 1 + h w, C)."""

    def __init__(self, config: Any) -> None:
        c = config
        super().__init__(c.channels, c.dim, c.patch, image=c.image, std=0.02)
        self.config = config
        if c.inner and c.patch_norm:
            raise ValueError(
                f"inner is {c.inner} and patch_norm is set: norms stand around the projection of "
                "plain patches, so take inner=0"
            )
        if c.patch_norm:
            self.proj = NormedPatches(c.channels, c.dim, c.patch)
        if c.inner:
            if c.patch % 2:
                raise ValueError(f"patch is {c.patch}: a stem of convolutions needs an even one")
            self.proj = nn.Sequential(
                ConvNorm(c.channels, c.inner, 7, stride=2),
                nn.ReLU(inplace=True),
                ConvNorm(c.inner, c.inner, 3),
                nn.ReLU(inplace=True),
                Conv2d(c.inner, c.dim, c.patch // 2, c.patch // 2),
            )

    def seen(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b channels h w"]:
        check_image(image, self.config, "deepvit")
        return image
