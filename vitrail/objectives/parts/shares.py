"""Checks of the shares that objectives of labels take."""

from __future__ import annotations

from vitrail.errors import ConfigError


def check_smoothing(smoothing: float) -> None:
    """Raise ConfigError for a share of each label that cannot be spread over all classes."""
    if not 0 <= smoothing < 1:
        raise ConfigError(f"smoothing {smoothing} is not in [0, 1): 0 is usual")


def check_balance(balance: float) -> None:
    """Raise ConfigError for a power of rarity beyond that at which all classes count alike."""
    if not 0 <= balance <= 1:
        raise ConfigError(f"balance {balance} is not in [0, 1]: 0 is off, 1 is full")
