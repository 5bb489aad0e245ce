"""DiNAT on two other skeletons: Swin's, and one of a single resolution.

Hassani and Shi, "Dilated Neighborhood Attention Transformer", 2022, arXiv 2209.15001. DiNAT
proper is a NAT with dilations and stands in `nat`. DiNAT-s has Swin's patches, merging and
depths, and neighborhood attention for windows, dilated for shifted ones. The isotropic
networks have one stage of 16 x 16 patches, and no class token; NAT-iso is the undilated one.

Any image may be given: patches and odd maps are padded by zeros, small ones as in `nat`.
DiNAT-s Large has heads of 48 channels, as in the authors' code, where Swin Large has 32. The
paper's ViT with a relative bias, a baseline, is not here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import Conv
from vitrail.layers.windows import pad
from vitrail.models import nat
from vitrail.models.names import dinat as names
from vitrail.models.nat import KEYS, NAT
from vitrail.models.swin import Merge
from vitrail.models.trunk.backbone import Small, Variant, check_image

__all__ = ["MODEL", "NAMES", "POSITIONS", "SPACE", "VARIANTS", "Config", "DiNAT"]


@dataclass(frozen=True)
class Config(nat.Config):
    """Sizes of a NAT; here `patch` is the side of the patches that the stem cuts. One stage is
    the isotropic network."""

    dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    dilations: tuple[int, ...] = (8, 4, 2, 1)
    mlp_ratio: float = 4.0


_TINY = Config()
_SMALL = replace(_TINY, depths=(2, 2, 18, 2), drop_path=0.3)
_BASE = replace(_SMALL, dim=128, heads=(4, 8, 16, 32), drop_path=0.5)
_LARGE = replace(_BASE, dim=192, drop_path=0.35)
_FARTHER = replace(_LARGE, dilations=(13, 6, 3, 1), image=(384, 384))
_FLAT = Config(dim=384, depths=(12,), heads=(12,), dilations=(1,), patch=16, drop_path=0.1)
_FLAT_BASE = replace(_FLAT, dim=768, heads=(24,), drop_path=0.4)

VARIANTS = {
    name: Variant(config, params_m=params_m, flops_g=flops_g, top1=top1, note=KEYS)
    for name, config, params_m, flops_g, top1 in [
        ("dinat_s_tiny", _TINY, 28.0, 4.5, 81.8),
        ("dinat_s_small", _SMALL, 50.0, 8.7, 83.5),
        ("dinat_s_base", _BASE, 88.0, 15.4, 83.8),
        ("dinat_s_large", _LARGE, 197.0, 34.5, 86.5),
        ("dinat_s_large_384", _FARTHER, 197.0, 101.5, 87.4),
        ("nat_iso_small", _FLAT, 22.0, 4.3, 80.0),
        ("dinat_iso_small", replace(_FLAT, dilations=(2,)), 22.0, 4.3, 80.8),
        ("nat_iso_base", _FLAT_BASE, 86.0, 16.9, 81.6),
        ("dinat_iso_base", replace(_FLAT_BASE, dilations=(2,)), 86.0, 16.9, 82.1),
    ]
}

SPACE = Small(
    Config(mlp_ratio=2.0, drop_path=0.05),
    {
        ("dim", "depths", "heads", "dilations"): (
            (48, (2, 2), (2, 4), (2, 1)),
            (96, (4,), (4,), (2,)),
            (128, (6,), (4,), (2,)),
            (64, (2, 4), (2, 4), (2, 1)),
        ),
        "kernel": (3, 7),
        "patch": (2, 4, 8),
    },
)


NAMES = names.TABLES
POSITIONS = nat.POSITIONS


class Patches(nn.Module):
    """Patches of p x p pixels, padded by zeros to whole ones, and LayerNorm: (B, channels, H, W)
    to (B, h, w, C)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.proj = Conv(config.channels, config.dim, config.patch, config.patch)
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h2 w2 c"]:
        check_image(image, self.config, "dinat")
        return self.norm(self.proj(pad(image.permute(0, 2, 3, 1), self.config.patch)))


class DiNAT(NAT):
    """Patches, stages of neighborhood attention with merging between, norm, mean, linear."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, stem=Patches(config), down=Merge)


MODEL = DiNAT
