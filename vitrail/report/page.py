"""The report of a run: plain facts to one self-contained page, the answer first."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitrail.report import plots
from vitrail.report.facts import CandidatePoint, EngineFacts, Facts
from vitrail.units import count, percent, points, seconds, size

TEMPLATE = Path(__file__).parent / "page.html.jinja"
# Up to here the confusion matrix is a table with names and numbers, above it a picture.
TABLE_CLASSES = 24
_ORDER = ("won", "finished", "stopped", "over budget", "failed", "not tried")


@dataclass(frozen=True)
class Limit:
    """One limit of the budget: what the model needs of what is allowed, in words and as share."""

    name: str
    found: str
    allowed: str
    share: float

    @property
    def kept(self) -> bool:
        """Whether the model is within it."""
        return self.share <= 1


def render(facts: Facts) -> str:
    """The page as HTML text. It asks the network for nothing."""
    facts = replace(facts, candidates=ordered(facts.candidates))
    limit_s = facts.budget.latency_s
    many = facts.confusion is not None and len(facts.confusion) > TABLE_CLASSES
    drawn = {
        "front": plots.front(facts.candidates, limit_s),
        "narrow": plots.front(facts.candidates, limit_s, size=plots.NARROW, name="narrow"),
        "losses": plots.losses(facts.curves),
        "rise": plots.rise(facts.curves),
        "reliability": plots.reliability(facts.calibration) if facts.calibration else "",
        "confusion": plots.confusion_map(facts.confusion) if many and facts.confusion else "",
    }
    found = limits(facts)
    return filled(
        TEMPLATE,
        facts=facts,
        plots=drawn,
        headline=headline(facts),
        verdict=verdict(facts),
        limits={limit.name: limit for limit in found},
        kept=all(limit.kept for limit in found),
        stretched=plots.stretched(facts.candidates),
        matrix=None if many else facts.confusion,
        worst=worst(facts),
        engines=engines(facts),
    )


def filled(template: Path, **values: Any) -> str:
    """A template beside the style sheet, with the filters of all pages."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _unbroken(percent),
        "seconds": _unbroken(seconds),
        "count": _unbroken(count),
        "size": _unbroken(size),
        "image": image,
        "points": _unbroken(points),
    }
    return environment.get_template(template.name).render(**values)


def headline(facts: Facts) -> str:
    """The answer in one line: how many it gets right and how long it takes."""
    if not facts.test:
        return facts.model.name
    said = f"{_tied(percent(facts.test.accuracy))} of unseen images right"
    if facts.latency:
        said += f", in {_tied(seconds(facts.latency.p50_s))} each"
    return said


def verdict(facts: Facts) -> str:
    """The run in one sentence: what is right, and whether the budget was kept."""
    model, said = facts.model, []
    if facts.test:
        right = round(facts.test.accuracy * facts.test.n)
        said.append(f"names {right:,} of {facts.test.n:,} test images rightly")
    found = limits(facts)
    spoken = ", ".join(f"{x.name} {_tied(x.found)} of {_tied(x.allowed)}" for x in found)
    if found and all(limit.kept for limit in found):
        said.append(f"keeps the budget ({spoken} allowed)")
    elif found:
        said.append(f"misses the budget ({spoken} allowed)")
    start = f"A model of the family {model.family} with {_tied(count(model.params))} parameters"
    return start + (" that " + " and ".join(said) if said else "") + "."


def limits(facts: Facts) -> list[Limit]:
    """Each limit of the budget that the model can be held to."""
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


def engines(facts: Facts) -> str:
    """What was found of the engines that took turns, with nothing called faster that is not."""
    if not facts.engines:
        return ""
    first, *others = facts.engines
    if not others:
        return (
            f"The latency is that of {first.title}; no other engine was installed or could run it."
        )
    said = []
    for e in others:
        if e.gain is None or e.max_logit_difference is None:
            continue
        middle, low, high = e.gain
        said.append(
            f"{_compared(e, first)} {first.title} here: ratio {middle:.2f}, 95 % interval "
            f"{low:.2f} to {high:.2f}, runs in turns. The file of {e.title} was compared as well: "
            f"the same classes, logits differ by at most {e.max_logit_difference:.1e}."
        )
        if e.counts:
            said.append(f"`vitrail predict RUN --engine {e.name}` answers with it.")
    return " ".join(said)


def _compared(one: EngineFacts, first: EngineFacts) -> str:
    """What the interval of the ratio and the quickest runs allow to say."""
    _, low, high = one.gain or (1.0, 1.0, 1.0)
    if low <= 1 <= high:
        return f"{one.title} is no faster and no slower beyond noise than"
    if (low > 1) != (one.quickest_s < first.quickest_s):
        return f"The machine was too busy to compare {one.title} with"
    return f"{one.title} is {'faster' if low > 1 else 'slower'} than"


def ordered(candidates: Sequence[CandidatePoint]) -> list[CandidatePoint]:
    """The winner first, then by how far they came and how good they were."""

    def place(c: CandidatePoint) -> tuple[int, float, str]:
        known = _ORDER.index(c.status) if c.status in _ORDER else len(_ORDER)
        return known, -(c.accuracy or 0.0), c.name

    return sorted(candidates, key=place)


def worst(facts: Facts) -> list[tuple[str, str, int]]:
    """The pairs of classes that are confused most: truth, answer, how often."""
    names = facts.data.classes
    pairs = [
        (names[i], names[j], n)
        for i, row in enumerate(facts.confusion or ())
        for j, n in enumerate(row)
        if i != j and n
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:5]


def image(data: bytes) -> str:
    """A PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _tied(text: str) -> str:
    """A figure that stays on one line with its unit."""
    return text.replace(" ", "\u00a0")


def _unbroken(figure: Callable[..., str]) -> Callable[..., str]:
    def tied(*values: Any) -> str:
        return _tied(figure(*values))

    return tied
