"""DeiT's recipe and those that follow it: CaiT, XCiT, LeViT, CvT, Swin, NAT, ConvNeXt, ViT_C."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vitrail.recipes.paper import Published

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
    note="CvT-21 decays by 0.1 and repeats images",
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
