"""The page of a run of lidar scans on other labelled scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitrail.report.chapter import Chapter
from vitrail.report.facts import BrokenFile, FindingFacts
from vitrail.report.page import filled
from vitrail.report.scores import Score

TEMPLATE = Path(__file__).parent / "scan_evaluation.html.jinja"


@dataclass(frozen=True)
class ScanEvaluation:
    """The answers of a finished run to labelled scans."""

    title: str
    data: str
    origin: str
    test: Score
    chapters: Sequence[Chapter]
    findings: Sequence[FindingFacts]
    broken: Sequence[BrokenFile]
    command: str
    date: str


def render(facts: ScanEvaluation) -> str:
    """Return the page as HTML text, which asks the network for nothing."""
    return filled(TEMPLATE, facts=facts)
