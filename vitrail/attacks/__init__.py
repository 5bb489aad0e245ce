"""Attacks on a model: the smallest changes of pixels that make its answers wrong.

A `Ball` says how far pixels may move; `PGD` is one attack, of training and of evaluation alike,
`auto_pgd` the stronger one of evaluation. All see pixels in [0, 1] and take gradients with respect
to these alone.
"""

from vitrail.attacks.auto_pgd import auto_pgd
from vitrail.attacks.ball import Ball, Norm
from vitrail.attacks.losses import cross_entropy, difference_of_logits
from vitrail.attacks.pgd import PGD, gradient

__all__ = [
    "PGD",
    "Ball",
    "Norm",
    "auto_pgd",
    "cross_entropy",
    "difference_of_logits",
    "gradient",
]
