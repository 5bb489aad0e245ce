"""The report of a run: plain facts to one self-contained page, the answer first."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitrail.report import classification, plots, race
from vitrail.report.canvas import NARROW
from vitrail.report.chapter import Chapter
from vitrail.report.facts import CandidatePoint, Facts
from vitrail.report.pictures import composed, resized
from vitrail.report.steps import folder, steps
from vitrail.report.taken import inputs, sizes
from vitrail.report.text import coded, plain
from vitrail.report.timings import EngineFacts
from vitrail.report.verdict import headline, limits, standing, verdict
from vitrail.units import count, counted, percent, points, seconds, size

TEMPLATE = Path(__file__).parent / "page.html.jinja"
_ORDER = ("won", "finished", "features", "stopped", "over budget", "failed", "not tried")


def render(facts: Facts) -> str:
    """Return the page as HTML text, which asks the network for nothing."""
    facts = replace(facts, candidates=ordered(facts.candidates))
    limit_s = facts.budget.latency_s
    drawn = {
        "front": race.front(facts.candidates, limit_s, measure=facts.measure),
        "narrow": race.front(
            facts.candidates, limit_s, size=NARROW, name="narrow", measure=facts.measure
        ),
        "losses": (
            plots.losses(facts.curves, "sum of losses")
            if facts.data.boxes
            else plots.losses(facts.curves)
        ),
        "rise": plots.rise(facts.curves, facts.measure),
    }
    found, stands = limits(facts), standing(facts)
    return filled(
        TEMPLATE,
        facts=facts,
        plots=drawn,
        headline=headline(facts),
        inputs=inputs(facts.model, facts.data),
        trivial=stands is not None and not stands.better,
        verdict=verdict(facts),
        limits={limit.name: limit for limit in found},
        kept=all(limit.kept for limit in found),
        legend=" ".join([race.caption(facts.candidates, facts.measure), *resized(facts.latency)]),
        clocks=len({c.timed for c in facts.candidates if c.latency_s}) > 1,
        chapters=_chapters(facts),
        findings=[f for f in facts.data.findings if not _told(f.keys, facts)],
        engines=engines(facts),
        picture=composed(facts.latency) if facts.latency else "",
        sizes=sizes(facts.data, resize_inside=bool(facts.export and facts.export.resize_inside)),
        steps=steps(facts),
        here=folder(facts) == ".",
    )


def _chapters(facts: Facts) -> list[Chapter]:
    """Return all chapters in order; figures of labels stand before the mistakes."""
    own, common = facts.chapters, classification.chapters(facts)
    return [*own, *common] if facts.data.several else [*common, *own]


def filled(template: Path, **values: Any) -> str:
    """Fill a template beside the style sheet, with the filters of all pages."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _unbroken(percent),
        "seconds": _unbroken(seconds),
        "count": _unbroken(count),
        "counted": counted,
        "size": _unbroken(size),
        "image": image,
        "points": _unbroken(points),
        "coded": coded,
    }
    return environment.get_template(template.name).render(**values)


def _told(keys: Sequence[str], facts: Facts) -> bool:
    """Return whether all these files are among the broken ones, which are
    listed with their reasons.
    """
    return bool(keys) and {file.key for file in facts.data.broken} >= set(keys)


def engines(facts: Facts) -> str:
    """Compare the engines that took turns, and call none faster that is not."""
    if not facts.engines:
        return ""
    first, *others = facts.engines
    if not others:
        return (
            f"The latency is that of {first.title}; no other engine was installed or could run it."
        )
    said, same = [], "labels" if facts.data.several else "classes"
    for e in others:
        if e.gain is None or e.max_logit_difference is None:
            continue
        middle, low, high = e.gain
        said.append(
            f"{_compared(e, first)} {first.title} here: ratio {middle:.2f}, 95 % interval "
            f"{low:.2f} to {high:.2f}, runs in turns. The file of {e.title} was compared as well: "
            f"the same {same}, logits differ by at most {e.max_logit_difference:.1e}."
        )
        if e.counts:
            said.append(f"`vitrail predict RUN --engine {e.name}` answers with it.")
    return " ".join(said)


def _compared(one: EngineFacts, first: EngineFacts) -> str:
    """Say what the interval of the ratio and the quickest runs allow."""
    _, low, high = one.gain or (1.0, 1.0, 1.0)
    if low <= 1 <= high:
        return f"{one.title} is no faster and no slower beyond noise than"
    if (low > 1) != (one.quickest_s < first.quickest_s):
        return f"The machine was too busy to compare {one.title} with"
    return f"{one.title} is {'faster' if low > 1 else 'slower'} than"


def ordered(candidates: Sequence[CandidatePoint]) -> list[CandidatePoint]:
    """Sort candidates: the winner first, then by how far they came and how good they were."""

    def place(c: CandidatePoint) -> tuple[int, float, str]:
        known = _ORDER.index(c.status) if c.status in _ORDER else len(_ORDER)
        return known, -(c.accuracy or 0.0), c.name

    return sorted(candidates, key=place)


def image(data: bytes) -> str:
    """Return a PNG or a JPEG as a data URI."""
    kind = "jpeg" if data.startswith(b"\xff\xd8") else "png"
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()


def _shown(value: Any) -> Any:
    """Clean whatever a template prints: text without control characters, markup as it is."""
    return plain(value, lines=True) if type(value) is str else value


def _unbroken(figure: Callable[..., str]) -> Callable[..., str]:
    """Keep the figure on one line with its unit."""

    def tied(*values: Any) -> str:
        return figure(*values).replace(" ", "\u00a0")

    return tied
