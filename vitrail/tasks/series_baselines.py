"""Small models on time series: the usual class, and that of the nearest training series."""

from __future__ import annotations

import numpy as np

# Distances are computed for so many numbers at a time.
BLOCK = 1 << 24


def usual(labels: np.ndarray) -> int:
    """Return the most frequent of labels (N,), the first of several."""
    return int(np.bincount(labels).argmax())


def nearest(known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Return for each series (M, T, F) which of (N, T, F) is nearest: int64 (M,).

    The distance is Euclidean over all steps and features, of what is missing or behind the last
    step as if it were the mean; the first of several that are as near.
    """
    flat, wanted = (
        np.nan_to_num(some.reshape(len(some), -1)).astype(np.float64) for some in (known, asked)
    )
    norms = np.square(flat).sum(1)
    pace = max(1, BLOCK // max(1, len(flat)))
    found = [
        (norms - 2 * wanted[at : at + pace] @ flat.T).argmin(1)
        for at in range(0, len(wanted), pace)
    ]
    return np.concatenate(found)
