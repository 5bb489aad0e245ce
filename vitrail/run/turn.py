"""How a dial is turned: by a limit of latency, by its place, or by a deadline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

from vitrail.errors import ConfigError
from vitrail.run.dial import Dial, Point
from vitrail.units import parse_latency


class Turns(TypedDict, total=False):
    """How a dial is turned; None is not at all.

    `latency` ("5ms") is the longest median time of a picture, `dial` a place from 0, the fastest,
    to 1, the most accurate, and `deadline` ("20ms") when each answer has to be there, the reading
    of the picture included.
    """

    latency: str | float | None
    dial: float | None
    deadline: str | float | None


@dataclass(frozen=True)
class Turn:
    """A wish to turn a dial: one of a limit in seconds, a place in [0, 1], a deadline in seconds.

    Raises ConfigError.
    """

    latency_s: float | None = None
    place: float | None = None
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        if self.place is not None and not 0 <= self.place <= 1:
            raise ConfigError(
                f"dial is {self.place:g}: give a place from 0, the fastest, to 1, the most accurate"
            )

    def picked(self, dial: Dial) -> Point:
        """Return the setting for all images. Raises BudgetError."""
        if self.latency_s is not None:
            return dial.under(self.latency_s)
        return dial[dial.chosen] if self.place is None else dial.at(self.place)


def turn(words: Turns) -> Turn | None:
    """Read how a dial is to be turned, None where it is not.

    Raises ConfigError, also for more than one wish, and BudgetError for what is not a time.
    """
    given = [name for name in Turns.__annotations__ if words.get(name) is not None]
    if len(given) > 1:
        raise ConfigError(
            f"{given[0]} and {given[1]} turn the same dial: give one of latency, dial and deadline"
        )
    if not given:
        return None
    value: Any = words.get(given[0])
    if given == ["dial"]:
        return Turn(place=float(value))
    limit_s = parse_latency(value)
    return Turn(latency_s=limit_s) if given == ["latency"] else Turn(deadline_s=limit_s)
