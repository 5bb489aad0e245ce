"""The masks of a part at one size, from a cache file as images have, or read each time."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vitrail.data import store
from vitrail.data.builtin import cache_folder
from vitrail.data.masks import resized
from vitrail.data.parallel import in_order
from vitrail.data.split import Part
from vitrail.errors import DataError

_AT_ONCE = 64


class MaskPixels:
    """The masks of a part at one size, uint8 (N, H, W): mapped from the cache, or None where each
    is read when it is taken."""

    def __init__(self, part: Part, image: tuple[int, int], masks: np.ndarray | None) -> None:
        self.part, self.image, self.masks = part, image, masks

    def __len__(self) -> int:
        return len(self.part)

    def take(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the masks at `indices`, uint8 (n, H, W)."""
        if self.masks is not None:
            return self.masks[indices]
        return np.stack([resized(whole(self.part, int(at)), self.image) for at in indices])


def whole(part: Part, at: int) -> np.ndarray:
    """Return one mask of a part at its own size, uint8 (H, W). Raises DataError."""
    masks = part.source.masks
    if masks is None:
        raise DataError(f"{part.source.origin} has no masks: give images with a mask for each")
    return masks.read(int(part.rows[at]))


def mask_pixels(
    part: Part,
    image: tuple[int, int],
    *,
    folder: Path | None = None,
    workers: int | None = None,
) -> MaskPixels:
    """Give the masks of `part` at `image` = (H, W), each pixel the class nearest to its centre.

    They are made once and kept beside the images of the cache ($VITRAIL_CACHE, `folder`); where
    these cannot be kept, a warning says so, and masks are read when they are taken.
    """
    shape = (len(part), *image)
    text = f"masks {part.digest} {shape}"
    name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    path = (cache_folder() if folder is None else Path(folder)) / "pixels" / f"{name}.npy"
    try:
        found = store.open_array(path, shape)
    except ValueError as error:
        warnings.warn(f"the cache file {path} {error}: its masks are read again", stacklevel=2)
        found = None
    if found is None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            store.write_array(path, shape, _blocks(part, image, workers))
            found = store.open_array(path, shape)
        except OSError as error:
            warnings.warn(
                f"the cache {path.parent} cannot be written ({error.strerror or error}): masks are "
                "read each time, which is slow",
                stacklevel=2,
            )
    return MaskPixels(part, image, found)


def _blocks(part: Part, image: tuple[int, int], workers: int | None) -> Iterator[np.ndarray]:
    def work(rows: range) -> np.ndarray:
        return np.stack([resized(whole(part, at), image) for at in rows])

    return in_order(
        work, len(part), size=_AT_ONCE, workers=workers, title="reading masks", progress=False
    )
