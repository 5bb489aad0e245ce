"""The chapters of a search: all candidates and their front, chance beside it, what was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vitrail.report import canvas
from vitrail.report.architecture import drawn
from vitrail.report.canvas import ACCENT, SECOND, SOFT
from vitrail.report.chapter import Chapter, Column, Figure, Fold, Pair, Paragraph, Part, Table
from vitrail.report.search_facts import (
    AloneFacts,
    GrowthFacts,
    PriceFacts,
    SearchedPoint,
    SearchFacts,
    WindowFacts,
)
from vitrail.report.search_words import told
from vitrail.units import count, counted, seconds


def chapters(facts: SearchFacts) -> list[Chapter]:
    """Return what a search adds to the page."""
    return [_network(facts), _search(facts)]


def _network(facts: SearchFacts) -> Chapter:
    parts: list[Part] = []
    if facts.blocks:
        parts.append(
            Figure(
                drawn(facts.blocks, canvas.WIDE[0], "network"),
                "the blocks of the found network, each part as wide as it is",
                narrow=drawn(facts.blocks, canvas.NARROW[0], "network-narrow"),
                caption="The image enters on top. Bars are as wide as what they stand for has "
                "channels.",
            )
        )
    if facts.network:
        rows = [(name, value) for name, value in facts.network.items()]
        parts.append(Table([Column(""), Column("")], rows))
    return Chapter("The network that was found", parts)


def _search(facts: SearchFacts) -> Chapter:
    how = Paragraph(told(facts))
    parts: list[Part] = [
        how,
        Figure(
            front(facts, canvas.WIDE, "candidates"),
            f"{facts.measure} over multiply-adds of all candidates",
            narrow=front(facts, canvas.NARROW, "candidates-narrow"),
            caption="Up is better, left is cheaper. The line joins what no other candidate beats "
            "in both; the ring is the network that was chosen and trained from scratch.",
        ),
        Paragraph(beside_chance(facts)),
    ]
    for number, level in enumerate(facts.earlier, 1):
        text = (
            f"Level {number} of the search had chosen from {level.candidates:,} candidates "
            f"of a network of its own, which learned for {counted(level.steps, 'step')}: the best "
            f"had {100 * level.best:.1f} %, and what it left open was searched here."
        )
        parts.insert(number - 1, Paragraph(text))
    if facts.window is not None:
        parts.append(Paragraph(window(facts.window)))
    if facts.price is not None:
        parts.append(Paragraph(price(facts.price)))
    if facts.alone is not None:
        parts += _alone(facts, facts.alone)
    if facts.growth is not None and facts.growth.ranks:
        parts.append(_ranks(facts.growth))
    ordered = sorted(facts.points, key=lambda one: -one.score)[:12]
    rows = [
        (f"{100 * one.score:.1f} %", count(one.macs), count(one.params),
         "" if one.latency_s is None else seconds(one.latency_s), one.by)
        for one in ordered
    ]  # fmt: skip
    columns = [
        Column(facts.measure, "number"), Column("multiply-adds", "number"),
        Column("parameters", "number"), Column("latency", "number"), Column("proposed by"),
    ]  # fmt: skip
    parts.append(Fold(f"the best {len(rows)} of {len(facts.points)}", [Table(columns, rows)]))
    return Chapter("The search", parts)


def _ranks(growth: GrowthFacts) -> Part:
    """Return how well each predictor ordered cells that were larger than all it knew."""
    names = {"mlp": "MLP", "lstm": "LSTM"}
    rows = [
        (names[kind] + (", which chose" if kind == growth.predictor else ""), str(blocks), str(n),
         "not told" if rank is None else f"{rank:.2f}")
        for kind, blocks, n, rank in growth.ranks
    ]  # fmt: skip
    columns = [
        Column("predictor"), Column("blocks", "number"), Column("cells", "number"),
        Column("rank correlation", "number"),
    ]  # fmt: skip
    return Fold("how well the predictors ranked cells of the next size", [Table(columns, rows)])


def beside_chance(facts: SearchFacts) -> str:
    """Compare the best of the search with the best of as many random candidates, in words."""
    searched, chance = facts.of("search"), facts.of("random")
    if not chance or not searched:
        return "There was no time to look at random candidates beside the search."
    if not any(one.within for one in searched):
        return "No candidate of the search keeps the limits, and the best random one was taken."
    n = min(len(searched), len(chance))
    best, random = (
        max((one.score for one in some[:n] if one.within), default=0.0)
        for some in (searched, chance)
    )
    weights = "both with inherited weights" if facts.growth is None else "both trained small"
    lead = (
        f"At the same budget the best of {n} candidates of the search has {100 * best:.1f} % and "
        f"the best of {n} random ones {100 * random:.1f} %, {weights}"
    )
    if best <= random:
        return f"{lead}: the search found nothing that chance did not."
    right = (best - random) * facts.images
    if right < 2 * (2 * facts.images * best * (1 - best)) ** 0.5:
        return f"{lead}: a difference that so few images do not tell from noise."
    return f"{lead}."


def window(facts: WindowFacts) -> str:
    """Say what fitting the identity's probability did."""
    before, after = facts.identity
    return (
        f"With slots left empty with probability {before:.2f}, {100 * facts.before:.0f} % of "
        f"random candidates lay within 80 to 100 % of the limit; with the probability fitted to "
        f"it, {after:.2f}, {100 * facts.after:.0f} % do."
    )


def price(facts: PriceFacts) -> str:
    """Say how a multiplier kept the limits."""
    last, most = facts.multipliers[-1], max(facts.multipliers)
    ways = {"dual": "followed how far", "raise": "was raised as long as"}
    ended = f"It began at {facts.multipliers[0]:g}, rose to {most:.3g} and ended at {last:.3g}"
    if facts.way == "dual" and not most:
        ended = "It stayed at 0, as nothing that was bred from missed them on average"
    return (
        f"Candidates over the limits were not rejected but paid for it, by a multiplier that "
        f"{ways[facts.way]} those missed them which were bred from. {ended}; "
        f"{facts.within} of {facts.of} candidates of the search keep the limits, and only these "
        "could be found."
    )


def _alone(facts: SearchFacts, alone: AloneFacts) -> list[Part]:
    said = "no rank correlation can be told, as all of one side are equal"
    if alone.kendall is not None and alone.spearman is not None:
        said = f"Kendall's rank correlation is {alone.kendall:.2f}, Spearman's {alone.spearman:.2f}"
    text = Paragraph(
        f"{counted(len(alone.pairs), 'network')} from the worst to the best were trained from "
        f"scratch as well, for {counted(alone.steps, 'step')} each: {said}."
    )
    figure = Figure(
        pairs(facts, alone, canvas.HALF, "alone"),
        "scores of networks trained alone over their scores with inherited weights",
    )
    return [Pair([figure], [text])]


def front(facts: SearchFacts, size: tuple[float, float], name: str) -> str:
    """Draw the score of every candidate over its multiply-adds, and join the best."""
    kinds = (("search", ACCENT, "o", "search"), ("random", SECOND, "s", "random"))

    def draw(axes: Any) -> None:
        for by, colour, shape, label in kinds:
            some = facts.of(by)
            if some:
                axes.scatter(
                    [one.macs / 1e6 for one in some], [100 * one.score for one in some], s=20,
                    color=colour, marker=shape, alpha=0.6, linewidths=0, label=label, zorder=3,
                )  # fmt: skip
        best = _best(facts.points)
        axes.plot(
            [one.macs / 1e6 for one in best], [100 * one.score for one in best], color=SOFT,
            linewidth=1.1, alpha=0.8, zorder=2,
        )  # fmt: skip
        won = facts.found
        axes.scatter(
            [won.macs / 1e6], [100 * won.score], s=150, facecolors="none", edgecolors=ACCENT,
            linewidths=1.8, zorder=4,
        )  # fmt: skip
        if facts.limit_macs is not None:
            axes.axvline(facts.limit_macs / 1e6, color=SECOND, linewidth=1.1, linestyle=(0, (4, 3)))
        axes.margins(x=0.06, y=0.1)
        canvas.within(axes)
        axes.set_xlabel("multiply-adds in millions")
        axes.set_ylabel(f"validation {facts.measure}, %")
        canvas.legend(axes, columns=2)

    return canvas.svg(draw, name, size)


def pairs(facts: SearchFacts, alone: AloneFacts, size: tuple[float, float], name: str) -> str:
    """Draw what networks reach alone over what they had inherited."""

    def draw(axes: Any) -> None:
        inherited, own = ([100 * pair[i] for pair in alone.pairs] for i in (0, 1))
        axes.scatter(inherited, own, s=30, color=ACCENT, linewidths=0, zorder=3)
        axes.margins(0.1)
        canvas.within(axes)
        axes.set_xlabel(f"{facts.measure} with inherited weights, %")
        axes.set_ylabel("trained alone, %")

    return canvas.svg(draw, name, size)


def _best(points: Sequence[SearchedPoint]) -> list[SearchedPoint]:
    """Return the candidates that no other beats in both cost and score, the cheapest first."""
    best: list[SearchedPoint] = []
    for one in sorted(points, key=lambda one: (one.macs, -one.score)):
        if not best or one.score > best[-1].score:
            best.append(one)
    return best
