"""The page of an answer on secrets: what it is, what it took, how far it is off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.report.chapter import Chapter, Column, Paragraph, Table
from vitrail.report.page import filled
from vitrail.units import count, percent, seconds, size

TEMPLATE = Path(__file__).parent / "private.html.jinja"
SHOWN = 5
# What the protocols promise, as their engine has them.
PROMISES = {
    "semi2k": "SEMI2K: both hold a summand of every number and follow the protocol. The client "
    "deals the random numbers that products need: the server learns nothing of the image, but a "
    "client that keeps what it dealt could find out weights.",
    "cheetah": "Cheetah: both hold a summand of every number and follow the protocol. Products "
    "come from oblivious transfers and homomorphic encryption, so nobody deals and neither learns "
    "what is the other's.",
}


@dataclass(frozen=True)
class PrivateFacts:
    """An answer computed on secrets, beside the plain one.

    `ranked` and `plain` are (class, probability), likeliest first; `off` is the largest difference
    of a logit, of logits up to `largest`; `gelus` and `softmaxes` count (on, all); `measured` and
    `predicted` have "bytes", "messages", "processor_s" and "wall_s"; `kinds` rows (operation,
    calls, seconds, bytes, messages) of the client.
    """

    image: str
    run: str
    ranked: Sequence[tuple[str, float]]
    plain: Sequence[tuple[str, float]]
    off: float
    largest: float
    weights: str
    protocol: str
    gelus: tuple[int, int]
    softmaxes: tuple[int, int]
    measured: dict[str, float]
    predicted: dict[str, float]
    shared_bytes: int
    start_s: float
    kinds: Sequence[tuple[str, int, float, int, int]]
    network: str

    @property
    def sentence(self) -> str:
        """Say the answer and what it took."""
        (name, p), m = self.ranked[0], self.measured
        plain, q = self.plain[0]
        said = "as in plain" if plain == name else f"in plain it is {plain} ({percent(q)})"
        return (
            f"{name} ({percent(p)}), {said}; logits differ by up to {self.off:.2g}. Two parties "
            f"took {seconds(m['wall_s'])}, {size(int(m['bytes']))} and {count(m['messages'])} "
            "messages each way"
        )

    def to_json(self) -> dict[str, Any]:
        """Return all of it for a script."""
        found = dict(vars(self))
        names = ("operation", "calls", "seconds", "bytes", "messages")
        found["kinds"] = [dict(zip(names, kind, strict=True)) for kind in self.kinds]
        return found


def chapters(facts: PrivateFacts) -> list[Chapter]:
    """Return the page's chapters: the answer, what it took, who knows what."""
    answers = dict(facts.plain)
    rows = [(name, p, percent(p), percent(answers[name])) for name, p in facts.ranked[:SHOWN]]
    columns = [
        Column("class"),
        Column("", "bar"),
        *(Column(t, "number") for t in ("secret", "plain")),
    ]
    m, p = facts.measured, facts.predicted
    says = (
        ("bytes that each sends", "bytes", lambda v: size(int(v))),
        ("messages that each sends", "messages", count),
        ("processors of both", "processor_s", seconds),
        ("time", "wall_s", seconds),
    )
    took = [(title, say(m[name]), say(p[name])) for title, name, say in says]
    clear = "the weights are known to both" if facts.weights == "public" else (
        "the server alone has the weights"
    )  # fmt: skip
    return [
        Chapter("The answer", [Table(columns, rows), Paragraph(
            f"Logits differ from the plain model's by up to {facts.off:.2g}; the largest is "
            f"{facts.largest:.3g}. Numbers have 18 binary places here, and GELU is its tanh form.",
            soft=True,
        )]),
        Chapter("What it took", [
            Table([Column(""), Column("measured", "number"), Column("predicted", "number")], took),
            Paragraph(
                f"{facts.gelus[0]} of {facts.gelus[1]} tokens take a GELU and {facts.softmaxes[0]} "
                f"of {facts.softmaxes[1]} rows a softmax. Measured on this machine, whose parties "
                "talk over its loopback; predicted from a table of single operations for "
                f"{facts.network}. Before that, {seconds(facts.start_s)} went into starting, "
                f"compiling and {size(facts.shared_bytes)} of shares and answer.", soft=True,
            ),
            Table(
                [Column("operation"), *(Column(t, "number") for t in (
                    "calls", "seconds", "bytes sent", "messages"))],
                [(name, str(calls), seconds(s), size(b), count(n))
                 for name, calls, s, b, n in facts.kinds[:8]],
            ),
        ]),
        Chapter("Who knows what", [
            Paragraph(
                f"The client alone has the image, {clear}, and the answer is revealed to the "
                "client only. Known to both are the network's sizes and which switches are on."
            ),
            Paragraph(PROMISES[facts.protocol]),
        ]),
    ]  # fmt: skip


def render_private(facts: PrivateFacts) -> str:
    """Return the page."""
    return filled(TEMPLATE, facts=facts, answer=f"{facts.sentence}.", chapters=chapters(facts))
