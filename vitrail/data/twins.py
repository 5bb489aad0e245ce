"""Which images show the same picture: a small signature of each, and all close pairs of them.

A signature is 288 bytes: the picture's luma on a 16x16 grid and its two chroma on 4x4. Two
pictures are twins when their lumas differ by at most 2.5 levels (root mean square) and 8 % of
their own contrast, and their chroma by at most 4 levels: the same photograph saved again,
smaller or in another format, but not two photographs of one object. The search is exact: it
projects the lumas onto their four principal axes, which brings no two further apart, and
compares only what falls into the same or neighbouring cells of a grid as wide as the limit.
"""

from itertools import product

import numpy as np
from PIL import Image

LUMA, CHROMA = 16, 4
BYTES = LUMA * LUMA + 2 * CHROMA * CHROMA
LEVELS, CONTRAST, TINT = 2.5, 0.08, 4.0

_AXES = 4
_SAMPLE = 20_000
_BLOCK = 1 << 18


def signature(image: Image.Image) -> np.ndarray:
    """uint8 (288,) of an upright image in mode L or RGB."""
    if image.mode == "L":
        luma = np.asarray(image.resize((LUMA, LUMA), Image.Resampling.BOX))
        return np.concatenate([luma.ravel(), np.full(2 * CHROMA * CHROMA, 128, np.uint8)])
    small = image.resize((LUMA, LUMA), Image.Resampling.BOX).convert("YCbCr")
    bands = small.split()
    coarse = [band.resize((CHROMA, CHROMA), Image.Resampling.BOX) for band in bands[1:]]
    return np.concatenate([np.asarray(band).ravel() for band in (bands[0], *coarse)])


def grey_signatures(pixels: np.ndarray) -> np.ndarray:
    """uint8 (N, 288) of uint8 (N, h, w).

    To one level what `signature` gives where the sides are multiples of 16; else pixels on an
    edge of the grid count in parts here and whole there.
    """
    rows, columns = (_averaging(side) for side in pixels.shape[1:])
    luma = np.rint(rows @ pixels.astype(np.float32) @ columns.T).astype(np.uint8)
    out = np.full((len(pixels), BYTES), 128, np.uint8)
    out[:, : LUMA * LUMA] = luma.reshape(len(pixels), -1)
    return out


def _averaging(side: int) -> np.ndarray:
    """(16, side): each row averages its sixteenth of the pixels, in parts where they are cut."""
    edges = np.arange(LUMA + 1) * side / LUMA
    starts = np.arange(side)
    overlap = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    weights = np.clip(overlap, 0, None)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def twins(digests: np.ndarray, signatures: np.ndarray) -> np.ndarray:
    """Group of each image, int64 (N,): equal for images that show the same picture.

    `digests` is (N, 2) uint64 of the files, `signatures` (N, 288) uint8. Groups are numbered
    by their first image. Twins of twins are in one group.
    """
    n = len(digests)
    parent = np.arange(n)
    first = {}
    for key in (digests, signatures):
        rows = np.ascontiguousarray(key).view(
            np.dtype((np.void, key.dtype.itemsize * key.shape[1]))
        )
        _, index, inverse = np.unique(rows.ravel(), return_index=True, return_inverse=True)
        first[key.shape[1]] = index
        _unite(parent, np.arange(n), index[inverse])
    distinct = np.sort(first[BYTES])
    for left, right in close_pairs(signatures[distinct]):
        _unite(parent, distinct[left], distinct[right])
    return _flatten(parent)


def close_pairs(signatures: np.ndarray):
    """Yields index arrays (left, right) of all pairs of twins among (N, 288) signatures."""
    n = len(signatures)
    if n < 2:
        return
    luma = signatures[:, : LUMA * LUMA]
    reach = LEVELS * LUMA  # the limit as a Euclidean distance over 16 x 16 values
    low = _project(luma)
    # A thousandth more than the reach makes up for rounding in the projection.
    cells = np.floor(low / (reach * 1.001)).astype(np.int64)
    cells -= cells.min(0) - 1
    spans = cells.max(0) + 2
    strides = np.cumprod(np.concatenate([[1], spans[:-1]]))
    codes = cells @ strides
    order = np.argsort(codes, kind="stable")
    names, starts, counts = np.unique(codes[order], return_index=True, return_counts=True)
    for offset in product((-1, 0, 1), repeat=_AXES):
        step = int(np.dot(offset, strides))
        if offset < (0,) * _AXES:
            continue
        at = np.minimum(np.searchsorted(names, names + step), len(names) - 1)
        here = np.flatnonzero(names[at] == names + step)
        there = at[here]
        for left, right in _crossings(starts[here], counts[here], starts[there], counts[there]):
            if step == 0:
                left, right = left[left < right], right[left < right]
            left, right = order[left], order[right]
            near = ((low[left] - low[right]) ** 2).sum(1) <= (reach * 1.001) ** 2
            left, right = left[near], right[near]
            same = _alike(signatures[left], signatures[right])
            if same.any():
                yield left[same], right[same]


def _project(luma: np.ndarray) -> np.ndarray:
    """(N, 256) to float32 (N, 4) on the axes along which the pictures differ most."""
    step = max(1, len(luma) // _SAMPLE)
    some = luma[::step].astype(np.float32)
    mean = some.mean(0)
    _, axes = np.linalg.eigh((some - mean).T @ (some - mean))
    axes = axes[:, -_AXES:].astype(np.float32)
    blocks = range(0, len(luma), _BLOCK)
    return np.concatenate([(luma[at : at + _BLOCK] - mean) @ axes for at in blocks])


def _crossings(starts_a, counts_a, starts_b, counts_b):
    """All pairs of positions between runs a[i] and b[i], in blocks of bounded size."""
    sizes = counts_a * counts_b
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    for begin in range(0, total, _BLOCK):
        flat = np.arange(begin, min(begin + _BLOCK, total))
        run = np.searchsorted(ends, flat, side="right")
        within = flat - (ends[run] - sizes[run])
        yield starts_a[run] + within // counts_b[run], starts_b[run] + within % counts_b[run]


def _alike(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    cut = LUMA * LUMA
    a, b = a.astype(np.float32), b.astype(np.float32)
    luma = np.sqrt(((a[:, :cut] - b[:, :cut]) ** 2).mean(1))
    tint = np.sqrt(((a[:, cut:] - b[:, cut:]) ** 2).mean(1))
    contrast = np.minimum(a[:, :cut].std(1), b[:, :cut].std(1))
    return (luma <= np.minimum(LEVELS, CONTRAST * contrast)) & (tint <= TINT)


def unite(groups: np.ndarray, *keys: np.ndarray) -> np.ndarray:
    """The groups that arise when images with an equal value in any of `keys` are joined too."""
    parent = np.arange(len(groups))
    for key in (groups, *keys):
        _, index, inverse = np.unique(key, return_index=True, return_inverse=True)
        _unite(parent, np.arange(len(groups)), index[inverse])
    return _flatten(parent)


def _unite(parent: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    for a, b in zip(left.tolist(), right.tolist(), strict=True):
        if a != b:
            a, b = _root(parent, a), _root(parent, b)
            if a != b:
                parent[max(a, b)] = min(a, b)


def _root(parent: np.ndarray, at: int) -> int:
    while parent[at] != at:
        parent[at] = parent[parent[at]]
        at = int(parent[at])
    return at


def _flatten(parent: np.ndarray) -> np.ndarray:
    while True:
        above = parent[parent]
        if np.array_equal(above, parent):
            return parent
        parent = above
