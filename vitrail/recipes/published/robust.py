"""Training on attacked images: the light recipe for transformers, and the canonical one beside it.

Both attack by one step from a random start, 4/255 in the maximum norm. The paper's ablations
compare what is light, basic augmentation, ten times the usual weight decay and a radius that warms
up, with the recipe that the networks are otherwise trained by.
"""

from __future__ import annotations

from dataclasses import replace

from vitrail.recipes.paper import Published
from vitrail.recipes.published.deit import ADAMW, COSINE, PER_512, STRONG, UNCLIPPED

ROBUST_LIGHT = Published(
    "robust_light",
    "Debenedetti et al., SaTML 2023, arXiv 2209.07399; dedeswim/vits-robustness-torch",
    epochs=100,
    batch=512,
    warmup=10,
    rest=10,
    drop_path=0.05,
    radius_warmup=10,
    rule=PER_512,
    settings=ADAMW | COSINE | UNCLIPPED | {
        "optimizer.lr": 5e-4, "optimizer.weight_decay": 0.5,
        "schedule.start": 2e-3, "schedule.floor": 0.02,
        "augment.flip": 0.5, "augment.scale": (0.08, 1.0),
        "augment.policy": "color_jitter", "augment.policy.strength": 0.4,
        "augment.erasing": 0.0, "augment.noise": False, "augment.mixup": 0.0,
        "augment.cutmix": 0.0, "augment.mixing": "batch", "augment.repeats": 1,
        "objective": "adversarial", "objective.smoothing": 0.1,
        "objective.attack.norm": "linf", "objective.attack.radius": 4 / 255,
        "objective.attack.steps": 1,
    },
    unsure=("rest (epochs)",),
    note="made for XCiT; its larger networks take two steps of the attack",
)  # fmt: skip
ROBUST_CANONICAL = replace(
    ROBUST_LIGHT,
    name="robust_canonical",
    radius_warmup=0,
    settings={k: v for k, v in ROBUST_LIGHT.settings.items() if not k.startswith("augment.policy")}
    | STRONG | {"optimizer.weight_decay": 0.05},
    unsure=("rest (epochs)", "radius warmup (epochs)", "augment.erasing"),
    note="what the light recipe is compared with: the augmentation and weight decay of DeiT",
)  # fmt: skip
