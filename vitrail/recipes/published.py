"""Published recipes, each as one value: read, compare, change, train by `--recipe NAME`.

What no recipe here has: timm's colour jitter, which its RandAugment replaces; cubic interpolation
of crops (ours is linear); evaluation on a central crop, or at another size than in training (images
are resized whole); Adam's first moment in bfloat16, which AugReg and Mixer kept to save memory.
ImageNet's mean and deviation, or [-1, 1], become those of the data at hand. The ten epochs at the
lowest rate that the options of DeiT, CaiT, XCiT, LeViT and CvT name are in no recipe but NAT's: the
loops of the others stop before them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from vitrail.errors import ConfigError
from vitrail.recipes.paper import Published, epochs_of

ADAMW: dict[str, Any] = {
    "optimizer": "adamw",
    "optimizer.lr": 1e-3,
    "optimizer.weight_decay": 0.05,
    "optimizer.betas": (0.9, 0.999),
}
# timm's cosine: from 1e-6 up to 1e-3 and down to 1e-5, over all epochs, the first hidden by the
# warm-up. Fractions of the rate here, so that they follow it, as Swin's code has them.
COSINE: dict[str, Any] = {
    "schedule": "cosine",
    "schedule.start": 1e-3,
    "schedule.floor": 1e-2,
    "schedule.whole": True,
}
UNCLIPPED: dict[str, Any] = {"steps.clip": None, "steps.units": None, "steps.ema": None}
# "rand-m9-mstd0.5-inc1", erasing in "pixel" mode, mixup or CutMix once a batch.
STRONG: dict[str, Any] = {
    "augment.flip": 0.5,
    "augment.scale": (0.08, 1.0),
    "augment.policy": "timm_rand_augment",
    "augment.policy.magnitude": 9,
    "augment.policy.std": 0.5,
    "augment.policy.increasing": True,
    "augment.erasing": 0.25,
    "augment.noise": True,
    "augment.mixup": 0.8,
    "augment.cutmix": 1.0,
    "augment.mixing": "batch",
    "augment.repeats": 1,
}
SMOOTHED: dict[str, Any] = {"objective": "cross_entropy", "objective.smoothing": 0.1}
# A convolutional teacher, RegNetY-16GF, whose likeliest class is half of what is learned.
TAUGHT: dict[str, Any] = {
    "objective": "distillation",
    "objective.outputs": "hard",
    "objective.share": 0.5,
    "objective.smoothing": 0.1,
}
PER_512 = "the authors' 5e-4 for each 512 images"
NO_RULE = "Goyal et al., arXiv 1706.02677, since its paper has no rule"

DEIT = Published(
    "deit",
    "Touvron et al., ICML 2021, arXiv 2012.12877; facebookresearch/deit",
    epochs=300,
    batch=1024,
    warmup=5,
    drop_path=0.1,
    rule=PER_512,
    settings=ADAMW | COSINE | UNCLIPPED | STRONG | SMOOTHED
    | {"augment.repeats": 3, "steps.ema": 0.99996},
    note="the average of the weights was kept, and the paper's figures are without it",
)  # fmt: skip
DEIT_DISTILLED = replace(
    DEIT,
    name="deit_distilled",
    settings=DEIT.settings | TAUGHT | {"steps.ema": None},
    note="needs --set objective.teacher=RUN, and best a model with a distillation token",
)
CAIT = replace(
    DEIT,
    name="cait",
    source="Touvron et al., ICCV 2021, arXiv 2103.17239; facebookresearch/deit",
    epochs=400,
    drop_path=None,
    settings=DEIT.settings | {"steps.ema": None},
)
XCIT = replace(
    DEIT,
    name="xcit",
    source="El-Nouby et al., NeurIPS 2021, arXiv 2106.09681; facebookresearch/xcit",
    epochs=400,
    drop_path=None,
    settings=DEIT.settings | {"steps.ema": None},
)
LEVIT = replace(
    DEIT,
    name="levit",
    source="Graham et al., ICCV 2021, arXiv 2104.01136; facebookresearch/LeViT",
    epochs=1000,
    drop_path=None,
    batch=8192,
    settings=DEIT.settings | TAUGHT | {
        "optimizer.lr": 8e-3, "optimizer.weight_decay": 0.025, "steps.units": 0.01,
        "schedule.start": 1.25e-4, "schedule.floor": 1.25e-3,
    },
    unsure=("steps.batch",),
    note="256 images on each of 32 accelerators; needs --set objective.teacher=RUN",
)  # fmt: skip
CVT = Published(
    "cvt",
    "Wu et al., ICCV 2021, arXiv 2103.15808; microsoft/CvT",
    epochs=300,
    batch=2048,
    warmup=5,
    settings=ADAMW | COSINE | UNCLIPPED | STRONG | SMOOTHED
    | {"optimizer.lr": 2e-3, "schedule.start": 5e-4, "schedule.floor": 5e-3},
    rule="the authors' 2.5e-4 for each 256 images",
    note="CvT-21 decays by 0.1",
)  # fmt: skip
SWIN = Published(
    "swin",
    "Liu et al., ICCV 2021, arXiv 2103.14030; microsoft/Swin-Transformer",
    epochs=300,
    batch=1024,
    warmup=20,
    settings=ADAMW | COSINE | UNCLIPPED | STRONG | SMOOTHED
    | {"schedule.start": 5e-4, "schedule.floor": 5e-3, "steps.clip": 5.0},
    rule=PER_512,
)  # fmt: skip
NAT = replace(
    SWIN,
    name="nat",
    source="Hassani et al., CVPR 2023, arXiv 2204.07143; SHI-Labs",
    rest=10,
    settings=SWIN.settings | {"schedule.start": 1e-3},
    rule="Swin's 5e-4 for each 512 images, since its paper has none",
)
CONVNEXT = replace(
    SWIN,
    name="convnext",
    source="Liu et al., CVPR 2022, arXiv 2201.03545; facebookresearch/ConvNeXt",
    batch=4096,
    settings=SWIN.settings | {
        "optimizer.lr": 4e-3, "schedule.start": 0.0, "schedule.floor": 2.5e-4,
        "schedule.whole": False, "steps.clip": None, "steps.ema": 0.9999,
    },
    rule=NO_RULE,
    note="a reference point: the family is not in the catalog",
)  # fmt: skip
VIT_C = Published(
    "vit_c",
    "Xiao et al., NeurIPS 2021, arXiv 2106.14881; facebookresearch/pycls",
    epochs=400,
    batch=2048,
    warmup=5,
    drop_path=0.0,
    settings=ADAMW | UNCLIPPED | SMOOTHED | {
        "optimizer.weight_decay": 0.24,
        "schedule": "cosine", "schedule.start": 0.1, "schedule.floor": 5e-3,
        "schedule.whole": True,
        "steps.ema": 0.99995,
        "augment.flip": 0.5, "augment.scale": (0.08, 1.0), "augment.policy": "auto_augment",
        "augment.erasing": 0.0, "augment.noise": False, "augment.mixup": 0.8,
        "augment.cutmix": 1.0, "augment.mixing": "batch", "augment.repeats": 1,
    },
    rule="pycls, which takes it in proportion",
    unsure=("steps.clip", "objective.smoothing", "augment.mixing"),
    note="the average follows every 32 steps by 0.0016, which is 0.00005 a step",
)  # fmt: skip

# Google's: warm-up of 10,000 steps, all operations act, one mixture a batch.
GOOGLE: dict[str, Any] = {
    "augment.flip": 0.5,
    "augment.scale": (0.05, 1.0),
    "augment.policy": "google_rand_augment",
    "augment.policy.layers": 2,
    "augment.policy.magnitude": 15,
    "augment.erasing": 0.0,
    "augment.noise": False,
    "augment.cutmix": 0.0,
    "augment.mixing": "roll",
    "augment.repeats": 1,
}
# Kernels alone decay, by 1e-4 of a step whose rate is 1e-3: 0.1 times the rate.
SIGMOID: dict[str, Any] = {
    "objective": "sigmoid_cross_entropy",
    "objective.smoothing": 0.0,
    "objective.present": None,
    "objective.over": "sum",
    "objective.bias": -6.9,
}
TEN_THOUSAND = epochs_of(10_000, 4096)

MAXVIT = Published(
    "maxvit",
    "Tu et al., ECCV 2022, arXiv 2204.01697; google-research/maxvit",
    epochs=300,
    batch=4096,
    warmup=TEN_THOUSAND,
    settings=ADAMW | UNCLIPPED | GOOGLE | SMOOTHED | {
        "optimizer.lr": 3e-3,
        "schedule": "cosine", "schedule.start": 0.0, "schedule.floor": 1 / 300,
        "schedule.whole": False,
        "steps.clip": 1.0, "steps.ema": 0.9999, "augment.scale": (0.08, 1.0),
        "augment.mixup": 0.8,
    },
    rule=NO_RULE,
    unsure=("augment.scale", "augment.cutmix"),
)  # fmt: skip
MIXER = Published(
    "mixer",
    "Tolstikhin et al., NeurIPS 2021, arXiv 2105.01601; google-research/big_vision",
    epochs=300,
    batch=4096,
    warmup=TEN_THOUSAND,
    drop_path=0.1,
    settings=ADAMW | UNCLIPPED | GOOGLE | SIGMOID | {
        "optimizer.weight_decay": 0.1,
        "schedule": "linear", "schedule.start": 0.0, "schedule.floor": 1e-2,
        "schedule.whole": False,
        "steps.clip": 1.0, "augment.mixup": 0.5,
    },
    rule=NO_RULE,
    note="its code drops paths without scaling up the others",
)  # fmt: skip

# Levels of augmentation: parameter of mixup, magnitude of RandAugment (None: none).
LEVELS: dict[str, tuple[float, float | None]] = {
    "none": (0.0, None),
    "light1": (0.0, 0),
    "light2": (0.2, 10),
    "medium1": (0.2, 15),
    "medium2": (0.5, 15),
    "strong1": (0.5, 20),
    "strong2": (0.8, 20),
}


def augreg(level: str, regularised: bool = False) -> Published:
    """Return a recipe of AugReg's grid: how strong augmentation is, and whether parts are dropped.

    The grid's other weight decay is 0.03. With fewer images or a larger model, a stronger level.
    """
    mixup, magnitude = LEVELS[level]
    policy = {
        "augment.policy": None if magnitude is None else "google_rand_augment",
        "augment.policy.layers": 2,
        "augment.policy.magnitude": magnitude,
    }
    policy = {path: v for path, v in policy.items() if magnitude is not None or path.count(".") < 2}
    plain = {path: v for path, v in GOOGLE.items() if not path.startswith("augment.policy")}
    return Published(
        f"augreg_{level}" + ("_regularised" if regularised else ""),
        "Steiner et al., TMLR 2022, arXiv 2106.10270; google-research/big_vision",
        epochs=300,
        batch=4096,
        warmup=TEN_THOUSAND,
        drop_path=0.1 if regularised else 0.0,
        settings=ADAMW | UNCLIPPED | plain | policy | SIGMOID | {
            "optimizer.weight_decay": 0.1,
            "schedule": "cosine", "schedule.start": 0.0, "schedule.floor": 0.0,
            "schedule.whole": False,
            "steps.clip": 1.0, "augment.mixup": mixup,
        } | ({"methods": "dropout", "methods.0.rate": 0.1} if regularised else {}),
        rule=NO_RULE,
    )  # fmt: skip


# LAMB as timm has it clips the gradient at norm 1 by itself.
RSB_A1 = Published(
    "rsb_a1",
    "Wightman et al., 2021, arXiv 2110.00476; huggingface/pytorch-image-models",
    epochs=600,
    batch=2048,
    warmup=5,
    drop_path=0.05,
    settings=COSINE | UNCLIPPED | STRONG | {
        "optimizer": "lamb", "optimizer.lr": 5e-3, "optimizer.weight_decay": 0.01,
        "optimizer.betas": (0.9, 0.999),
        "schedule.start": 0.02, "schedule.floor": 2e-4, "steps.clip": 1.0,
        "augment.policy.magnitude": 7, "augment.mixup": 0.2, "augment.erasing": 0.0,
        "augment.noise": False, "augment.repeats": 3,
        "objective": "sigmoid_cross_entropy", "objective.smoothing": 0.1,
        "objective.present": 0.2, "objective.over": "mean", "objective.bias": None,
    },
    rate_by="root",
    rule="LAMB's authors, You et al., arXiv 1904.00962",
    unsure=("schedule.start", "schedule.floor", "objective.present"),
    note="a class of a mixture counts as present from a share of 0.2",
)  # fmt: skip
RSB_A2 = replace(
    RSB_A1,
    name="rsb_a2",
    epochs=300,
    settings=RSB_A1.settings
    | {"optimizer.weight_decay": 0.02, "augment.mixup": 0.1, "objective.smoothing": 0.0},
)
RSB_A3 = replace(
    RSB_A2,
    name="rsb_a3",
    epochs=100,
    image=160,
    drop_path=0.0,
    settings=RSB_A2.settings | {
        "optimizer.lr": 8e-3, "schedule.start": 0.0125, "schedule.floor": 1.25e-4,
        "augment.policy.magnitude": 6, "augment.repeats": 1,
    },
    note="its figures are at 224 pixels after training at 160; here both are 160",
)  # fmt: skip

RECIPES: dict[str, Published] = {
    one.name: one
    for one in [
        DEIT, DEIT_DISTILLED, CAIT, XCIT, LEVIT, CVT, SWIN, NAT, CONVNEXT, VIT_C, MAXVIT, MIXER,
        RSB_A1, RSB_A2, RSB_A3,
        *(augreg(level, more) for more in (False, True) for level in LEVELS),
    ]
}  # fmt: skip


def published(name: str) -> Published:
    """Return a published recipe by its name. Raises ConfigError, with the nearest names."""
    if name not in RECIPES:
        near = get_close_matches(name, [*RECIPES], n=3, cutoff=0.5)
        near = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(RECIPES)}"
        raise ConfigError(f"recipe {name!r} does not exist: {near}")
    return RECIPES[name]


def prior(classes: int) -> float:
    """Return where the bias of a sigmoid begins: -6.9 of 1000 classes, the share of one of them."""
    return -math.log(classes)
