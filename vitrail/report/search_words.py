"""How candidates were judged, in words: by shared weights, small networks, or a mixture."""

from __future__ import annotations

from vitrail.report.search_facts import SearchFacts
from vitrail.units import counted, seconds


def told(facts: SearchFacts) -> str:
    """Return how the search of a page went."""
    if facts.growth is not None:
        return _grown(facts)
    return _shared(facts) if facts.mixture is None else _mixed(facts)


def _shared(facts: SearchFacts) -> str:
    searched, chance = facts.of("search"), facts.of("random")
    return (
        f"{facts.title} ({facts.paper}): one network held the weights of all candidates and "
        f"learned for {counted(facts.steps, 'step')} ({seconds(facts.shared_s)}), each of "
        f"which trained a random candidate. Then {counted(len(searched), 'candidate')} of the "
        f"search and {len(chance)} random ones were judged with the weights that they inherit, "
        f"on {counted(facts.images, 'validation image')}, none of them twice."
    )


def _mixed(facts: SearchFacts) -> str:
    assert facts.mixture is not None
    mixture, searched = facts.mixture, facts.of("search")
    paid = ""
    if mixture.multiplier is not None:
        paid = (
            f" What the strongest cells were over the limits was paid for, by a multiplier that "
            f"ended at {mixture.multiplier:.3g}."
        )
    real = {"none": "nothing was binary", "inputs": "inputs were binary, weights real"}
    return (
        f"{facts.title} ({facts.paper}): one network had all operations on every edge of its cells "
        f"and learned for {counted(facts.steps, 'step')} ({seconds(facts.shared_s)}), in each of "
        "which what the operations weigh was learned on one half of the training images and all "
        f"else on the other; {real.get(mixture.binary, 'all was binary')}. The temperature was "
        f"{mixture.temperature:g}; the entropy of an edge ended at {mixture.entropy:.2f} of 2.08 "
        f"nats, and {mixture.free} of the {mixture.edges} strongest edges have no weights.{paid} "
        f"The strongest cells within the limits are what was found, whatever their score; "
        f"{counted(len(searched), 'candidate')} like them and as many random ones were judged with "
        f"inherited weights on {counted(facts.images, 'validation image')}."
    )


def _grown(facts: SearchFacts) -> str:
    assert facts.growth is not None
    growth, chance = facts.growth, len(facts.of("random"))
    sizes = ", ".join(map(str, growth.sizes))
    return (
        f"{facts.title} ({facts.paper}): {counted(sum(growth.sizes), 'small network')} were "
        f"trained, each for {counted(growth.steps, 'step')} and none twice: {sizes} cells of one "
        f"block, two and so on. Of each size those were trained of which a predictor, fitted to "
        f"the smaller ones, expected most. {chance} random cells of the largest size were trained "
        f"beside them. {counted(facts.images, 'validation image')} judged each."
    )
