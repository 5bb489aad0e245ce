"""The page of a study: which arms differ from the baseline, by how much, at what cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.report import canvas
from vitrail.report.page import filled
from vitrail.units import counted

TEMPLATE = Path(__file__).parent / "study.html.jinja"


@dataclass(frozen=True)
class ArmFacts:
    """An arm of a study: costs for one image, and test accuracies in [0, 1], one for each seed.

    `difference` from the baseline with its 95 % interval, None for the baseline, and without ends
    for a single seed. The intervals of all arms hold together; `clear` says whether the arm's own
    leaves out 0.
    """

    name: str
    note: str
    family: str
    params: int
    macs: int
    latency_s: float
    train_s: float
    accuracies: Sequence[float]
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    clear: bool = False

    @property
    def accuracy(self) -> float:
        """Return the mean over the seeds."""
        return sum(self.accuracies) / len(self.accuracies)


@dataclass(frozen=True)
class StudyFacts:
    """A finished study; `images` are those of the training and of the test split."""

    name: str
    title: str
    question: str
    data: str
    baseline: str
    images: tuple[int, int]
    size: tuple[int, int]
    seeds: int
    epochs: int
    machine: Mapping[str, Any]
    threads: int
    arms: Sequence[ArmFacts]

    @property
    def compared(self) -> list[ArmFacts]:
        """Return all arms but the baseline, the best first."""
        arms = [arm for arm in self.arms if arm.difference is not None]
        return sorted(arms, key=lambda arm: -(arm.difference or 0.0))

    @property
    def base(self) -> ArmFacts:
        """Return the baseline."""
        return next(arm for arm in self.arms if arm.name == self.baseline)


def answer(facts: StudyFacts) -> str:
    """Return the outcome in one sentence."""
    better = [a.name for a in facts.compared if a.clear and (a.difference or 0.0) > 0]
    worse = [a.name for a in facts.compared if a.clear and (a.difference or 0.0) < 0]
    if facts.seeds < 2:
        return "With one seed the noise is unknown: train more with --seeds."
    said, base = [], f"the baseline {facts.baseline!r}"
    if better:
        said.append(f"better than {base} beyond noise: {', '.join(better)}")
    if worse:
        said.append(f"worse{'' if better else f' than {base} beyond noise'}: {', '.join(worse)}")
    rest = len(facts.compared) - len(better) - len(worse)
    if rest and said:
        others = "arm" if rest == 1 else counted(rest, "arm")
        said.append(f"not told apart from it: the other {others}")
    if not said and rest == 1:
        return f"{facts.compared[0].name} does not differ from {base} beyond noise."
    if not said:
        none = "Neither of the two arms" if rest == 2 else f"None of the {rest} arms"
        return f"{none} differs from {base} beyond noise."
    text = "; ".join(said)
    return text[0].upper() + text[1:] + "."


def render_study(facts: StudyFacts) -> str:
    """Return the page as HTML text, which asks the network for nothing."""
    return filled(
        TEMPLATE,
        facts=facts,
        answer=answer(facts),
        plots={
            "differences": differences(facts, canvas.WIDE, "differences"),
            "narrow": differences(facts, canvas.NARROW, "narrow"),
            "cost": cost(facts, canvas.WIDE, "cost"),
            "cost_narrow": cost(facts, canvas.NARROW, "cost-narrow"),
        },
    )


def differences(facts: StudyFacts, size: tuple[float, float], name: str) -> str:
    """Draw differences with their intervals, the best on top, and every seed as a small dot."""
    arms = facts.compared[::-1]
    base = facts.base

    def draw(axes: Any) -> None:
        for row, arm in enumerate(arms):
            colour = canvas.ACCENT if arm.clear else canvas.SOFT
            if arm.low is not None and arm.high is not None:
                ends = [100 * arm.low, 100 * arm.high]
                axes.plot(ends, [row, row], color=colour, linewidth=1.6, zorder=2)
            axes.scatter([100 * (arm.difference or 0.0)], [row], s=46, color=colour, zorder=4)
            each = [100 * (a - b) for a, b in zip(arm.accuracies, base.accuracies, strict=True)]
            below = [row - 0.26] * len(each)
            axes.scatter(each, below, s=7, color=canvas.SOFT, alpha=0.6, zorder=3, linewidths=0)
        axes.axvline(0, color=canvas.SECOND, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)
        axes.set_yticks(range(len(arms)), [arm.name for arm in arms])
        axes.tick_params(axis="y", labelcolor=canvas.INK)
        axes.grid(axis="y", visible=False)
        axes.margins(y=0.6 / max(1, len(arms)))
        axes.set_xlabel(f"test accuracy minus that of {facts.baseline}, percentage points")

    height = max(1.6, 0.34 * len(arms) + 0.7)
    return canvas.svg(draw, name, (size[0], height))


def cost(facts: StudyFacts, size: tuple[float, float], name: str) -> str:
    """Draw accuracy over latency, every arm with its name."""

    def draw(axes: Any) -> None:
        for arm in facts.arms:
            base = arm.name == facts.baseline
            at = (1e3 * arm.latency_s, 100 * arm.accuracy)
            colour = canvas.SECOND if base else canvas.ACCENT
            axes.scatter(
                [at[0]], [at[1]], s=42, color=colour, zorder=3, linewidths=0, clip_on=False
            )
            axes.annotate(
                arm.name, at, (6, 4), textcoords="offset points", fontsize=canvas.FONT - 1,
                color=colour if base else canvas.SOFT,
            )  # fmt: skip
        axes.margins(x=0.12, y=0.12)
        canvas.within(axes)
        axes.set_xlabel("latency of one image in ms")
        axes.set_ylabel("test accuracy, %")

    return canvas.svg(draw, name, size)
