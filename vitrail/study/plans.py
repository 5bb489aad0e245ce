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
    beside those of all arms.
    """

    family: str
    note: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    inside: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A study: `host` gives the common fields of all Configs for (H, W) images."""

    title: str
    question: str
    baseline: str
    arms: Mapping[str, Arm]
    host: Callable[[tuple[int, int]], dict[str, Any]]

    def image(self, inspection: Inspection) -> tuple[int, int]:
        """Return the size to train at: small images as they are, photographs at most 128 a side."""
        sizes = image_sizes(inspection.size)
        return max((s for s in sizes if max(s) <= 128), default=sizes[0])

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

PLANS = {"attention-modules": ATTENTION_MODULES}
