"""What a user asks of `vitrail adapt`, complete."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from vitrail.errors import ConfigError
from vitrail.recipes.ways import chosen


@dataclass(frozen=True)
class Wanted:
    """The arguments, kept in the folder for `resume`.

    `params` is the most that may be trained, a number, or a share of the backbone below 1; `only`
    names some of the ways; `time_s` is for everything.
    """

    base: str
    data: str
    params: float | None = None
    time_s: float | None = None
    epochs: int = 10
    only: tuple[str, ...] = ()
    seed: int = 0
    device: str = "auto"
    threads: int = 1
    group_by: str | None = None

    def __post_init__(self) -> None:
        chosen(self.only)
        if self.epochs < 1:
            raise ConfigError(f"epochs is {self.epochs}: give 1 or more")
        if self.params is not None and self.params <= 0:
            raise ConfigError(f"params is {self.params:g}: give a number above 0, or a share of 1")

    @property
    def command(self) -> str:
        """Return the command that asks for this."""
        words = ["vitrail adapt", shlex.quote(self.base), shlex.quote(self.data)]
        if self.params is not None:
            share = self.params < 1
            words.append(
                f"--params {100 * self.params:g}%" if share else f"--params {self.params:g}"
            )
        words += [f"--time {self.time_s:g}s"] if self.time_s is not None else []
        words += [f"--only {','.join(self.only)}"] if self.only else []
        words += [f"--group-by {shlex.quote(self.group_by)}"] if self.group_by else []
        return " ".join([*words, f"--epochs {self.epochs} --seed {self.seed}"])
