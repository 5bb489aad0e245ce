"""RangeViT: a ViT reads the range image of a lidar scan, and every point gets a class.

Ando, Gidaris, Bursuc, Puy, Boulch, Marlet, "RangeViT: Towards Vision Transformers for 3D Semantic
Segmentation in Autonomous Driving", CVPR 2023, arXiv 2301.10222. Three things are new around a ViT
whose weights may come from images: a stem of convolutions, narrow patches (2x8 pixels), and a
decoder that reads the stem's map again; then a KPConv over each point's neighbours in space.

A range image is (B, 5, H, W): range, x, y, z, intensity, normalised (`vitrail.data.lidar`). It is a
network of scans, so it is in no catalog of image backbones: `SCANS` has the published networks,
and `vitrail.create` and `vitrail.load` take their names or a `Config`.

What the authors' code does: LayerNorms have an eps of 1e-5, though ViTs of images are trained with
1e-6; positions are resized bilinearly where the grid is another than in training; an image whose
sides the patch does not divide is padded with zeros below and right. Class 0 is what counts for
nothing. Their published counts leave out the kernel points, which never learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import Attention
from vitrail.layers.ffn import Mlp
from vitrail.layers.init import trunc_normal_linear
from vitrail.layers.points import Points
from vitrail.layers.position import bilinear_grid
from vitrail.layers.residual import Block, Blocks, rising
from vitrail.models.names import rangevit as names
from vitrail.models.parts.kpconv import Refiner
from vitrail.models.parts.range_stem import ConvTokens, PatchTokens, Tokens, UpConv
from vitrail.models.trunk.backbone import Backbone, InputKind, Level, Variant, check_image
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.positions import Table
from vitrail.models.trunk.sliding import resized


@dataclass(frozen=True)
class PatchStem:
    """One convolution over each patch, as image ViTs have."""


@dataclass(frozen=True)
class ConvStem:
    """Three blocks of `context` channels and one of `width`, whose map the decoder reads again."""

    width: int = 256
    context: int = 32


@dataclass(frozen=True)
class LinearDecoder:
    """One linear layer a token, enlarged bilinearly."""


@dataclass(frozen=True)
class UpDecoder:
    """Tokens become pixels, joined with the stem's map unless `skip` is off."""

    width: int = 256
    skip: bool = True


@dataclass(frozen=True)
class PixelHead:
    """A linear layer for each pixel; points get their classes from pixels."""


@dataclass(frozen=True)
class PointHead:
    """A KPConv over each point's nearest ones, itself among them; seven as published."""


_STEM, _UP, _POINTS = ConvStem(), UpDecoder(), PointHead()


@dataclass(frozen=True)
class Config:
    """Sizes of a RangeViT; `image` is the crop it is trained on, `patch` is (rows, columns)."""

    dim: int = 384
    depth: int = 12
    heads: int = 6
    hidden: int = 1536
    patch: tuple[int, int] = (2, 8)
    stem: PatchStem | ConvStem = _STEM
    decoder: LinearDecoder | UpDecoder = _UP
    points: PixelHead | PointHead = _POINTS
    drop_path: float = 0.1
    image: tuple[int, int] = (32, 384)
    channels: int = 5
    classes: int = 17

    @property
    def input_kind(self) -> InputKind:
        """Return the kind of input: scans."""
        return "scans"

    @property
    def grid(self) -> tuple[int, int]:
        """Return tokens down and across of `image`, padded where the patch does not divide it."""
        return -(-self.image[0] // self.patch[0]), -(-self.image[1] // self.patch[1])


_S = Config()
_B = replace(_S, dim=768, heads=12, hidden=3072)
_L = replace(_S, dim=1024, depth=24, heads=16, hidden=4096)
_KITTI = replace(_S, image=(64, 384), classes=20)
_NARROW = replace(_KITTI, stem=ConvStem(128), decoder=UpDecoder(128))
_LINEAR = replace(_S, stem=PatchStem(), decoder=LinearDecoder(), points=PixelHead())
SCANS = {
    "rangevit_s_nuscenes": Variant(_S, params_m=26.69),
    "rangevit_b_nuscenes": Variant(_B),
    "rangevit_l_nuscenes": Variant(_L),
    "rangevit_s_kitti": Variant(_KITTI, params_m=27.1),
    "rangevit_s_kitti_val": Variant(_NARROW, params_m=23.65),
    "rangevit_s_linear": Variant(_LINEAR, params_m=21.63),
}
NAMES = names.TABLES
POSITIONS = (Table("embed.position", lambda config: config.grid, bilinear_grid),)


class Embed(nn.Module):
    """Tokens (B, h, w, D) with positions, behind the class token: (B, 1 + h w, D)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.made_for = config.grid
        self.token = nn.Parameter(torch.empty(1, 1, config.dim))
        self.position = nn.Parameter(torch.empty(1, config.grid[0] * config.grid[1], config.dim))
        for table in (self.token, self.position):
            nn.init.trunc_normal_(table, std=0.02)

    def forward(self, x: Float[Tensor, "b h w d"]) -> Float[Tensor, "b n d"]:
        b, h, w, _ = x.shape
        placed = x.flatten(1, 2) + bilinear_grid(self.position, self.made_for, (h, w))
        return torch.cat([self.token.expand(b, -1, -1), placed], 1)


class RangeViT(Backbone):
    """A range image (B, 5, H, W) to scores: of points (N, classes) where they are given and the
    model refines them, else of pixels (B, classes, H, W).

    Raises ValueError for images of other channels, for a patch of odd sides under a stem of
    convolutions, and where points are missing.

    Examples:
        >>> import torch, vitrail
        >>> from vitrail.models import rangevit
        >>> model = vitrail.create("rangevit_s_linear", image=(16, 32)).eval()
        >>> model(torch.zeros(1, 5, 16, 32)).shape
        torch.Size([1, 17, 16, 32])
    """

    undecayed = ("embed.position", "embed.token")

    def __init__(self, config: Config) -> None:
        super().__init__()
        c, norm = config, partial(nn.LayerNorm, eps=1e-5)
        self.config = config
        self.stem = _stem(c)
        self.embed = Embed(c)
        self.blocks = Blocks(
            Block(c.dim, Attention(c.dim, c.heads), Mlp(c.dim, c.hidden), norm=norm, drop_path=rate)
            for rate in rising(c.drop_path, c.depth)
        )
        self.norm = norm(c.dim)
        self.decoder, width = _decoder(c)
        self.refiner = Refiner(width) if isinstance(c.points, PointHead) else None
        self.head = linear_head(width, c.classes)
        self.levels, self.width = (Level(min(c.patch), c.dim),), width
        trunc_normal_linear(self)

    def features(
        self, image: Float[Tensor, "b channels h w"], at: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Return the tokens behind the last norm as a map (B, h, w, D)."""
        return [self._read(image)[0]]

    def embedding(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h2 w2 c"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return what the head sees: the decoder's map (B, H, W, C), padded where the image is; of
        a linear decoder the tokens."""
        return self.decoder(*self._read(image))

    def maps(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b c h w"]:
        """Return what is exported and averaged over windows: the decoder's map at the image's size
        where the model refines points, else scores of pixels."""
        x = self.embedding(image)
        return self._cut(self.head(x) if self.refiner is None else x, image)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, image: Float[Tensor, "b channels h w"], points: Points | None = None
    ) -> Tensor:
        maps = self.maps(image)
        if self.refiner is None:
            return maps
        if points is None:
            raise ValueError("this model answers for points: give them beside the range image")
        return self.head(self.refiner(maps, points))

    @property
    def network(self) -> nn.Module:
        """Return the network between projection and points as a module of images alone."""
        return _Network(self)

    def depth_of(self, name: str) -> int:
        """Return how deep a parameter lies: decoder and refiner where the head does."""
        behind = name.startswith(("decoder.", "refiner."))
        return self.depth if behind else super().depth_of(name)

    def _read(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the tokens as a map (B, h, w, D), and the map of the stem."""
        check_image(image, self.config, "rangevit")
        high, wide = self.config.patch
        down, right = -image.shape[-2] % high, -image.shape[-1] % wide
        x, skip = self.stem(F.pad(image, (0, right, 0, down)) if down or right else image)
        tokens = self.norm(self.blocks(self.embed(x)))
        return tokens[:, 1:].unflatten(1, x.shape[1:3]), skip

    def _cut(self, x: Float[Tensor, "b h2 w2 c"], image: Tensor) -> Float[Tensor, "b c h w"]:
        (h, w), (high, wide) = image.shape[-2:], self.config.patch
        return resized(x.movedim(-1, 1), (h + -h % high, w + -w % wide))[..., :h, :w]


class _Network(nn.Module):
    """A range image (B, 5, H, W) to what windows are averaged of, (B, C, H, W)."""

    def __init__(self, whole: RangeViT) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, images: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b c h w"]:
        return self.whole.maps(images)


def _stem(c: Config) -> nn.Module:
    if isinstance(c.stem, PatchStem):
        return PatchTokens(c.channels, c.dim, c.patch)
    if c.patch[0] % 2 or c.patch[1] % 2:
        raise ValueError(
            f"patch is {c.patch[0]}x{c.patch[1]}: a stem of convolutions needs even sides, as 2x8"
        )
    return ConvTokens(c.channels, c.dim, c.patch, c.stem.width, c.stem.context)


def _decoder(c: Config) -> tuple[nn.Module, int]:
    """Return the decoder, and how wide its map is."""
    if isinstance(c.decoder, LinearDecoder):
        if isinstance(c.points, PointHead):
            raise ValueError(
                "a linear decoder has no map of pixels for the points: give points=pixel_head, or "
                "another decoder"
            )
        return Tokens(), c.dim
    if c.decoder.skip and isinstance(c.stem, PatchStem):
        raise ValueError(
            "decoder.skip needs the map of a convolutional stem: give decoder.skip=false, or "
            "stem=conv_stem"
        )
    skip = c.stem.width if c.decoder.skip and isinstance(c.stem, ConvStem) else 0
    return UpConv(c.dim, c.decoder.width, skip, c.patch), c.decoder.width


MODEL = RangeViT
