"""Shots of one scene: which of them is a copy, told by the noise that a shot has of its own."""

import numpy as np

from vitrail.data.signature import FINE

_OWN, _CLIP, _SEEN = 0.5, 3.0, 11


def stand_out(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return which of the others (M, 576), shots of one scene, share what `one` (576,) has alone.

    The scene is the median, which a spot in some of them does not move. Left out of account are
    light that changes, evenly or from side to side, a camera or an object that shifts a little,
    and what else varies most among the others.
    """
    scene = np.median(others[:_SEEN], axis=0)
    axes = _variations(scene.reshape(FINE, FINE))
    mine, theirs = (_clipped(_without(own - scene, axes)) for own in (one[None], others))
    values, vectors = np.linalg.eigh(theirs @ theirs.T)
    main = slice(-max(1, len(others) // 6), None)
    axes = vectors[:, main].T @ theirs / np.sqrt(np.maximum(values[main], 1e-6))[:, None]
    mine, theirs = _without(mine, axes), _without(theirs, axes)
    sizes = np.sqrt((mine**2).sum() * (theirs**2).sum(1))
    return (theirs @ mine.T)[:, 0] >= np.maximum(_OWN * sizes, 1e-6)


def _variations(scene: np.ndarray) -> np.ndarray:
    """Return orthonormal axes (11, 576) along which light and small
    shifts change a scene (24, 24).
    """
    across = np.tile(np.linspace(-1, 1, FINE, dtype=np.float32), (FINE, 1))
    ramps = [np.ones_like(scene), across, across.T]
    down, right = np.gradient(scene)
    bent = [*np.gradient(down), np.gradient(right)[1]]
    varied = np.stack([*ramps, *(ramp * scene for ramp in ramps), down, right, *bent])
    return np.linalg.qr(varied.reshape(len(varied), -1).T)[0].T


def _without(pictures: np.ndarray, axes: np.ndarray) -> np.ndarray:
    return pictures - (pictures @ axes.T) @ axes


def _clipped(own: np.ndarray) -> np.ndarray:
    """Clip large values of (M, 576): noise is everywhere, a spot or an edge in a few places."""
    usual = _CLIP * np.median(np.abs(own[:, ::4]), axis=1, keepdims=True)
    return np.clip(own, -usual, usual)
