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
from vitrail.models.parts.gcnet_context import GlobalContext, NonLocal, Simplified
from vitrail.models.resnet import ResNet
from vitrail.models.trunk.backbone import Small, Variant

SCALES = ("none", "repository", "inverse", "timm")


@dataclass(frozen=True)
class Config(resnet.Config):
    """Sizes of a ResNet with context.

    `context` is "gc", "snl" or "nl", in the `stages` that say so, at the `place` "branch" or
    "stream". `ratio` is the inner width of GC and NL over the channels. GC has a `pooling` "att"
    or "avg", a `fusion` of "mul", "add" or both, and the `eps` of its LayerNorm; NL has a `form`
    of `gcnet_context.FORMS`, a `scale` of `SCALES`, and a BatchNorm at its end if `normed`.
    """

    context: str = "gc"
    stages: tuple[bool, ...] = (False, True, True, True)
    place: str = "branch"
    ratio: float = 1 / 16
    pooling: str = "att"
    fusion: tuple[str, ...] = ("add",)
    eps: float = 1e-5
    form: str = "embedded_gaussian"
    scale: str = "none"
    normed: bool = False


_ONE = Config(stages=(False, False, True, False), place="stream")
_COUNT = "The paper's counts are of a ResNet-50 of 3.86 G, with the stride in a 1x1 convolution."
_NL = "The paper adds 0.25 G for the block, whose four convolutions of 14x14 alone take 0.41 G."
VARIANTS = {
    "gcnet_r50_r16": Variant(Config(), params_m=28.08, flops_g=3.87, top1=77.70, note=_COUNT),
    "gcnet_r50_r4": Variant(Config(ratio=1 / 4), params_m=35.56),
    "gcnet_r101_r16": Variant(Config(depths=(3, 4, 23, 3))),
    "gcnet_r101_r4": Variant(Config(depths=(3, 4, 23, 3), ratio=1 / 4)),
    "gcnet_r50_one": Variant(_ONE, params_m=25.69, flops_g=3.86, top1=77.34, note=_COUNT),
    "snlnet_r50_one": Variant(replace(_ONE, context="snl"), params_m=26.61, top1=77.28),
    "nlnet_r50_one": Variant(
        replace(_ONE, context="nl", ratio=1 / 2),
        params_m=27.66,
        flops_g=4.11,
        top1=77.20,
        note=_NL,
    ),
}

SPACE = Small(
    Config(expansion=1, stem_kernel=3, ratio=1 / 4, stages=(False, True, True)),
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


def _flat(value: Tensor) -> Tensor:
    """A 1x1 convolution's weight, or a norm's on (C, 1, 1), without the axes of length one."""
    return value.flatten(1) if value.ndim == 4 else value.flatten()


def _authors(config: Config) -> list:
    inside: list = [(".context_block.conv_mask.", ".gate.pool.mask.", _flat)]
    for fusion in ("add", "mul"):
        for number, ours in ((0, "fc1"), (1, "norm"), (3, "fc2")):
            theirs = f".context_block.channel_{fusion}_conv.{number}."
            inside.append((theirs, f".gate.{fusion}.{ours}.", _flat))
    inside += _packed(config, ".nonlocal_block.", ("theta.conv", "phi.conv", "g.conv"))
    inside += [
        (".nonlocal_block.conv_out.conv.", ".gate.leave.", _flat),
        (".nonlocal_block.concat_project.0.", ".gate.pair.", _flat),
    ]
    return [*inside, *resnet.NAMES["torchvision"](config)]


def _packed(config: Config, where: str, names: tuple[str, ...]) -> list:
    """Rows of theta, phi and g, or of g alone."""
    if config.form == "gaussian":
        return [(f"{where}{names[-1]}.", ".gate.project.", _flat)]
    return [
        (f"{where}{name}.{leaf}", f".gate.project.{leaf}[{k}/3]", _flat)
        for k, name in enumerate(names)
        for leaf in ("weight", "bias")
    ]


def _timm(config: Config) -> list:
    inside: list = [
        (".se.conv_attn.", ".gate.pool.mask.", _flat),
        (".se.mlp_scale.", ".gate.mul.", _flat),
        (".se.mlp_add.", ".gate.add.", _flat),
        *_packed(config, ".se.", ("t", "p", "g")),
        (".se.z.", ".gate.leave.", _flat),
        (".se.norm.", ".gate.norm."),
    ]
    return [*inside, *resnet.NAMES["timm"](config)]


NAMES = {"xvjiarui/GCNet": _authors, "timm": _timm}


class Stream(nn.Module):
    """A context block on a map: (B, h, w, C) to the same."""

    def __init__(self, context: nn.Module) -> None:
        super().__init__()
        self.context = context

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        return channels_last(self.context(channels_first(x)))


def context(dim: int, config: Config) -> nn.Module:
    """The block that a config asks for. Raises ValueError."""
    c = config
    hidden = int(dim * c.ratio)
    if hidden < 1:
        raise ValueError(
            f"a ratio of {c.ratio:g} leaves none of {dim} channels: choose at least {1 / dim:g}"
        )
    if c.context == "gc":
        return GlobalContext(dim, hidden, pooling=c.pooling, fusion=c.fusion, eps=c.eps)
    if c.context == "snl":
        return Simplified(dim)
    if c.context != "nl":
        raise ValueError(f"context is {c.context!r}: expected gc, snl or nl")
    compared = dim if c.form == "gaussian" else hidden
    scales = {
        "none": 1.0,
        "repository": compared**0.5,
        "inverse": compared**-0.5,
        "timm": dim**-0.5,
    }
    if c.scale not in scales:
        raise ValueError(f"scale is {c.scale!r}: expected {', '.join(scales)}")
    return NonLocal(dim, hidden, form=c.form, scale=scales[c.scale], normed=c.normed)


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
            return context(dim, c) if inside else nn.Identity()

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
                blocks.insert(depth - 1, Stream(context(level.channels, c)))  # pyright: ignore


def idle(config: Config) -> tuple[str, ...]:
    """Parts of names of parameters without gradients but by rounding: the mask's bias is added to
    all logits of a softmax alike."""
    return ("gate.pool.mask.bias",)


MODEL = GCNet
