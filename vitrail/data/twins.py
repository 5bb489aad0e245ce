"""Which images show the same picture: a signature of each, and groups of those that are copies.

A copy is the same photograph saved again, smaller or in another format. Two photographs of one
object are not copies, however alike they look: a part under a fixed camera with and without a
scratch, or twice without one. So two pictures are twins when

- they look alike from afar: lumas on an 8x8 grid differ by at most 2.5 levels (root mean
  square) and 8 % of their own contrast, chroma on 8x8 by at most 4 levels;
- nothing differs in one place: on a 24x24 grid (12x12 where one is smaller and below 48 pixels),
  no more than 8 levels and half of the contrast that both have around that place;
- and, where many look alike (a scene seen again and again), they agree in what sets them apart
  from the others: what is left without the scene's mean and main variations, light and position,
  is correlated by at least 0.5. Shots of one scene have noise of their own; a copy has the noise
  of its original.

Pictures with the same pixels are always twins. Groups are stars: every member is a twin of the
one in the middle, so that a long row of slightly different pictures does not become one group.
"""

import math
from collections.abc import Iterator

import numpy as np

from vitrail.data.scenes import stand_out
from vitrail.data.signature import (
    BYTES,
    FINE,
    chroma,
    grey_signatures,
    luma,
    short_side,
    signature,
)
from vitrail.measure.machine import cores

__all__ = ["BYTES", "LEVELS", "grey_signatures", "signature", "twins", "unite"]

MIDDLE, COARSE = 12, 8
LEVELS, CONTRAST, TINT, SPOT, STAIN = 2.5, 0.08, 4.0, 8.0, 16.0

_AXES = 6
_SAMPLE = 20_000
_NEAREST = 24
_BLOCK = 256
_FEW, _MANY = 4, 16


def twins(
    digests: np.ndarray,
    signatures: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    threshold: float = LEVELS,
) -> np.ndarray:
    """Return the group of each image, int64 (N,): equal for images that are copies.

    `digests` is (N, 2) uint64 of the files, `signatures` (N, BYTES) uint8, `labels` int64 (N,)
    class indices (default: all of one class), which tell scenes from copies. `threshold` is the
    first limit in levels, and scales those of chroma and of single places; 0 finds equal pixels
    alone. Groups are numbered by their first image. The time is nearly linear in N.
    """
    n = len(digests)
    same = unite(np.arange(n), _as_keys(digests), _as_keys(signatures))
    distinct = np.flatnonzero(same == np.arange(n))
    if threshold <= 0 or len(distinct) < 2:
        return same
    labels = np.zeros(n, np.int64) if labels is None else labels
    rank = np.argsort(np.lexsort((digests[distinct, 1], digests[distinct, 0])))
    pairs = close_pairs(signatures[distinct], labels[distinct], rank, threshold=threshold)
    centre = distinct[_stars(len(distinct), *pairs, rank)]
    groups: np.ndarray = np.arange(n)
    groups[distinct] = centre
    return _numbered(groups[same])


def close_pairs(
    signatures: np.ndarray, labels: np.ndarray, rank: np.ndarray, *, threshold: float = LEVELS
) -> tuple[np.ndarray, np.ndarray]:
    """Return all pairs of twins among (N, BYTES) signatures as indices left < right.

    A picture that looks like 4 others of more than one class, or like a third of its class (at
    least 4, at most 16), is a shot of a scene: its twins must stand out of those.
    """
    n = len(signatures)
    near = _nearest(_project(signatures), rank, threshold * COARSE)
    codes, kept = [np.empty(0, np.int64)], [np.empty(0, bool)]
    for start in range(0, n, _BLOCK):
        rows, slots = np.nonzero(near[start : start + _BLOCK] < n)
        for here, there, good in _judged(
            signatures, rows + start, near[start + rows, slots], labels, threshold
        ):
            codes.append(np.minimum(here, there) * n + np.maximum(here, there))
            kept.append(good)
    code, inverse = np.unique(np.concatenate(codes), return_inverse=True)
    refused = np.bincount(inverse, ~np.concatenate(kept), minlength=len(code))
    code = code[refused == 0]
    return code // n, code % n


def _project(signatures: np.ndarray) -> np.ndarray:
    """Project coarse lumas on the axes along which they differ most, float32 (N, 6)."""
    step = max(1, len(signatures) // _SAMPLE)
    some = _coarse(luma(signatures[::step]))
    mean = some.mean(0)
    _, axes = np.linalg.eigh((some - mean).T @ (some - mean))
    axes = axes[:, -_AXES:].astype(np.float32)
    blocks = range(0, len(signatures), _BLOCK)
    return np.concatenate(
        [(_coarse(luma(signatures[at : at + _BLOCK])) - mean) @ axes for at in blocks]
    )


def _nearest(low: np.ndarray, rank: np.ndarray, reach: float) -> np.ndarray:
    """Return indices (N, 25) of the nearest within reach; N stands for none, or for oneself."""
    from scipy.spatial import KDTree

    # A thousandth more makes up for rounding. Where pictures coincide, a trifle of their rank
    # keeps them apart, else the tree could not divide them.
    n = len(low)
    points = np.column_stack([low, rank * (1e-4 * reach / n)])
    tree = KDTree(points, balanced_tree=False, compact_nodes=False)
    _, found = tree.query(
        points, k=min(_NEAREST + 1, n), distance_upper_bound=reach * 1.001, workers=cores()
    )
    near: np.ndarray = np.asarray(found)
    near[near == np.arange(n)[:, None]] = n
    return near


def _judged(
    signatures: np.ndarray,
    here: np.ndarray,
    there: np.ndarray,
    labels: np.ndarray,
    threshold: float,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield pairs that look alike from afar, and whether they are twins; sorted by `here`."""
    if not len(here):
        return
    mine, mine_at = np.unique(here, return_inverse=True)
    a, b = luma(signatures[mine])[mine_at], luma(signatures[there])
    tints = np.abs(chroma(signatures[here]) - chroma(signatures[there]))
    alike = _alike_from_afar(a, b, tints, threshold)
    if not alike.any():
        return
    here, there, a, b, tints = (of[alike] for of in (here, there, a, b, tints))
    mine, starts, counts = np.unique(here, return_index=True, return_counts=True)
    good = np.ones(len(here), bool)
    others = np.add.reduceat((labels[here] != labels[there]).astype(int), starts)
    share = np.clip(np.bincount(labels)[labels[mine]] // 3, _FEW, _MANY)
    scene = (counts >= share) | ((counts >= _FEW) & (others >= 2))
    for first, n in zip(starts[scene], counts[scene], strict=True):
        good[first : first + n] = stand_out(a[first], b[first : first + n])
    one, other = short_side(signatures[here]), short_side(signatures[there])
    small = (one != other) & (np.minimum(one, other) < 2 * FINE)
    good[good] = _alike_everywhere(a[good], b[good], tints[good], small[good], threshold)
    yield here, there, good


def _alike_from_afar(
    a: np.ndarray, b: np.ndarray, tints: np.ndarray, threshold: float
) -> np.ndarray:
    tint = np.sqrt((tints**2).mean(1))
    a, b = _coarse(a), _coarse(b)
    apart = np.sqrt(((a - b) ** 2).mean(1))
    contrast = np.minimum(a.std(1), b.std(1))
    scale = threshold / LEVELS
    return (apart <= np.minimum(threshold, CONTRAST * contrast)) & (tint <= TINT * scale)


def _alike_everywhere(
    a: np.ndarray, b: np.ndarray, tints: np.ndarray, small: np.ndarray, threshold: float
) -> np.ndarray:
    """Return which pairs look alike everywhere; `small` bool (N,) tells where one of the two has
    too few pixels for the fine grid.
    """
    scale = threshold / LEVELS
    good: np.ndarray = np.all(tints <= STAIN * scale, axis=1)
    for side, at in ((FINE, np.flatnonzero(~small)), (MIDDLE, np.flatnonzero(small))):
        one, other = _shrunk(a[at], side), _shrunk(b[at], side)
        both = np.minimum(_contrast_around(one), _contrast_around(other))
        good[at] &= (np.abs(one - other) <= SPOT * scale + both / 2).all(1)
    return good


def _coarse(fine: np.ndarray) -> np.ndarray:
    return _shrunk(fine, COARSE)


def _shrunk(fine: np.ndarray, side: int) -> np.ndarray:
    step = FINE // side
    return fine.reshape(-1, side, step, side, step).mean((2, 4)).reshape(-1, side * side)


def _contrast_around(grid: np.ndarray) -> np.ndarray:
    """Return (N, side * side): the range of the values in the 3x3 places around each."""
    side = math.isqrt(grid.shape[1])
    maps = np.pad(grid.reshape(-1, side, side), ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = [maps[:, i : i + side] for i in range(3)]
    high, low = np.maximum.reduce(rows), np.minimum.reduce(rows)
    high = np.maximum.reduce([high[:, :, i : i + side] for i in range(3)])
    low = np.minimum.reduce([low[:, :, i : i + side] for i in range(3)])
    return (high - low).reshape(-1, side * side)


def _stars(n: int, left: np.ndarray, right: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Return the middle of each one's group: those with most twins
    first, each takes what is free.
    """
    a, b = np.concatenate([left, right]), np.concatenate([right, left])
    order = np.argsort(a, kind="stable")
    b = b[order]
    degree: np.ndarray = np.bincount(a, minlength=n)
    ends = np.cumsum(degree)
    centre: np.ndarray = np.arange(n)
    free = degree > 0
    for at in np.lexsort((rank, -degree))[: int(free.sum())].tolist():
        if free[at]:
            mine = b[ends[at] - degree[at] : ends[at]]
            mine = mine[free[mine]]
            centre[mine] = at
            free[mine] = free[at] = False
    return centre


def unite(groups: np.ndarray, *keys: np.ndarray) -> np.ndarray:
    """Return the groups that arise when images with an equal value in any key are joined too."""
    n = len(groups)
    parent: np.ndarray = np.arange(n)
    for key in (groups, *keys):
        _, index, inverse = np.unique(key, return_index=True, return_inverse=True)
        first = index[inverse]
        for a in np.flatnonzero(first != np.arange(n)).tolist():
            one, other = _root(parent, a), _root(parent, int(first[a]))
            parent[max(one, other)] = min(one, other)
    while not np.array_equal(parent, parent[parent]):
        parent = parent[parent]
    return parent


def _root(parent: np.ndarray, at: int) -> int:
    while parent[at] != at:
        parent[at] = parent[parent[at]]
        at = int(parent[at])
    return at


def _as_keys(rows: np.ndarray) -> np.ndarray:
    """Return rows as single values that can be compared."""
    rows = np.ascontiguousarray(rows)
    return rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()


def _numbered(groups: np.ndarray) -> np.ndarray:
    """Return the same groups, named by their first members."""
    _, index, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return index[inverse]
