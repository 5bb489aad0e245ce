"""ELSA: local attention whose map a small convolutional network draws, in Swin and in VOLO.

Zhou et al., "ELSA: Enhanced Local Self-Attention for Vision Transformer", 2021, arXiv 2112.12786.
Queries and keys of a position meet in a product channel by channel (Hadamard attention), from
which a grouped k x k convolution and a 1x1 predict the attention of each head to the k^2 nearest
positions. A ghost head then makes of each head's map one for each of its channels: a static
kernel is added to it, in VOLO another one multiplies it before.

In Swin it stands in all stages but the last, which has windows; in VOLO it takes the place of
outlook attention. The filter of channel c is m_c h + s_c with the head's map h, so that what s_c
contributes is a depthwise convolution of the values, and the rest shifted multiply-adds.
Beyond the border are zeros. Weights were published for Swin alone: that ELSA in VOLO has kernels
of 5 and groups of 8 channels is a reading. Its logits take q k as it is, without the d^-0.5 of
the bare layer. Images of any size are treated as by the host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import Conv
from vitrail.layers.linear import Linear
from vitrail.layers.neighborhood import aggregate
from vitrail.layers.windows import WindowAttention
from vitrail.models import swin, volo
from vitrail.models.trunk.backbone import Backbone, Small, Variant
from vitrail.models.trunk.positions import Table, borrowed


@dataclass(frozen=True)
class Config:
    """Sizes of an ELSA network on its `host`: "swin", whose widths double, or "volo".

    `dims`, `depths` and `heads` have one entry a stage; the k x k convolution sees `group`
    channels at once, and `multiplied` says that ghost heads multiply as well as add. `window` is
    Swin's; `mlp_ratio`, `stem` and `reading` are VOLO's.
    """

    host: str = "swin"
    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    kernel: int = 7
    group: int = 4
    multiplied: bool = False
    window: int = 7
    mlp_ratio: float = 4.0
    stem: int = 64
    reading: int = 2
    patch: int = 4
    drop_path: float = 0.1
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


def _in_volo(config: volo.Config) -> Config:
    same = {
        name: getattr(config, name)
        for name in ("dims", "depths", "heads", "mlp_ratio", "stem", "patch", "drop_path")
    }
    return Config(host="volo", kernel=5, group=8, multiplied=True, **same)


_TINY = Config()
_SMALL = Config(depths=(2, 2, 18, 2), group=8, drop_path=0.3)
_BASE = replace(_SMALL, dims=(128, 256, 512, 1024), heads=(4, 8, 16, 32), drop_path=0.5)
_SUMS = "published are the weighted sums of neighbours, too, counted matrix products alone"
_UNSURE = "no network was published: kernel and groups are readings, so no figure is compared"
VARIANTS = {
    "elsa_swin_tiny": Variant(_TINY, params_m=29.14, flops_g=4.8, top1=82.7, note=_SUMS),
    "elsa_swin_small": Variant(_SMALL, params_m=52.87, flops_g=9.6, top1=83.5),
    "elsa_swin_base": Variant(_BASE, params_m=92.68, flops_g=16.7, top1=84.0),
    **{
        f"elsa_volo_d{n}": Variant(_in_volo(volo.VARIANTS[f"volo_d{n}_224"].config), note=_UNSURE)
        for n in range(1, 6)
    },
}

SPACE = Small(
    Config(kernel=5, stem=32, reading=1, drop_path=0.05),
    {
        ("host", "dims", "depths", "heads", "mlp_ratio", "multiplied"): (
            ("swin", (32, 64), (2, 2), (2, 4), 4.0, False),
            ("volo", (48, 96), (2, 3), (2, 3), 2.0, True),
            ("swin", (48, 96, 192), (2, 2, 4), (2, 4, 8), 4.0, False),
        ),
        "patch": (2, 4, 8),
    },
)


def _authors(config: Config) -> list:
    """Swin's names; its last stage packs [v | q | k] and has biases by key minus query."""
    if config.host != "swin":
        return []
    last, rows = len(config.dims) - 1, []
    for i, dim in enumerate(config.dims[:-1]):
        theirs, ours = f"layers.{i}.blocks.{{j}}.attn.", f"stages.{i}.blocks.{{j}}.mixer."
        rows += [
            (
                f"{theirs}pre_proj.{leaf}",
                (f"{ours}qk.{leaf}", f"{ours}v.{leaf}"),
                partial(_split, channels=dim),
            )
            for leaf in ("weight", "bias")
        ]
    theirs, ours = f"layers.{last}.blocks.{{j}}.attn.", f"stages.{last}.blocks.{{j}}.mixer."
    return [
        *rows,
        (f"{theirs}pre_proj.", f"{ours}qkv.", lambda v: v.roll(-(len(v) // 3), 0)),
        (f"{theirs}rb", f"{ours}bias.table", lambda table: table.mT.flip(0)),
        (".relative_id", None),
        *LAYER,
        *swin.NAMES["microsoft/Swin-Transformer"],  # pyright: ignore[reportGeneralTypeIssues]
    ]


def _split(packed: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """A 1x1 kernel, or its bias, as that of queries and keys and that of the values."""
    flat = packed.flatten(1) if packed.ndim > 1 else packed
    return flat[:-channels], flat[-channels:]


# names of a layer that only adds
LAYER = [
    (".attn.ghost_head", ".mixer.ghost.weight", lambda v: v.transpose(0, 1)),
    (".attn.attn.0.", ".mixer.mix."),
    (".attn.attn.2.weight", ".mixer.logits.weight", lambda v: v.flatten(1)),
    (".attn.attn.2.bias", ".mixer.logits.bias"),
    (".attn.post_proj.", ".mixer.proj."),
]
NAMES: dict[str, Callable[[Config], list]] = {"damo-cv/ELSA": _authors}


def hosted(config: Config) -> Any:
    """The host's own config of the same sizes. Raises ValueError."""
    c = config
    common = {
        "depths": c.depths,
        "heads": c.heads,
        "patch": c.patch,
        "drop_path": c.drop_path,
        "image": c.image,
        "channels": c.channels,
        "classes": c.classes,
    }
    if c.host == "swin":
        if c.dims != tuple(c.dims[0] * 2**i for i in range(len(c.depths))):
            raise ValueError(
                f"dims are {c.dims}, depths {c.depths}: a swin doubles its width from stage to "
                "stage, one entry each"
            )
        return swin.Config(c.dims[0], window=c.window, **common)
    if c.host != "volo":
        raise ValueError(f"host is {c.host!r}: expected swin or volo")
    own = {"mlp_ratio": c.mlp_ratio, "stem": c.stem, "reading": c.reading}
    return volo.Config(c.dims, **own, **common)


_MODULES = {"swin": swin, "volo": volo}


def _positions(config: Config) -> tuple[Table, ...]:
    """Those of the host; ELSA's own weights stay."""
    return borrowed(_MODULES[config.host], hosted)


POSITIONS = _positions


class ELSA(nn.Module):
    """Hadamard attention to the kernel x kernel positions around each, and a ghost head that adds
    a static kernel to each channel's filter: a map (B, h, w, C) to the same."""

    def __init__(
        self, dim: int, heads: int, *, kernel: int = 7, group: int = 8, scale: float = 1.0
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} does not divide into {heads} heads: choose a divisor")
        if kernel % 2 == 0 or kernel < 1 or group < 1:
            raise ValueError(
                f"kernel is {kernel}, group {group}: expected an odd kernel, which has a centre, "
                "and a channel a group at least"
            )
        inner = -(-(dim // 3 * 2) // group) * group  # of whole groups
        self.heads, self.kernel, self.scale = heads, kernel, scale
        self.qk, self.v = Linear(dim, 2 * inner), Linear(dim, dim)
        self.mix = Conv(inner, inner, kernel, padding=kernel // 2, groups=inner // group)
        self.act = nn.GELU()
        self.logits = Linear(inner, heads * kernel**2)
        self.ghost = Conv(dim, dim, kernel, padding=kernel // 2, groups=dim, bias=False)
        self.proj = Linear(dim, dim)
        self.reset()

    def reset(self) -> None:
        """The authors' initialisation, of which only the output is a transformer's."""
        for layer in (self.qk, self.v, self.mix, self.logits):
            layer.reset_parameters()
        nn.init.trunc_normal_(self.ghost.weight, std=0.02)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        maps, v = self._maps(x), self.v(x)
        y = self._gathered(maps, v.unflatten(3, (self.heads, -1))).flatten(3)
        return self.proj(y + self.ghost(v))

    def weights(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b heads n k"]:
        """Attention of every head to the kernel^2 positions around each one, before the ghost
        head; rows are queries, one after another."""
        return self._maps(x).flatten(1, 2).transpose(1, 2)

    def absorb(self, scale: Float[Tensor, "c"]) -> None:
        """Multiply the output's channels, for good."""
        self.proj = self.proj.scaled(scale)

    def _maps(self, x: Tensor) -> Float[Tensor, "b h w n k"]:
        q, k = self.qk(x).chunk(2, 3)
        both = q * k if self.scale == 1 else q * k * self.scale
        return self.logits(self.act(self.mix(both))).unflatten(3, (self.heads, -1)).softmax(-1)

    def _gathered(self, maps: Tensor, v: Tensor) -> Float[Tensor, "b h w n d"]:
        return aggregate(maps, v, kernel=self.kernel)


class MultipliedELSA(ELSA):
    """ELSA whose ghost head also multiplies each channel's filter by a static kernel, first."""

    def __init__(self, dim: int, heads: int, **sizes: Any) -> None:
        super().__init__(dim, heads, **sizes)
        self.factor = nn.Parameter(torch.randn(dim, 1, self.kernel, self.kernel))

    def reset(self) -> None:
        """The authors' initialisation: factors are standard normal."""
        super().reset()
        if hasattr(self, "factor"):
            nn.init.normal_(self.factor)

    def _gathered(self, maps: Tensor, v: Tensor) -> Float[Tensor, "b h w n d"]:
        factors = self.factor.flatten(1).mT.reshape(-1, *v.shape[3:])
        return aggregate(maps, v, kernel=self.kernel, factors=factors)


def build(config: Config) -> Backbone:
    """The network of a config, on its host. Raises ValueError."""
    c, inside = config, hosted(config)
    layer = partial(MultipliedELSA if c.multiplied else ELSA, kernel=c.kernel, group=c.group)
    if c.host == "volo":
        made: Backbone = volo.VOLO(inside, lambda _block: layer(c.dims[0], c.heads[0]))
    else:
        sizes = swin.grids(inside)

        def mixer(i: int, j: int) -> nn.Module:
            if i < len(c.dims) - 1:
                return layer(c.dims[i], c.heads[i])
            return WindowAttention(
                c.dims[i], c.heads[i], window=c.window, shifted=j % 2 == 1, grid=sizes[i]
            )

        made = swin.Swin(inside, mixer)
    for module in made.modules():
        if isinstance(module, ELSA):
            module.reset()
    made.config = config
    return made


MODEL = build
