"""How much of a time limit is kept back for what follows the training."""

from __future__ import annotations

from vitrail.measure.machine import crowding

# Export, test and report take about as long whatever the training took.
SECONDS, SHARE = 30.0, 0.15
# Beside other programs they get up to so many times as much.
CROWDED = 4.0


def reserve(limit_s: float, *, more: float = 1.0) -> float:
    """Return the seconds of a limit that export, test and report get, at most half of it.

    `more` is how many times as much as usual there is to do.

    Examples:
        >>> 30 <= reserve(3600.0) <= 120
        True
        >>> reserve(10.0) <= 5
        True
    """
    more *= min(CROWDED, crowding())
    return min(more * SECONDS, more * SHARE * limit_s, limit_s / 2)
