"""Random numbers that belong to an image and a step, whoever computes them.

A number is a function of (seed, step, stream, image), mixed by the finaliser of SplitMix64 (Steele
et al., OOPSLA 2014): a stopped training draws the same when it goes on, and several processes draw
between them what one would.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vitrail.training.objective import Step

_GOLDEN = 0x9E3779B97F4A7C15
_MIXERS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_BITS = 24  # what a float32 holds exactly


def uniform(images: Tensor, step: Step, stream: int, count: int) -> Tensor:
    """Return float32 (B, count) in [0, 1) for images whose numbers are `images` (B,).

    `stream` tells apart what is drawn for one image in one step.
    """
    base = _seed(step, stream)
    columns = torch.arange(count, dtype=torch.int64, device=images.device)
    rows = _mixed(images.to(torch.int64) * _signed(_GOLDEN) + base)
    words = _mixed(rows[:, None] + (columns + 1) * _signed(_GOLDEN))
    high = (words >> (64 - _BITS)) & (2**_BITS - 1)
    return high.to(torch.float32) * 2.0**-_BITS


def once(step: Step, stream: int) -> float:
    """Return one number in [0, 1) for the whole batch of a step."""
    return float(np.random.default_rng((step.seed, step.number, stream)).random())


def between(share: Tensor, low: float, high: float) -> Tensor:
    """Return shares in [0, 1) as numbers in [low, high)."""
    return low + (high - low) * share


def _seed(step: Step, stream: int) -> int:
    words = np.random.SeedSequence((step.seed, step.number, stream))
    return int(words.generate_state(1, np.uint64)[0].astype(np.int64))


def _mixed(words: Tensor) -> Tensor:
    for shift, factor in _MIXERS:
        words = (words ^ _shifted(words, shift)) * _signed(factor)
    return words ^ _shifted(words, 31)


def _shifted(words: Tensor, by: int) -> Tensor:
    """Shift to the right as if there were no sign."""
    return (words >> by) & (2 ** (64 - by) - 1)


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word
