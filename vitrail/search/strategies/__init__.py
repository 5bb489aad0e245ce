"""Which candidates a search looks at next, one strategy a file; all know genes and nothing else."""

from vitrail.search.strategies.chance import Listed, Random
from vitrail.search.strategies.evolve import Evolve
from vitrail.search.strategies.nsga import Nsga
from vitrail.search.strategies.progressive import Progressive
from vitrail.search.strategies.strategy import Allowed, Draft, Found, Ground, Strategy

__all__ = [
    "Allowed", "Draft", "Evolve", "Found", "Ground", "Listed", "Nsga", "Progressive", "Random",
    "Strategy",
]  # fmt: skip
