"""The run's answer in words: headline, verdict, advice, and the sentence for the terminal.

A figure alone says little: 95 % is poor where a constant answer reaches 96 %. So the words say
what a constant and a small model reach on the same test images, and a model that is not better
than the best of them is called that, before anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitrail.report.ahead import Interval, unpaired, unpaired_balanced
from vitrail.report.facts import Facts
from vitrail.report.scores import Baseline
from vitrail.report.text import plain
from vitrail.units import count, counted, percent, seconds, shortened

# Classes are uneven where the largest has more than this many times the mean number of images.
UNEVEN = 1.5


@dataclass(frozen=True)
class Limit:
    """One limit of the budget: the model's need, the allowance, in words, and their ratio."""

    name: str
    found: str
    allowed: str
    share: float

    @property
    def kept(self) -> bool:
        """Return whether the model is within it."""
        return self.share <= 1


@dataclass(frozen=True)
class Standing:
    """The model beside its strongest baseline: how far it is ahead.

    `gap` is in balanced accuracy if `balanced` is true, else in accuracy.
    """

    baseline: Baseline
    gap: Interval
    balanced: bool

    @property
    def better(self) -> bool:
        """Return whether the model is better beyond noise."""
        return self.gap.low > 0

    @property
    def worse(self) -> bool:
        """Return whether the baseline is better beyond noise."""
        return self.gap.high < 0


def headline(facts: Facts) -> str:
    """Return the answer in one line: how good, how fast, or that a trivial answer is as good."""
    if not facts.test:
        return plain(facts.model.shown)
    found = standing(facts)
    if found and not found.better:
        how = "Worse" if found.worse else "No better"
        return f"{how} than {_named(found.baseline)} ({_tied(percent(found.baseline.accuracy))})"
    share = _tied(percent(facts.test.accuracy))
    right = f"{share} of unseen {facts.data.items} right"
    if not facts.test.counts:
        right = f"{_raised(facts.test.name)} {share} on unseen {facts.data.items}"
    if uneven(facts) and facts.test.balanced is not None:
        right = f"Balanced accuracy {_tied(percent(facts.test.balanced))}, {right}"
    return f"{right}, in {_tied(seconds(facts.latency.p50_s))} each" if facts.latency else right


def verdict(facts: Facts) -> str:
    """Return the run in a few sentences: what is right, what baselines reach, and the budget."""
    model, said = facts.model, []
    if facts.test:
        share, n = facts.test.accuracy, _tested(facts, facts.test.n)
        text = f"classifies {round(share * facts.test.n):,} of {n} correctly"
        if not facts.test.counts:
            text = f"reaches a {facts.test.name} of {_tied(percent(share))} on {n}"
        if uneven(facts) and facts.test.balanced is not None:
            text += f" (balanced accuracy {_tied(percent(facts.test.balanced))})"
        said.append(text)
    found = limits(facts)
    spoken = ", ".join(f"{x.name} {_tied(x.found)} of {_tied(x.allowed)}" for x in found)
    if found and all(limit.kept for limit in found):
        said.append(f"keeps the budget ({spoken} allowed)")
    elif found:
        said.append(f"misses the budget ({spoken} allowed)")
    start = f"A model of the family {model.family} with {_tied(count(model.params))} parameters"
    sentences = [start + (" that " + " and ".join(said) if said else "") + "."]
    return " ".join([*sentences, *filter(None, (compared(facts), advice(facts)))])


def _tested(facts: Facts, n: int) -> str:
    return counted(n, f"test {facts.data.item}", f"test {facts.data.items}")


def compared(facts: Facts) -> str:
    """Return what the baselines reach on the same images; empty where there are none."""
    if not facts.test or not facts.baselines:
        return ""
    told = []
    for one in facts.baselines:
        reach = "" if told else "reaches "
        figure = f"{_named(one)} {reach}{_tied(percent(one.accuracy))}"
        if uneven(facts) and one.balanced is not None:
            figure += f" (balanced {_tied(percent(one.balanced))})"
        told.append(figure)
    text = ", ".join(told[:-1]) + (" and " if told[1:] else "") + told[-1]
    return f"On the same {facts.data.items} {text}."


def advice(facts: Facts) -> str:
    """Return what follows where the model is not better than its strongest baseline, else ""."""
    found = standing(facts)
    if found is None or found.better or not facts.test:
        return ""
    if not found.baseline.constant:
        name = _named(found.baseline, article="the")
        if found.worse:
            return f"Use {name} instead: it is better on these {facts.data.items}, and simpler."
        these = counted(facts.test.n, facts.data.item, facts.data.items)
        return f"Prefer {name}: these {these} do not tell the two apart, and it is simpler."
    return (
        "Nothing that this test can show was learned: look at what was found in the data, give "
        f"more {facts.data.items} of the rare classes, or more time."
    )


def sentence(facts: Facts) -> str:
    """Return the answer for a terminal: the model, its test score, and what baselines reach."""
    name = plain(facts.model.shown)
    if not facts.test:
        return f"{name}: not tested"
    t, found = facts.test, standing(facts)
    lead = f"{headline(facts)}. " if found and not found.better else ""
    share, n = percent(t.accuracy), _tested(facts, t.n)
    said = f"{share} of {n} right" if t.counts else f"{t.name} {share} on {n}"
    text = f"{lead}{name}: {said} (95 % interval {percent(t.low)} to {percent(t.high)})"
    if uneven(facts) and t.balanced is not None:
        text += f", balanced accuracy {percent(t.balanced)}"
    rest = " ".join(filter(None, (compared(facts), advice(facts))))
    return (f"{text}. {rest}" if rest else text).replace("\u00a0", " ")


def uneven(facts: Facts) -> bool:
    """Return whether the largest class has more than 1.5 times the mean number of images.

    Of several labels per image it is always False: their figures do not favour the frequent ones.
    """
    if facts.data.several:
        return False
    counts = [sum(of_class) for of_class in zip(*_parts(facts), strict=True)]
    return bool(counts) and max(counts) * len(counts) > UNEVEN * sum(counts)


def standing(facts: Facts) -> Standing | None:
    """Return how the model stands to its strongest baseline; None where there are none.

    Balanced accuracy decides where classes are uneven and it is known of all, else accuracy.
    """
    if not facts.test or not facts.baselines:
        return None
    balanced = uneven(facts) and facts.test.balanced is not None
    known = [b for b in facts.baselines if b.balanced is not None] if balanced else []
    if balanced and len(known) == len(facts.baselines):
        strongest = max(known, key=lambda b: (b.balanced or 0.0, b.constant))
        gap = strongest.ahead_balanced or _balanced_gap(facts, strongest)
        if gap is not None:
            return Standing(strongest, gap, True)
    strongest = max(facts.baselines, key=lambda b: (b.accuracy, b.constant))
    gap = strongest.ahead or unpaired(
        facts.test.accuracy, strongest.accuracy, facts.test.n, strongest.n
    )
    return Standing(strongest, gap, False)


def limits(facts: Facts) -> list[Limit]:
    """Return each limit of the budget that the model can be held to."""
    b, found = facts.budget, []
    if b.latency_s is not None and facts.latency:
        at = facts.latency.p50_s
        found.append(Limit("latency", seconds(at), seconds(b.latency_s), at / b.latency_s))
    if b.macs is not None:
        at = facts.model.macs
        found.append(Limit("multiply-adds", count(at), count(b.macs), at / b.macs))
    if b.params is not None:
        at = facts.model.params
        found.append(Limit("parameters", count(at), count(b.params), at / b.params))
    return found


def _parts(facts: Facts) -> Sequence[Sequence[int]]:
    """Return the parts whose images were counted by class."""
    return [counts for counts in facts.data.parts.values() if counts]


def _balanced_gap(facts: Facts, baseline: Baseline) -> Interval | None:
    recalls = [(row.recall, row.n) for row in facts.per_class if row.n]
    if not recalls or baseline.balanced is None:
        return None
    return unpaired_balanced(recalls, baseline.balanced, constant=baseline.constant)


def _named(one: Baseline, article: str = "a") -> str:
    """Return a baseline inside a sentence: "always answering 'cat'", "a linear model on pixels"."""
    name = plain(shortened(one.name, 80))
    if one.constant:
        return f"always answering {name.removeprefix('always ')}"
    return f"{article} {name}"


def _raised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _tied(text: str) -> str:
    """Keep a figure on one line with its unit."""
    return text.replace(" ", "\u00a0")
