"""What a user asks of a search, complete."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from vitrail.config import nearest, override
from vitrail.errors import ConfigError
from vitrail.jobs.arguments import Arguments, Words, ask
from vitrail.run.pictures import read_size
from vitrail.search.price import Dual, Multiplier, Raised
from vitrail.search.spaces import SHARED, known
from vitrail.search.spaces.space import Genes, Space
from vitrail.search.strategies import Evolve, Nsga, Progressive, Random, Strategy

# Fewer have no rank correlation.
FEWEST_ALONE = 3
OWN = ("space.", "evolve.", "grow.")
NEW = ("alone", "enforce", "image", "start", "strategy")
STRATEGIES = ("evolve", "nsga", "random")
# How limits are kept while candidates are looked for: by name, None for rejection.
ENFORCED: dict[str, Multiplier | None] = {"reject": None, "raise": Raised(), "dual": Dual()}


class SearchWords(Words, total=False):
    """The options of `vitrail search`: those of `fit`, and its own.

    `alone` is how many networks are trained by themselves, `image` ("32x32", width first) the size
    to train at, `start` a found.json whose network begins the search, `strategy` ("evolve",
    "nsga" or "random") what looks for candidates that share weights, `enforce` ("reject", "raise"
    or "dual") how limits are kept meanwhile.
    """

    alone: int | None
    image: str | None
    start: str | Path | None
    strategy: str | None
    enforce: str | None


@dataclass(frozen=True)
class Wanted:
    """What the user asked for: it is kept in the run folder for `--resume`.

    `tuning` are settings of the space, `evolve` how candidates are bred,
    `grow` how cells grow.
    """

    name: str
    limits: Arguments
    alone: int = 0
    image: tuple[int, int] | None = None
    start: str | None = None
    tuning: tuple[str, ...] = ()
    evolve: Evolve = field(default_factory=Evolve)
    grow: Progressive = field(default_factory=Progressive)
    strategy: str = "evolve"
    enforce: str = "reject"

    def __post_init__(self) -> None:
        kind = known(self.name)
        if self.strategy not in STRATEGIES:
            raise ConfigError(
                f"no strategy is called {self.strategy!r}: {nearest(self.strategy, STRATEGIES)}"
            )
        self._check_enforced()
        if self.strategy != "evolve" and not hasattr(kind, "deeper"):
            raise ConfigError(
                f"--strategy {self.strategy} is of searches that look among candidates with shared "
                f"weights: leave it out for {self.name}, which has a way of its own"
            )
        if self.strategy != "evolve" and self.start is not None:
            raise ConfigError(
                f"--start is where an evolution begins, and --strategy {self.strategy} has no "
                "start: leave one of them out"
            )
        if self.alone and self.name not in SHARED:
            raise ConfigError(
                f"--alone is of searches whose candidates share weights ({', '.join(SHARED)}): "
                f"leave it out for {self.name}, which judges each otherwise"
            )
        if self.alone and self.alone < FEWEST_ALONE:
            raise ConfigError(
                f"--alone {self.alone} is too few for a rank correlation: give {FEWEST_ALONE} or "
                "more, 8 for one that means something"
            )

    def _check_enforced(self) -> None:
        if self.enforce not in ENFORCED:
            raise ConfigError(
                f"no way to keep limits is called {self.enforce!r}: "
                f"{nearest(self.enforce, [*ENFORCED])}"
            )
        if self.multiplier is None:
            return
        if self.name == "pnas" or self.strategy != "evolve":
            who = "pnas" if self.name == "pnas" else f"--strategy {self.strategy}"
            raise ConfigError(
                f"--enforce {self.enforce} is of evolutions and of mixtures: leave it out for "
                f"{who}, which looks at nothing over the limits"
            )
        if self.name == "bats" and self.enforce == "raise":
            raise ConfigError(
                "--enforce raise swings a mixture of operations between too dear and too cheap: "
                "give dual for bats"
            )
        limits = self.limits
        if (limits.macs, limits.params, limits.latency_s) == (None, None, None):
            raise ConfigError(
                f"--enforce {self.enforce} has nothing to enforce: give --macs, --params or "
                "--latency as well, or leave it out"
            )
        if self.name == "bats" and (limits.macs, limits.params) == (None, None):
            raise ConfigError(
                f"--enforce {self.enforce} moves a mixture by what its operations cost, which is "
                "known of counts alone: give --macs or --params as well, or leave it out"
            )

    @property
    def multiplier(self) -> Multiplier | None:
        """Return what enforces the limits, None where candidates over them are rejected."""
        return ENFORCED[self.enforce]

    def looks(self, *, start: tuple[Genes, ...] = ()) -> Strategy:
        """Return what looks for candidates; an evolution begins with `start`."""
        evolve = self.evolve
        if self.strategy == "nsga":
            return Nsga(evolve.population, evolve.generations)
        if self.strategy == "random":
            return Random(evolve.population * evolve.generations, evolve.population)
        return replace(evolve, start=start)

    @property
    def public(self) -> Wanted:
        """Return the same as it may be written down."""
        return replace(self, limits=self.limits.public)

    def again(self, run: Path) -> str:
        """Return the command that goes on with this search in the folder `run`."""
        data = shlex.quote(self.limits.data)
        return f"vitrail search {self.name} {data} --resume --out {shlex.quote(str(run))}"

    def tuned(self, space: Space) -> Space:
        """Return the space with the settings of the user. Raises ConfigError."""
        own: Any = space
        return override(own, list(self.tuning))


def want(
    name: str, data: str | Path, words: SearchWords, settings: Sequence[str], out: Any
) -> Wanted:
    """Read and check what `search` was asked, before any image is read.

    Raises BudgetError and ConfigError.
    """
    known(name)
    own: dict[str, Any] = {key: value for key in NEW if (value := words.get(key)) is not None}
    plain = cast(Words, {key: value for key, value in words.items() if key not in NEW})
    for option in ("pretrained", "add"):
        if plain.get(option) is not None:
            raise ConfigError(f"search has no --{option}: a found network starts from scratch")
    tuned = [s for s in settings if s.strip().startswith(OWN)]
    limits = ask(data, plain, [s for s in settings if s not in tuned], out)
    said = [f"--{key} {shlex.quote(str(value))}" for key, value in own.items()]
    said += [f"--set {shlex.quote(setting)}" for setting in tuned]
    rest = limits.command.removeprefix("vitrail fit")
    command = " ".join([f"vitrail search {name}{rest}", *said])

    def under(prefix: str) -> list[str]:
        return [s.strip().removeprefix(prefix) for s in tuned if s.strip().startswith(prefix)]

    image = own.get("image")
    return Wanted(
        name,
        replace(limits, command=command),
        int(own.get("alone", 0)),
        None if image is None else read_size(image),
        None if own.get("start") is None else str(own["start"]),
        tuple(under("space.")),
        override(Evolve(), under("evolve.")),
        override(Progressive(), under("grow.")),
        str(own.get("strategy", "evolve")),
        str(own.get("enforce", "reject")),
    )
