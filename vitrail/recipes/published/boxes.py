"""Detectors on COCO as the papers of backbones trained them.

What a paper leaves open is what its detector's own paper has, and is marked as not certain. What no
recipe here has: images that keep their shape (ours are squares of the shorter side), training at
several sizes, frozen first stages and norms. All start from weights of ImageNet-1k, which
`--set pretrained=FILE` gives; only AA-ResNet's may have started from nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vitrail.recipes.paper import COCO, Published

SGD: dict[str, Any] = {
    "optimizer": "sgd",
    "optimizer.lr": 0.01,
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": False,
    "optimizer.weight_decay": 1e-4,
}
ADAMW: dict[str, Any] = {
    "optimizer": "adamw",
    "optimizer.lr": 1e-4,
    "optimizer.weight_decay": 0.05,
    "optimizer.betas": (0.9, 0.999),
}
PLAIN: dict[str, Any] = {
    "steps.clip": None, "steps.ema": None,
    "augment.flip": 0.5, "augment.scale": None, "augment.policy": None, "augment.erasing": 0.0,
    "augment.repeats": 1,
}  # fmt: skip
BOXES: dict[str, Any] = {"task": "detection"} | PLAIN
OUTLINES: dict[str, Any] = {"task": "instances"} | PLAIN
GOYAL = "Goyal et al., arXiv 1706.02677, since its paper has no rule"
# What is not certain of a training that is told by its length alone.
OPEN = ("epochs", "steps.batch", "optimizer.lr", "optimizer.weight_decay", "schedule.drops",
        "warmup (epochs)", "image")  # fmt: skip


def stairs(*drops: float, start: float = 1 / 3) -> dict[str, Any]:
    """Return a schedule that falls to a tenth at each share of the steps."""
    return {"schedule": "staircase", "schedule.start": round(start, 4),
            "schedule.drops": tuple(round(one, 4) for one in drops),
            "schedule.by": 0.1}  # fmt: skip


def warmup(steps: int, batch: int) -> float:
    """Return so many steps of a batch as epochs."""
    return steps * batch / COCO


RETINANET = Published(
    "retinanet",
    "Lin et al., ICCV 2017, arXiv 1708.02002",
    epochs=12,
    batch=16,
    warmup=warmup(500, 16),
    settings=SGD | BOXES | stairs(2 / 3, 8 / 9),
    rule=GOYAL,
    image=800,
    unsure=("warmup (epochs)", "schedule.start"),
    note="90,000 steps of 16 images, and a tenth of the rate from 60,000 and 80,000",
    head="retinanet",
)
RETINANET_AA = replace(
    RETINANET,
    name="retinanet_aa",
    source="Bello et al., ICCV 2019, arXiv 1904.09925",
    unsure=OPEN,
    note="mAP 36.8 to 38.2 in the paper; what it does not say is RetinaNet's own",
)
RETINANET_SASA = replace(
    RETINANET,
    name="retinanet_sasa",
    source="Ramachandran et al., NeurIPS 2019, arXiv 1906.05909",
    unsure=OPEN,
    note="RetinaNet with FPN in the paper; what it does not say is RetinaNet's own",
)
RETINANET_PVT = replace(
    RETINANET,
    name="retinanet_pvt",
    source="Wang et al., ICCV 2021, arXiv 2102.12122; whai362/PVT",
    settings=ADAMW | BOXES | stairs(8 / 12, 11 / 12, start=0.001),
    drop_path=0.0,
    unsure=("optimizer.weight_decay", "model.drop_path", "schedule.start"),
    note="12 epochs, a tenth of the rate from the 8th and the 11th",
)
MASK_BOTNET = Published(
    "mask_rcnn_botnet",
    "Srinivas et al., CVPR 2021, arXiv 2101.11605",
    epochs=36,
    batch=64,
    warmup=warmup(500, 64),
    settings=SGD | OUTLINES | stairs(8 / 9, 26 / 27) | {
        "optimizer.lr": 0.1, "optimizer.weight_decay": 4e-5,
    },
    rule=GOYAL,
    image=1024,
    unsure=("optimizer.weight_decay", "schedule.drops", "warmup (epochs)", "schedule.start"),
    note="BoT50 43.6 of boxes and 38.6 of outlines at 36 epochs in the paper, with images scaled "
    "by 0.1 to 2",
    head="mask_rcnn",
)  # fmt: skip
MASK_HALONET = replace(
    MASK_BOTNET,
    name="mask_rcnn_halonet",
    source="Vaswani et al., CVPR 2021, arXiv 2103.12731",
    unsure=OPEN,
    note="what the paper does not say is BoTNet's",
)
MASK_GCNET = Published(
    "mask_rcnn_gcnet",
    "Cao et al., ICCV Workshops 2019, arXiv 1904.11492; xvjiarui/GCNet",
    epochs=12,
    batch=16,
    warmup=warmup(500, 16),
    settings=SGD | OUTLINES | stairs(8 / 12, 11 / 12) | {"optimizer.lr": 0.02},
    rule=GOYAL,
    image=800,
    note="1x; 2x has 24 epochs and falls after 16 and 22. Weights are those of a ResNet without "
    "contexts, which begin as nothing; R50 38.5 and 35.1 with contexts of ratio 1/16 in c3 to c5",
    head="mask_rcnn",
)
MASK_LESA = Published(
    "mask_rcnn_lesa",
    "Yang et al., 2021, arXiv 2107.05637; Chenglin-Yang/LESA_detection",
    epochs=20,
    batch=8,
    warmup=warmup(500, 8),
    settings=SGD | OUTLINES | stairs(16 / 20, 19 / 20),
    rule=GOYAL,
    image=1024,
    unsure=("optimizer.weight_decay", "warmup (epochs)", "schedule.start"),
    note="with deformable convolutions in c3 to c5 there, which are not here; tables of positions "
    "start anew",
    head="mask_rcnn",
    backbone={"strides": (2, 2, 2), "position": "axes"},
)
MASK_MVITV2 = Published(
    "mask_rcnn_mvitv2",
    "Li et al., CVPR 2022, arXiv 2112.01526; facebookresearch/detectron2",
    epochs=36,
    batch=64,
    warmup=warmup(250, 64),
    settings=ADAMW
    | OUTLINES
    | stairs(52.5 / 67.5, 62.5 / 67.5, start=0.001)
    | {"optimizer.lr": 1.6e-4},
    rule=GOYAL,
    image=800,
    drop_path=0.2,
    unsure=("schedule.start",),
    note="T and S; B has drop path 0.4, L 0.5 at a rate of 1e-4, H 0.6",
    head="mask_rcnn",
    backbone={"window": 56},
)
MASK_SWIN = Published(
    "mask_rcnn_swin",
    "Liu et al., ICCV 2021, arXiv 2103.14030; SwinTransformer/Swin-Transformer-Object-Detection",
    epochs=36,
    batch=16,
    warmup=warmup(500, 16),
    settings=ADAMW | OUTLINES | stairs(27 / 36, 33 / 36, start=0.001),
    rule=GOYAL,
    image=800,
    drop_path=0.2,
    unsure=("model.drop_path",),
    note="3x; shorter sides of 480 to 800 in turns",
    head="mask_rcnn",
)
MASK_CSWIN = replace(
    MASK_SWIN,
    name="mask_rcnn_cswin",
    source="Dong et al., CVPR 2022, arXiv 2107.00652; microsoft/CSWin-Transformer",
    epochs=12,
    drop_path=None,
    settings=ADAMW | OUTLINES | stairs(8 / 12, 11 / 12, start=0.001),
    unsure=("optimizer.lr", "warmup (epochs)", "schedule.start", "model.drop_path"),
    note="1x, T 46.7 and 42.2 in the paper; 3x is Swin's",
)
ON_COCO = [
    RETINANET, RETINANET_AA, RETINANET_SASA, RETINANET_PVT, MASK_BOTNET, MASK_HALONET, MASK_GCNET,
    MASK_LESA, MASK_MVITV2, MASK_SWIN, MASK_CSWIN,
]  # fmt: skip
