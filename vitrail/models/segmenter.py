"""Segmenter: a plain ViT gives every pixel a class, by one linear layer or a small transformer.

Strudel et al., "Segmenter: Transformer for Semantic Segmentation", ICCV 2021, arXiv 2105.05633.
The mask transformer reads the patches together with one learned embedding for each class; the
score of a class at a patch is the cosine between both, put to scale by a LayerNorm over classes.

Its answer is a map (B, classes, H, W), so it is in no catalog of image backbones: `DENSE` has the
published networks, and `vitrail.create` and `vitrail.load` take their names or a `Config`. Any
backbone of one resolution may be the encoder; `Encoder` is the authors' own, a DeiT whose
LayerNorms have an eps of 1e-5. mmsegmentation's weights are of `deit.Config`: eps 1e-6 in the
encoder, and positions that move bicubically.

What the authors' code does: positions are resized where the number of patches is another than in
training, so a grid of 8 x 2 takes the 16 positions of one of 4 x 4 as they are. The decoder has
dropout where the encoder has none. The matrices of patches and classes multiply from the right.
Counts of the authors' networks include the encoder's heads for 1000 classes, which nothing reads
and which are left out here; their DeiTs are distilled ones. The encoder's dropout, 0 in all
published trainings, is left to methods.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.init import trunc_normal_linear
from vitrail.layers.linear import Linear
from vitrail.layers.position import bilinear_grid
from vitrail.models import beit, cait, deepvit, deit, flexivit, t2t_vit, vit, vit_hybrid, xcit
from vitrail.models.names import segmenter as names
from vitrail.models.parts.mask_transformer import MaskDecoder, MaskTransformer
from vitrail.models.trunk import hosts
from vitrail.models.trunk.backbone import HALF, Backbone, check_image
from vitrail.models.trunk.dense import Dense, DenseVariant
from vitrail.models.trunk.positions import Table, patches
from vitrail.models.trunk.sliding import Sliding


@dataclass(frozen=True)
class Encoder(deit.Config):
    """Sizes of the authors' encoder; `image` is what it is trained on."""

    image: tuple[int, int] = (512, 512)
    classes: int = 150


@dataclass(frozen=True)
class LinearDecoder:
    """One linear layer for every patch."""


_USUAL = MaskDecoder()


@dataclass(frozen=True)
class Config(hosts.Hosted):
    """An encoder, `host`, and its decoder."""

    host: (
        Encoder
        | beit.Config
        | cait.Config
        | deepvit.Config
        | deit.Config
        | flexivit.Config
        | t2t_vit.Config
        | vit.Config
        | vit_hybrid.Config
        | xcit.Config
    ) = Encoder()
    decoder: LinearDecoder | MaskDecoder = _USUAL


_T, _S = Encoder(), Encoder(dim=384, heads=6, hidden=1536)
_B = Encoder(dim=768, heads=12, hidden=3072)
_D = replace(_B, distilled=True)
_L = Encoder(dim=1024, depth=24, heads=16, hidden=4096)
_CITY = Config(replace(_L, image=(768, 768), classes=19))
_CONTEXT = Config(replace(_L, image=(480, 480), classes=60))
# name, config, published parameters, data, mIoU at one and at several scales, the shorter side
_ROWS = [
    ("seg_t_mask_16", Config(_T), 7.0, "ADE20K", 38.1, 38.8, 512),
    ("seg_s_mask_16", Config(_S), 27.0, "ADE20K", 45.3, 46.9, 512),
    ("seg_b_mask_16", Config(_B), 106.0, "ADE20K", 48.5, 50.0, 512),
    ("seg_b_16_deit", Config(_D, LinearDecoder()), 87.0, "ADE20K", 47.1, 48.1, 512),
    ("seg_b_mask_16_deit", Config(_D), 106.0, "ADE20K", 48.7, 50.1, 512),
    ("seg_b_8", Config(replace(_B, patch=8), LinearDecoder()), 89.0, "ADE20K", 49.5, 50.5, 512),
    ("seg_l_mask_16", Config(replace(_L, image=(640, 640))), 334.0, "ADE20K", 51.8, 53.6, 640),
    ("seg_l_mask_16_context", _CONTEXT, 334.0, "Pascal Context", 58.1, 59.0, 520),
    ("seg_l_mask_16_cityscapes", _CITY, 322.0, "Cityscapes", 79.1, 81.3, 1024),
]


def _reads(config: Config, short: int) -> Sliding:
    """Return how the authors' evaluation reads pictures: windows that overlap by 32 pixels."""
    side = (config.image or _T.image)[0]
    return Sliding(side, side - 32, short=short)


def _deit(size: Encoder, side: int) -> deit.Config:
    """Return DeiT's own config of an encoder's sizes for images of `side` pixels."""
    sizes = size.dim, size.depth, size.heads, size.hidden, size.patch
    return deit.Config(*sizes, image=(side, side), classes=size.classes)


# Those of DeiT take ImageNet's mean and deviation, the others began with AugReg's weights.
DENSE = {
    name: DenseVariant(
        config,
        params_m=params_m,
        dataset=dataset,
        miou=miou,
        miou_scales=scales,
        reads=_reads(config, short),
        takes=None if name.endswith("deit") else HALF,
        note="counted are 334.8" if dataset == "Cityscapes" else "",
    )
    for name, config, params_m, dataset, miou, scales, short in _ROWS
}
# mmsegmentation's weights: another encoder, other rates of dropping in the decoder, own figures.
_MASK = MaskDecoder(dropout=0.0, drop_path=0.1)
DENSE |= {
    f"{name}_mmseg": DenseVariant(
        config,
        dataset="ADE20K",
        miou=miou,
        miou_scales=scales,
        reads=_reads(config, short=config.host.image[0]),
        takes=HALF,
    )
    for name, size, side, decoder, miou, scales in [
        ("seg_t_mask_16", _T, 512, _MASK, 39.99, 40.83),
        ("seg_s_16", _S, 512, LinearDecoder(), 45.75, 46.82),
        ("seg_s_mask_16", _S, 512, _MASK, 46.19, 47.85),
        ("seg_b_mask_16", _B, 512, _MASK, 49.60, 51.07),
        ("seg_l_mask_16", _L, 640, _MASK, 52.16, 53.65),
    ]
    for config in [Config(_deit(size, side), decoder)]
}
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # of the evaluation at several, each mirrored too
NAMES = names.TABLES
CLASSES = "head.classes"  # has a row for each class where the head has several matrices


def POSITIONS(config: Config) -> tuple[Table, ...]:
    """Return the rows of the host's positions, which lie in the part `backbone`."""
    if isinstance(config.host, Encoder):
        return (Table("backbone.embed.position", lambda c: patches(c.host), bilinear_grid),)
    rows = hosts.positions(config)
    return tuple(
        row if row.name.startswith(".") else replace(row, name=f"backbone.{row.name}")
        for row in rows
    )


class Embed(deit.Embed):
    """Patches behind one or two tokens, positions resized by their number: an image
    (B, channels, H, W) to (B, prefix + h w, C)."""

    def seen(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b channels h w"]:
        check_image(image, self.config, "segmenter")
        return image

    def _positions(self, grid: tuple[int, int]) -> Float[Tensor, "1 n c"]:
        if math.prod(grid) == math.prod(self.made_for):
            return self.position
        return bilinear_grid(self.position, self.made_for, grid)


def encoder(config: Encoder) -> deit.DeiT:
    """Return the authors' encoder without heads. Raises ValueError for an image below a patch."""
    h, w = (side - side % config.patch for side in config.image)
    if not h or not w:
        raise ValueError(
            f"image is {config.image[0]}x{config.image[1]}; patches are {config.patch} pixels a "
            "side: give a larger image or a smaller patch"
        )
    config = replace(config, image=(h, w), classes=0)
    made = deit.DeiT(config)
    made.embed = Embed(config)
    for module in made.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5
    return made


class Segmenter(Dense):
    """An encoder of one resolution and a decoder: an image to scores (B, classes, H, W).

    Raises ValueError for images of other channels. A larger picture is read in windows, as
    `DENSE[name].reads` does by default.

    Examples:
        >>> import torch, vitrail
        >>> model = vitrail.create("seg_t_mask_16", classes=21, image=(64, 64)).eval()
        >>> model(torch.zeros(1, 3, 48, 70)).shape
        torch.Size([1, 21, 48, 70])
        >>> several = Sliding(window=64, stride=48, ratios=SCALES, mirrored=True)
        >>> several.probabilities(model, torch.zeros(1, 3, 64, 80)).argmax(1).shape
        torch.Size([1, 64, 80])
    """

    undecayed = ("head.classes",)

    def __init__(self, config: Config) -> None:
        backbone = hosted(config)
        classes, width = config.classes or 0, backbone.levels[-1].channels
        decoders = {LinearDecoder: Linear, MaskDecoder: partial(MaskTransformer, config.decoder)}  # pyright: ignore[reportArgumentType]
        head = decoders[type(config.decoder)](width, classes) if classes else nn.Identity()
        super().__init__(config, backbone, head)
        if isinstance(head, Linear):
            trunc_normal_linear(head)


def hosted(config: Config) -> Backbone:
    """Return the encoder of a config, without what reads its tokens for a label. Raises
    ValueError."""
    if isinstance(config.host, Encoder):
        made: Backbone = encoder(config.host)
    elif getattr(config.host, "pre_logits", 0):
        raise ValueError(
            f"host.pre_logits is {config.host.pre_logits}: a segmenter reads patches, not what is "  # pyright: ignore
            "pooled from them; give 0"
        )
    else:
        made = hosts.host_module(config).MODEL(replace(config.host, classes=0))
    made.pool = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    return made


MODEL = Segmenter
