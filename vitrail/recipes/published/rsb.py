"""ResNet Strikes Back: three recipes for a ResNet-50, of 600, 300 and 100 epochs."""

from __future__ import annotations

from dataclasses import replace

from vitrail.recipes.paper import Published
from vitrail.recipes.published.deit import COSINE, STRONG, UNCLIPPED

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
