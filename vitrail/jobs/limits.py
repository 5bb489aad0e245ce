"""Budgets of a model that is made smaller: absolute, or a share of what it costs now."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vitrail.compression.sizes import Sized, largest, least
from vitrail.errors import BudgetError
from vitrail.run.subject import counted
from vitrail.units import count, parse_count, parse_latency, seconds

Clock = Callable[[Any], float]


@dataclass(frozen=True)
class Limits:
    """What a smaller model may cost; None sets no limit."""

    macs: int | None = None
    params: int | None = None
    latency_s: float | None = None

    def spoken(self) -> str:
        """Say the limits in words."""
        said = []
        if self.macs is not None:
            said.append(f"{count(self.macs)} multiply-adds")
        if self.params is not None:
            said.append(f"{count(self.params)} parameters")
        if self.latency_s is not None:
            said.append(f"latency {seconds(self.latency_s)}")
        return ", ".join(said)

    def keeps(self, config: Any, clock: Clock | None = None) -> bool:
        """Return whether the model of a config is within all limits; `clock` times it."""
        figures = counted(config)
        if figures is None:
            return False
        if self.macs is not None and figures.macs > self.macs:
            return False
        if self.params is not None and figures.params > self.params:
            return False
        return self.latency_s is None or clock is None or clock(config) <= self.latency_s


def read(
    macs: str | int | None,
    params: str | int | None,
    latency: str | float | None,
    now: Limits,
    floor: Callable[[], Limits] = Limits,
) -> Limits:
    """Read limits such as 50%, 3M or 5ms; shares are of what the model costs `now`.

    Raises BudgetError where there is none, and for one that is not below what it costs, with what
    it has to cost at least, which `floor` tells.
    """
    found = Limits(
        _limit("--macs", macs, now.macs, parse_count, count, lambda: floor().macs),
        _limit("--params", params, now.params, parse_count, count, lambda: floor().params),
        _limit("--latency", latency, now.latency_s, parse_latency, seconds, lambda: None),
    )
    if found == Limits():
        raise BudgetError("no budget is given: add --macs 50%, --params 50% or --latency 5ms")
    return found


def cheapest(config: Any) -> Limits:
    """Return what a model of one head and one neuron a block costs."""
    small = counted(least(config).config)
    assert small is not None
    return Limits(small.macs, small.params)


def _limit(
    option: str, text: Any, now: Any, parse: Callable, said: Callable, floor: Callable[[], Any]
) -> Any:
    """Read one limit, which must be below `now`."""
    if text is None:
        return None
    share = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", str(text))
    value = type(now)(float(share[1]) / 100 * now) if share else parse(text)
    if not 0 < value < now:
        low = floor()
        wanted = "less than that" if low is None else f"less than that, down to {said(low)}"
        raise BudgetError(
            f"{option} {text} is {said(value)}, and the model has {said(now)}: give {wanted}"
        )
    return value


def sized(config: Any, limits: Limits, clock: Clock | None = None) -> Sized:
    """Return the largest sizes of a model within the limits.

    `clock` tells the latency of a config, in seconds, and is asked only of what is within the other
    limits. Raises BudgetError where not even one head and one neuron a block are.
    """
    found = largest(config, lambda one: limits.keeps(one, clock))
    if found is not None:
        return found
    small, whole = cheapest(config), counted(config)
    assert small.macs is not None and small.params is not None and whole is not None
    ranges = []
    if limits.macs is not None:
        ranges.append(f"multiply-adds from {count(small.macs)} to {count(whole.macs)}")
    if limits.params is not None:
        ranges.append(f"parameters from {count(small.params)} to {count(whole.params)}")
    if limits.latency_s is not None and clock is not None:
        ranges.append(f"a latency from {seconds(clock(least(config).config))} on")
    raise BudgetError(
        f"the budget ({limits.spoken()}) is below what one head and one neuron a block cost: with "
        f"at least these the model has {' and '.join(ranges)}"
    )
