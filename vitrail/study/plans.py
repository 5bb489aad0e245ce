"""The studies: a host, arms that change one thing each, and a baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vitrail.data.gate import Inspection
from vitrail.models import families, resolve
from vitrail.search.space import image_sizes


@dataclass(frozen=True)
class Arm:
    """One thing to compare: a family, and the fields of its Config beside the host's.

    `inside` is given where the Config holds its host's: which kind of host, and fields that it has
    beside those of all arms. `settings` change the recipe of all arms, in the words of `--set`.
    """

    family: str
    note: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    inside: Mapping[str, Any] = field(default_factory=dict)
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A study: `host` gives the common fields of all Configs for (H, W) images.

    Photographs are trained at `largest` pixels a side at most.
    """

    title: str
    question: str
    baseline: str
    arms: Mapping[str, Arm]
    host: Callable[[tuple[int, int]], dict[str, Any]]
    largest: int = 128

    def image(self, inspection: Inspection) -> tuple[int, int]:
        """Return the size to train at: small images as they are, photographs no larger."""
        sizes = image_sizes(inspection.size)
        return max((s for s in sizes if max(s) <= self.largest), default=sizes[0])

    def config(self, arm: str, image: tuple[int, int], channels: int, classes: int) -> Any:
        """Return the Config of an arm. Raises KeyError."""
        one = self.arms[arm]
        sizes = self.host(image)
        common = {"host": {**one.inside, **sizes}} if one.inside else sizes
        common |= {"image": image, "channels": channels, "classes": classes}
        return resolve(families()[one.family].Config(), **common | dict(one.fields))


def bottlenecks(image: tuple[int, int]) -> dict[str, Any]:
    """Return a ResNet of bottlenecks in three stages, without early strides for small images."""
    small = max(image) <= 48
    return {
        "depths": (1, 2, 2),
        "dims": (16, 32, 64),
        "expansion": 4,
        "stem_stride": 2 if small else 4,
    }


# Placed as their papers place them in ResNet-50, whose last three stages are these three.
ATTENTION_MODULES = Plan(
    "Attention modules in one ResNet",
    "Which attention, put into the same small ResNet, is worth its cost? Gates re-weight what "
    "convolutions found; self-attention takes the place of 3x3 convolutions.",
    "none",
    {
        "none": Arm("resnet", "3x3 convolutions alone"),
        "SE": Arm("senet", "squeeze-and-excitation in every block, reduction 16"),
        "ECA": Arm("eca", "efficient channel attention in every block"),
        "CBAM": Arm("cbam", "channel, then spatial gates in every block"),
        "BAM": Arm("cbam", "a bottleneck attention module after each stage", {"attention": "bam"}),
        "GC": Arm(
            "gcnet",
            "a global context added in the last two stages, ratio 1/16",
            {"stages": (False, True, True)},
        ),
        "BoT": Arm(
            "botnet",
            "global attention with relative positions in the last stage",
            {"attending": ((), (), (0, 1))},
        ),
        "AA": Arm(
            "aa_resnet",
            "a tenth of the channels by global attention beside the convolutions",
            inside={"kind": "resnet"},
        ),
        "SASA": Arm(
            "sasa",
            "attention to the 7x7 neighbours in every block",
            {"mixtures": 0, "heads": 4},
        ),
        "Halo": Arm(
            "halonet",
            "blocks of 7x7 that attend to a halo of 3, in the last two stages",
            {"attending": ((), (0, 1), (0, 1)), "heads": (4, 4, 4), "block": 7},
        ),
        "LESA": Arm(
            "lesa",
            "attention and a grouped convolution, fused dynamically, in the last two stages",
            {"groups": 4, "strides": (2, 2)},
        ),
        "ACmix": Arm(
            "acmix",
            "attention to the 7x7 neighbours and a convolution from one projection, everywhere",
            inside={"kind": "resnet", "heads": (4, 4, 4)},
        ),
    },
    bottlenecks,
)


def patches(image: tuple[int, int]) -> int:
    """Return the side of a patch: 4 pixels in small images, 16 in photographs."""
    return 4 if max(image) <= 48 else 16


def tokens(image: tuple[int, int]) -> dict[str, Any]:
    """Return a small isotropic transformer on patches."""
    return {"dim": 48, "depth": 3, "heads": 3, "hidden": 96, "patch": patches(image)}


LOCAL_FEED_FORWARD = Plan(
    "Convolutions in the feed-forward networks of a DeiT",
    "What does a depthwise convolution between the layers of the feed-forward network give a small "
    "transformer, and what do the activation and the gates of LocalViT (arXiv 2104.05707) add?",
    "DeiT",
    {
        "DeiT": Arm("deit", "the host: attention and plain feed-forward networks"),
        "LocalViT with ReLU6": Arm(
            "localvit",
            "a depthwise 3x3 convolution between two of 1x1, with BatchNorm and ReLU6",
            {"act": "relu6", "squeeze": (16,)},
            {"kind": "deit"},
        ),
        "LocalViT": Arm(
            "localvit",
            "the same with h-swish and squeeze-and-excitation",
            {"squeeze": (16,)},
            {"kind": "deit"},
        ),
    },
    tokens,
)


def compact(image: tuple[int, int]) -> dict[str, Any]:
    """Return the sizes that ViT-Lite, CVT and CCT share, without stochastic depth."""
    return {"dim": 48, "depth": 3, "heads": 3, "hidden": 96, "inner": 24, "drop_path": 0.0}


COMPACT_TRANSFORMERS = Plan(
    "Compact transformers",
    "Which step from a small ViT to CCT (arXiv 2104.05704) pays: the mean of all tokens that is "
    "learned in place of the class token, or tokens made by convolutions?",
    "ViT-Lite",
    {
        "ViT-Lite": Arm(
            "cct",
            "the host: patches of 4 and a class token",
            {"kernel": 4, "convs": 0, "pool": "token"},
        ),
        "CVT": Arm("cct", "patches of 4, sequence pooling", {"kernel": 4, "convs": 0}),
        "CCT": Arm("cct", "two 3x3 convolutions with pooling, sequence pooling", {"convs": 2}),
    },
    compact,
    largest=64,
)


def early(image: tuple[int, int]) -> dict[str, Any]:
    """Return the sizes that ViT_P and ViT_C share."""
    return {"dim": 48, "heads": 3, "hidden": 144}


def _stems() -> dict[str, Arm]:
    """Return the two stems by the optimizers, SGD at the paper's rates scaled by the batch."""
    kinds = {
        "patches": ("patches of 4", {"stem": (), "strides": (), "patch": 4, "depth": 4}),
        "convolutions": (
            "two 3x3 convolutions of stride 2, one block fewer",
            {"stem": (24, 48), "strides": (2, 2), "patch": 1, "depth": 3},
        ),
    }
    sgd = ("optimizer=sgd", "optimizer.lr=0.06", "optimizer.weight_decay=1.3e-5")
    learned = {
        "AdamW": ("AdamW, the usual rate", ()),
        "AdamW x 4": ("AdamW, four times that rate", ("optimizer.lr=2.8e-3",)),
        "SGD": ("SGD with momentum, rate 0.06", sgd),
    }
    return {
        f"{kind} by {name}": Arm("vit_c", f"{note}; {by}", fields, settings=settings)
        for kind, (note, fields) in kinds.items()
        for name, (by, settings) in learned.items()
    }


EARLY_CONVOLUTIONS = Plan(
    "A stem of patches or of convolutions, by optimizer",
    "Does a stem of convolutions (ViT_C, arXiv 2106.14881) make a transformer depend less on how "
    "it is trained: by AdamW or by SGD, at this rate or at another?",
    "patches by AdamW",
    _stems(),
    early,
    largest=64,
)

PLANS = {
    "attention-modules": ATTENTION_MODULES,
    "local-feed-forward": LOCAL_FEED_FORWARD,
    "compact-transformers": COMPACT_TRANSFORMERS,
    "early-convolutions": EARLY_CONVOLUTIONS,
}
