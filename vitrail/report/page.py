"""The report of a run: plain facts to one self-contained page, the answer first."""

from __future__ import annotations

import base64
import math
from pathlib import Path

from vitrail.report import plots
from vitrail.report.facts import Facts

TEMPLATE = Path(__file__).parent / "page.html.jinja"


def render(facts: Facts) -> str:
    """The page as HTML text. It asks the network for nothing."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "seconds": seconds,
        "count": count,
        "size": size,
        "image": image,
    }
    made: dict[str, str] = {
        "front": plots.front(facts.candidates, facts.budget.latency_s),
        "curves": plots.curves(facts.curves),
        "reliability": plots.reliability(facts.calibration) if facts.calibration else "",
        "confusion": plots.confusion(facts.confusion, facts.data.classes)
        if facts.confusion
        else "",
    }
    return environment.get_template(TEMPLATE.name).render(
        facts=facts, plots=made, verdict=verdict(facts), limits=limits(facts), worst=worst(facts)
    )


def verdict(facts: Facts) -> str:
    """The run in one sentence: what is right, and whether the budget was kept."""
    said = f"{facts.model.name}, of the family {facts.model.family}"
    if facts.test:
        wrong = facts.test.n - round(facts.test.accuracy * facts.test.n)
        said += f", names {facts.test.n - wrong:,} of {facts.test.n:,} unseen images rightly"
    kept = [f"{name} {value} of {allowed} allowed" for name, value, allowed, _ in limits(facts)]
    return said + (f"; {', '.join(kept)}." if kept else ".")


def limits(facts: Facts) -> list[tuple[str, str, str, bool]]:
    """Each limit of the budget: its name, the model's figure, what is allowed, whether kept."""
    b, found = facts.budget, []
    if b.latency_s is not None and facts.latency:
        at = facts.latency.p50_s
        found.append(("latency", seconds(at), seconds(b.latency_s), at <= b.latency_s))
    if b.macs is not None:
        at = facts.model.macs
        found.append(("multiply-adds", count(at), count(b.macs), at <= b.macs))
    if b.params is not None:
        at = facts.model.params
        found.append(("parameters", count(at), count(b.params), at <= b.params))
    return found


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


def percent(value: float | None, digits: int = 1) -> str:
    """A share as "91.2 %"."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def seconds(value: float | None) -> str:
    """A time with three figures and its unit: "4.21 ms", "1.3 s", "12 min"."""
    if value is None:
        return "–"
    if value >= 90:
        return f"{value / 60:.0f} min"
    for unit, factor in (("s", 1), ("ms", 1e3)):
        if value * factor >= 1:
            return f"{_three(value * factor)} {unit}"
    return f"{_three(value * 1e6)} µs"


def count(value: int | None) -> str:
    """A count with three figures: "1.24 M"."""
    if value is None:
        return "–"
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{_three(value / factor)} {unit}"
    return str(value)


def size(value: int | None) -> str:
    """Bytes as "1.2 MB"."""
    if value is None:
        return "–"
    return f"{_three(value / 1e6)} MB" if value >= 1e6 else f"{_three(value / 1e3)} kB"


def image(data: bytes) -> str:
    """A PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _three(value: float) -> str:
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{digits}f}"
