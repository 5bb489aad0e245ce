"""What refines points, in NumPy: a map read at each point, KPConv over neighbours, norm, classes.

Of RangeViT only the network between projection and points is exported; this reads the other
weights and needs no torch. `models/parts/kpconv.py` is the same in torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitrail.data.lidar.reader import Network
from vitrail.errors import RunError

EXTENT_M, EPS = 1.2, 1e-5
_AT_ONCE = 1 << 12
_NAMES = (
    "refiner.kpconv.weights", "refiner.kpconv.kernel_points", "refiner.norm.weight",
    "refiner.norm.bias", "refiner.norm.running_mean", "refiner.norm.running_var", "head.weight",
    "head.bias",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Refined:
    """Weights (15, C, C2) with their kernel points (15, 3), the norm's scale and shift (C2,), and
    the classifier (K, C2) with its bias (K,), all float32."""

    weights: np.ndarray
    kernel_points: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    classifier: np.ndarray
    bias: np.ndarray

    @classmethod
    def of(cls, state: Mapping[str, np.ndarray]) -> Refined | None:
        """Return what the weights of a run refine by; None where pixels answer. Raises RunError."""
        if not any(name.startswith("refiner.") for name in state):
            return None
        missing = [name for name in _NAMES if name not in state]
        if missing:
            raise RunError(f"the weights have no {missing[0]}: restore the run folder")
        weights, kernel, gamma, beta, mean, var, classifier, bias = (state[n] for n in _NAMES)
        scale = gamma / np.sqrt(var + EPS)
        return cls(weights, kernel, scale, beta - mean * scale, classifier, bias)

    def __call__(
        self, map: np.ndarray, places: np.ndarray, xyz: np.ndarray, neighbours: np.ndarray
    ) -> np.ndarray:
        """Return the scores of points, float32 (N, classes), from a map (C, H, W).

        `places` (N, 2) are (x, y) from -1 to 1, `neighbours` (N, K) rows of points.
        """
        features = sampled(map, places)
        flat = self.weights.reshape(-1, self.weights.shape[2])
        found = []
        for at in range(0, len(xyz), _AT_ONCE):
            near = neighbours[at : at + _AT_ONCE]
            offsets = xyz[near] - xyz[at : at + _AT_ONCE, None]
            far = np.sqrt(((offsets[:, :, None] - self.kernel_points) ** 2).sum(-1))
            counts = np.clip(1 - far / EXTENT_M, 0, None).astype(np.float32)
            gathered = counts.transpose(0, 2, 1) @ features[near]
            x = gathered.reshape(len(near), -1) @ flat * self.scale + self.shift
            found.append(np.maximum(x, 0) @ self.classifier.T + self.bias)
        return np.concatenate(found).astype(np.float32)


def sampled(map: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return a map (C, H, W) at places (N, 2), (x, y) from -1 to 1 between the outer edges:
    float32 (N, C), bilinearly, what lies beyond being its border."""
    height, width = map.shape[1:]
    x = np.clip((places[:, 0] + 1) * (width / 2) - 0.5, 0, width - 1)
    y = np.clip((places[:, 1] + 1) * (height / 2) - 0.5, 0, height - 1)
    left, top = x.astype(np.int64), y.astype(np.int64)
    right, below = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    a, b = (x - left)[:, None], (y - top)[:, None]
    rows = np.ascontiguousarray(map.reshape(len(map), -1).T)
    upper = rows[top * width + left] * (1 - a) + rows[top * width + right] * a
    lower = rows[below * width + left] * (1 - a) + rows[below * width + right] * a
    return (upper * (1 - b) + lower * b).astype(np.float32)


def in_numpy(running: Any, state: Mapping[str, Any], neighbours: int) -> Network:
    """Return a run as functions of arrays: its file in ONNX Runtime, and its other weights."""
    arrays = {
        name: np.asarray(value, np.float32)
        for name, value in state.items()
        if name.startswith(("refiner.", "head."))
    }

    def maps(images: np.ndarray) -> np.ndarray:
        return np.asarray(running.run(["maps"], {"images": images})[0])

    return Network(maps, Refined.of(arrays), neighbours)
