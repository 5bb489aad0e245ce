"""RandAugment on whole batches, with the operations and the 31 magnitudes of torchvision.

Cubuk, Zoph, Shlens, Le, NeurIPS 2020, arXiv:1909.13719. Torchvision draws from the global
generator, one image after the other; here the draws are given, and images with the same
operation go through it together.
"""

import math

import numpy as np
import torch

BINS = 31
OPERATIONS = (
    "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color",
    "contrast", "sharpness", "identity", "posterize", "solarize", "autocontrast", "equalize",
)  # fmt: skip
_SIGNED = OPERATIONS.index("sharpness")  # these and those before go both ways


def randaugment(
    images: np.ndarray, operations: np.ndarray, signs: np.ndarray, magnitude: int
) -> np.ndarray:
    """Apply to each of uint8 (b, H, W, C) its `operations` (b, k), indices into OPERATIONS.

    `signs` (b, k) are 1 or -1; `magnitude` is 0 to 30.
    """
    batch = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    for chosen, sign in zip(operations.T, signs.T, strict=True):
        pairs = np.stack([chosen, np.where(chosen <= _SIGNED, sign, 1)], 1)
        for pair in np.unique(pairs, axis=0):
            same = torch.from_numpy(np.flatnonzero((pairs == pair).all(1)))
            batch[same] = operate(batch[same], OPERATIONS[pair[0]], int(pair[1]), magnitude)
    return np.ascontiguousarray(batch.permute(0, 2, 3, 1).numpy())


def operate(batch: torch.Tensor, name: str, sign: int, magnitude: int) -> torch.Tensor:
    """Apply one operation to uint8 (b, C, H, W)."""
    from torchvision.transforms.v2 import functional as F

    share = sign * magnitude / (BINS - 1)
    height, width = batch.shape[-2:]
    match name:
        case "shear_x" | "shear_y":
            angle = math.degrees(math.atan(0.3 * share))
            shear = [angle, 0.0] if name == "shear_x" else [0.0, angle]
            return F.affine(batch, 0.0, [0, 0], 1.0, shear, center=[0.0, 0.0])
        case "translate_x":
            return F.affine(batch, 0.0, [int(share * 150 / 331 * width), 0], 1.0, [0.0, 0.0])
        case "translate_y":
            return F.affine(batch, 0.0, [0, int(share * 150 / 331 * height)], 1.0, [0.0, 0.0])
        case "rotate":
            return F.rotate(batch, 30 * share)
        case "brightness":
            return F.adjust_brightness(batch, 1 + 0.9 * share)
        case "color":
            return F.adjust_saturation(batch, 1 + 0.9 * share)
        case "contrast":
            return F.adjust_contrast(batch, 1 + 0.9 * share)
        case "sharpness":
            return F.adjust_sharpness(batch, 1 + 0.9 * share)
        case "posterize":
            return F.posterize(batch, 8 - round(4 * share))
        case "solarize":
            return F.solarize(batch, 255 * (1 - share))
        case "autocontrast":
            return F.autocontrast(batch)
        case "equalize":
            return F.equalize(batch)
    return batch
