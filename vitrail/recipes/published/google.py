"""Google's recipes: MaxViT, MLP-Mixer, and AugReg's grid of augmentation and regularisation."""

from __future__ import annotations

import math
from typing import Any

from vitrail.recipes.paper import Published, epochs_of
from vitrail.recipes.published.deit import ADAMW, NO_RULE, SMOOTHED, UNCLIPPED

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
    unsure=("augment.scale", "augment.cutmix", "steps.ema"),
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


def prior(classes: int) -> float:
    """Return where the bias of a sigmoid begins: -6.9 of 1000 classes, the share of one of them."""
    return -math.log(classes)
