"""GCNet: one context for all positions, added to the map; and the non-local blocks it came from.

Cao et al., "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", ICCV 2019
workshops, arXiv 1904.11492. The attention of a non-local block (Wang et al., CVPR 2018, arXiv
1711.07971) hardly depends on who asks: so all ask the same (simplified non-local, SNL), and with
SE's bottleneck it is a global-context block (GC). `NonLocal` has the four forms of its paper.

Readings. "branch" puts a block on the branches of all blocks of a stage, behind the last norm;
"stream" one between the last two blocks of a stage: so the paper's single blocks are understood.
Basic blocks are gated as bottlenecks are; the reference has none. Blocks begin as the identity,
also from scratch, where the reference's loop over all convolutions overwrites those zeros.
Logits of non-local blocks are not scaled unless `scale` says so: "repository" multiplies by the
root of the inner width as the authors' option does, "inverse" divides, as later versions do, and
"timm" divides by the root of the full one.
timm's context block multiplies only, by default, with an eighth of the channels and an eps of 1e-6.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import channels_first, channels_last
from vitrail.models import resnet
from vitrail.models.names import gcnet as names
from vitrail.models.parts.gcnet_context import GlobalContext, NonLocal, Simplified
from vitrail.models.resnet import ResNet
from vitrail.models.trunk.backbone import Small, Variant
from vitrail.models.trunk.hosts import Flat, moved

SCALES = ("none", "repository", "inverse", "timm")


@dataclass(frozen=True)
class GC:
    """Global context: `ratio` is the inner width over the channels, `pooling` "att" or "avg",
    `fusion` "mul", "add" or both, `eps` that of its LayerNorm."""

    ratio: float = 1 / 16
    pooling: str = "att"
    fusion: tuple[str, ...] = ("add",)
    eps: float = 1e-5

    def build(self, dim: int) -> nn.Module:
        """Return the block for a map of `dim` channels. Raises ValueError."""
        inner = _inner(dim, self.ratio)
        sizes = {"pooling": self.pooling, "fusion": self.fusion, "eps": self.eps}
        return GlobalContext(dim, inner, **sizes)


@dataclass(frozen=True)
class SNL:
    """Simplified non-local: one linear layer, of full width."""

    def build(self, dim: int) -> nn.Module:
        """Return the block for a map of `dim` channels."""
        return Simplified(dim)


@dataclass(frozen=True)
class NL:
    """Non-local: `ratio` as that of GC, a `form` of `gcnet_context.FORMS`, a `scale` of `SCALES`,
    and a BatchNorm at the end if `normed`."""

    ratio: float = 1 / 2
    form: str = "embedded_gaussian"
    scale: str = "none"
    normed: bool = False

    def build(self, dim: int) -> nn.Module:
        """Return the block for a map of `dim` channels. Raises ValueError."""
        inner = _inner(dim, self.ratio)
        compared = dim if self.form == "gaussian" else inner
        scales = dict(zip(SCALES, (1.0, compared**0.5, compared**-0.5, dim**-0.5), strict=True))
        if self.scale not in scales:
            raise ValueError(f"scale is {self.scale!r}: expected {', '.join(scales)}")
        scale = scales[self.scale]
        return NonLocal(dim, inner, form=self.form, scale=scale, normed=self.normed)


def _inner(dim: int, ratio: float) -> int:
    inner = int(dim * ratio)
    if inner < 1:
        raise ValueError(
            f"a ratio of {ratio:g} leaves none of {dim} channels: choose at least {1 / dim:g}"
        )
    return inner


@dataclass(frozen=True)
class Config(resnet.Config):
    """Sizes of a ResNet with a `context` in the `stages` that say so, at the `place` "branch" or
    "stream"."""

    context: GC | SNL | NL = GC()
    stages: tuple[bool, ...] = (False, True, True, True)
    place: str = "branch"


_ONE = Config(stages=(False, False, True, False), place="stream")
_R4, _R101 = GC(ratio=1 / 4), (3, 4, 23, 3)
_COUNT = "The paper's counts are of a ResNet-50 of 3.86 G, with the stride in a 1x1 convolution."
_NL = "The paper adds 0.25 G for the block, whose four convolutions of 14x14 alone take 0.41 G."
# name, sizes; parameters, multiply-adds, accuracy; why operations differ
_ROWS = [
    ("gcnet_r50_r16", Config(), 28.08, 3.87, 77.70, _COUNT),
    ("gcnet_r50_r4", Config(context=_R4), 35.56, None, None, ""),
    ("gcnet_r101_r16", Config(depths=_R101), None, None, None, ""),
    ("gcnet_r101_r4", Config(depths=_R101, context=_R4), None, None, None, ""),
    ("gcnet_r50_one", _ONE, 25.69, 3.86, 77.34, _COUNT),
    ("snlnet_r50_one", replace(_ONE, context=SNL()), 26.61, None, 77.28, ""),
    ("nlnet_r50_one", replace(_ONE, context=NL()), 27.66, 4.11, 77.20, _NL),
]
VARIANTS = {
    name: Variant(config, params_m=params_m, flops_g=flops_g, top1=top1, note=note)
    for name, config, params_m, flops_g, top1, note in _ROWS
}

SPACE = Small(
    Config(expansion=1, stem_kernel=3, context=_R4, stages=(False, True, True)),
    {
        **{k: v for k, v in resnet.SPACE.choices.items() if k != "depths"},
        ("depths", "stages"): (
            ((1, 1, 1), (False, True, True)),
            ((2, 2, 2), (False, True, True)),
            ((1, 1, 1, 1), (False, True, True, True)),
            ((2, 2, 2, 2), (False, True, True, True)),
        ),
    },
)


NAMES = names.TABLES
FLAT: Flat = {
    "context": {
        "gc": moved("gc", "ratio", "pooling", "fusion", "eps", field="context"),
        "snl": moved("snl", field="context"),
        "nl": moved("nl", "ratio", "form", "scale", "normed", field="context"),
    }
}


class Stream(nn.Module):
    """A context block on a map: (B, h, w, C) to the same."""

    def __init__(self, context: nn.Module) -> None:
        super().__init__()
        self.context = context

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        return channels_last(self.context(channels_first(x)))


class GCNet(ResNet):
    """A ResNet with context blocks in some stages."""

    def __init__(self, config: Config) -> None:
        c = config
        if len(c.stages) != len(c.depths):
            raise ValueError(f"stages {c.stages} for depths {c.depths}: expected one word each")
        if c.place not in ("branch", "stream"):
            raise ValueError(f"place is {c.place!r}: expected branch or stream")

        def gate(i: int, j: int, dim: int) -> nn.Module:
            inside = c.stages[i] and c.place == "branch"
            return c.context.build(dim) if inside else nn.Identity()

        super().__init__(config, gate=gate)
        if c.place == "branch":
            return
        for i, (level, depth) in enumerate(zip(self.levels, c.depths, strict=True)):
            if c.stages[i] and depth < 2:
                raise ValueError(
                    f"stage {i} has {depth} block: a context in the stream stands between two; "
                    "use place='branch'"
                )
            if c.stages[i]:
                blocks = self.get_submodule(f"stages.{i}.blocks")
                blocks.insert(depth - 1, Stream(c.context.build(level.channels)))  # pyright: ignore


def idle(config: Config) -> tuple[str, ...]:
    """Return parts of names of parameters without gradients but by rounding: the mask's bias is
    added to all logits of a softmax alike.
    """
    return ("gate.pool.mask.bias",)


MODEL = GCNet
