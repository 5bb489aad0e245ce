"""The page and the table of `vitrail bench`: how many times as fast as its peers a model is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.report import canvas
from vitrail.report.page import filled
from vitrail.units import count, counted, seconds, size

TEMPLATE = Path(__file__).parent / "speed.html.jinja"


@dataclass(frozen=True)
class Entry:
    """The figures of one contestant.

    Median and 90th percentile of `n` runs in seconds, images per second, `share` of the rate of
    the machine's own matrix product, and peak memory beyond weights and images in bytes.
    """

    who: str
    p50_s: float
    p90_s: float
    n: int
    rate: float
    share: float
    memory_bytes: int


@dataclass(frozen=True)
class Ratio:
    """The number of times `who` is as fast as the fastest peer, with its 95 % interval."""

    who: str
    peer: str
    times: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One variant at one batch size; `macs` are those of one image and one forward pass.

    `notes` say which peers are missing, and why; `compiled` is the ratio of our model compiled by
    torch.compile to the same model before.
    """

    variant: str
    family: str
    mode: str
    batch: int
    image: tuple[int, ...]
    params: int
    macs: int
    top1: float | None
    product_flops: float
    entries: tuple[Entry, ...]
    ratios: tuple[Ratio, ...]
    notes: tuple[str, ...] = ()
    compiled: Ratio | None = None

    def entry(self, who: str) -> Entry | None:
        """Return the figures of a contestant, None if it did not take part."""
        return next((e for e in self.entries if e.who == who), None)

    def ratio(self, who: str) -> Ratio | None:
        """Return the ratio of one of our contestants, None where there is no peer."""
        return next((r for r in self.ratios if r.who == who), None)

    @property
    def ours(self) -> Entry:
        """Return our fastest form."""
        names = [
            who
            for who in ("vitrail", "folded", "vitrail compiled", "folded compiled")
            if self.entry(who)
        ]
        return min((self.entry(who) for who in names), key=lambda e: e.p50_s)  # pyright: ignore[reportOptionalMemberAccess,reportReturnType]

    @property
    def best(self) -> Ratio | None:
        """Return the ratio of our fastest form, None where there is no peer."""
        return self.ratio(self.ours.who)

    @property
    def memory(self) -> float | None:
        """Return our peak memory as a share of the fastest peer's."""
        if self.best is None:
            return None
        peer = self.entry(self.best.peer)
        return self.ours.memory_bytes / peer.memory_bytes if peer and peer.memory_bytes else None


@dataclass(frozen=True)
class SpeedFacts:
    """A comparison: its settings, the machine, and a row for each variant and batch size."""

    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    rows: Sequence[Row]

    @property
    def compared(self) -> list[Row]:
        """Return the rows that have a peer, the largest ratio first."""
        rows = [row for row in self.rows if row.best]
        return sorted(rows, key=lambda row: -row.best.times)  # pyright: ignore[reportOptionalMemberAccess]

    def mean(self, batch: int | None = None) -> float | None:
        """Return the geometric mean of the ratios of one batch size, or of all."""
        logs = [
            math.log(row.best.times)
            for row in self.compared
            if row.best and batch in (None, row.batch)
        ]
        return math.exp(sum(logs) / len(logs)) if logs else None

    @property
    def batches(self) -> list[int]:
        """Return the batch sizes, in order."""
        return sorted({row.batch for row in self.rows})


def answer(facts: SpeedFacts) -> str:
    """Return the outcome in one sentence."""
    rows = facts.compared
    if not rows:
        return "No peer has these models: they were measured alone."
    slower = sorted({row.variant for row in rows if row.best and row.best.high < 1})
    means = ", ".join(
        f"{facts.mean(batch):.2f} at batch {batch}" for batch in facts.batches if facts.mean(batch)
    )
    n = len({row.variant for row in rows})
    said = "vitrail is this many times as fast as the fastest peer, as a geometric mean of "
    said += f"{counted(n, 'model')}: {means}"
    return f"{said}; slower than a peer: {', '.join(slower)}." if slower else f"{said}."


HEAD = (
    "variant", "batch", "ours", "folded", "fastest peer", "eager x", "folded x", "interval",
    "of product", "memory x",
)  # fmt: skip


def cells(row: Row) -> tuple[str, ...]:
    """Return the cells of a row, in the order of HEAD."""
    best = row.best
    ours, folded = row.entry("vitrail"), row.entry("folded")
    peer = row.entry(best.peer) if best else None
    eager, fold = row.ratio("vitrail"), row.ratio("folded")
    return (
        row.variant,
        str(row.batch),
        seconds(ours.p50_s) if ours else "–",
        seconds(folded.p50_s) if folded else "–",
        f"{seconds(peer.p50_s)} {peer.who}" if peer else "–",
        f"{eager.times:.2f}" if eager else "–",
        f"{fold.times:.2f}" if fold else "–",
        f"{best.low:.2f} to {best.high:.2f}" if best else "–",
        f"{row.ours.share:.0%}",
        f"{row.memory:.2f}" if row.memory is not None else "–",
    )


def ratio_bars(facts: SpeedFacts, figure: tuple[float, float], name: str) -> str:
    """Draw the ratio of every row with a peer and its interval, the largest on top."""
    rows = facts.compared[::-1]
    if not rows:
        return ""
    one = len(facts.batches) == 1

    def draw(axes: Any) -> None:
        for place, row in enumerate(rows):
            found = row.best
            assert found is not None
            colour = canvas.ACCENT if found.times >= 1 else canvas.SECOND
            axes.barh([place], [found.times], color=colour, height=0.62, alpha=0.85, zorder=2)
            axes.plot([found.low, found.high], [place, place], color=canvas.INK, lw=1.2, zorder=3)
        axes.axvline(1, color=canvas.SECOND, linewidth=1.1, linestyle=(0, (4, 3)), zorder=4)
        names = [row.variant if one else f"{row.variant}, {row.batch}" for row in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.tick_params(axis="y", labelcolor=canvas.INK)
        axes.grid(axis="y", visible=False)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlim(0, 1.08 * max(min(row.best.high, 1.5 * row.best.times) for row in rows))  # pyright: ignore[reportOptionalMemberAccess]
        axes.set_xlabel("times as fast as the fastest peer")

    return canvas.svg(draw, name, (figure[0], max(1.6, 0.27 * len(rows) + 0.7)))


def accuracy_over_latency(facts: SpeedFacts, figure: tuple[float, float], name: str) -> str:
    """Draw published accuracy over latency at the smallest batch, every variant with its name."""
    rows = [row for row in facts.rows if row.batch == facts.batches[0] and row.top1 is not None]
    rows = list({row.variant: row for row in rows}.values())
    if len(rows) < 2:
        return ""

    def draw(axes: Any) -> None:
        for row in rows:
            at = (1e3 * row.ours.p50_s / row.batch, row.top1)
            axes.scatter([at[0]], [at[1]], s=36, color=canvas.ACCENT, zorder=3, linewidths=0)
            axes.annotate(
                row.variant, at, (5, 3), textcoords="offset points", fontsize=canvas.FONT - 2,
                color=canvas.SOFT,
            )  # fmt: skip
        axes.margins(x=0.1, y=0.12)
        canvas.log_ticks(axes, [1e3 * row.ours.p50_s / row.batch for row in rows])
        axes.set_xlabel("ms per image, logarithmic")
        axes.set_ylabel("published top-1, %")

    return canvas.svg(draw, name, figure)


def render_speed(facts: SpeedFacts) -> str:
    """Return the page as HTML text, which asks the network for nothing."""
    tall = (canvas.WIDE[0], 1.3 * canvas.WIDE[1])
    return filled(
        TEMPLATE,
        facts=facts,
        answer=answer(facts),
        head=HEAD,
        rows=[cells(row) for row in facts.rows],
        compiled_answer=compiled_answer(facts),
        compiled_head=COMPILED_HEAD,
        compiled=[compiled_cells(row) for row in facts.rows if row.compiled],
        notes=remarks(facts),
        plots={
            "ratios": ratio_bars(facts, canvas.WIDE, "ratios"),
            "ratios_narrow": ratio_bars(facts, canvas.NARROW, "ratios-narrow"),
            "accuracy": accuracy_over_latency(facts, tall, "accuracy"),
            "accuracy_narrow": accuracy_over_latency(facts, canvas.NARROW, "accuracy-narrow"),
        },
    )


def remarks(facts: SpeedFacts) -> list[tuple[str, str]]:
    """Return the notes of all variants: which peers are missing, and why."""
    found = {(row.variant, note): None for row in facts.rows for note in row.notes}
    return list(found)


def markdown(facts: SpeedFacts) -> str:
    """Return the table and the machine as Markdown."""
    lines = [answer(facts), "", *said(facts), ""]
    lines += [f"| {' | '.join(HEAD)} |", f"| --- {'| --: ' * (len(HEAD) - 1)}|"]
    lines += [f"| {' | '.join(cells(row))} |" for row in facts.rows]
    alone = [variant for variant, note in remarks(facts) if note.startswith("no peer has")]
    if alone:
        lines += ["", f"No peer has {', '.join(alone)}: measured alone."]
    rest = [(v, note) for v, note in remarks(facts) if not note.startswith("no peer has")]
    lines += ["", *(f"- {variant}: {note}" for variant, note in rest)] if rest else []
    return "\n".join(lines) + "\n"


COMPILED_HEAD = ("variant", "batch", "eager", "compiled", "compiled x", "interval", "torch.compile")


def compiled_cells(row: Row) -> tuple[str, ...]:
    """Return the cells of a row of the table of torch.compile; the last is the advice."""
    found = row.compiled
    assert found is not None
    before, after = row.entry(found.peer), row.entry(found.who)
    assert before is not None and after is not None
    word = "worth it" if found.low > 1 else "slower" if found.high < 1 else "no difference"
    return (
        row.variant,
        str(row.batch),
        seconds(before.p50_s),
        seconds(after.p50_s),
        f"{found.times:.2f}",
        f"{found.low:.2f} to {found.high:.2f}",
        word,
    )


def compiled_answer(facts: SpeedFacts) -> str:
    """Say in one sentence for how many rows torch.compile is worth its minutes."""
    rows = [row for row in facts.rows if row.compiled]
    better = sum(row.compiled.low > 1 for row in rows if row.compiled)
    worse = sum(row.compiled.high < 1 for row in rows if row.compiled)
    return (
        f"torch.compile is worth it in {better} of {counted(len(rows), 'row')}, slower in {worse}; "
        "the others show no difference."
    )


def compiled_markdown(facts: SpeedFacts) -> str:
    """Return the table of torch.compile and the machine as Markdown."""
    lines = [compiled_answer(facts), "", *said(facts), ""]
    lines += [f"| {' | '.join(COMPILED_HEAD)} |", "| --- | --: | --: | --: | --: | --: | --- |"]
    lines += [f"| {' | '.join(compiled_cells(row))} |" for row in facts.rows if row.compiled]
    rest = [(v, note) for v, note in remarks(facts) if note.startswith("torch.compile")]
    lines += ["", *(f"- {variant}: {note}" for variant, note in rest)] if rest else []
    return "\n".join(lines) + "\n"


def said(facts: SpeedFacts) -> list[str]:
    """Describe settings and machine, one line each."""
    machine = {k: v for k, v in facts.machine.items() if k != "versions"}
    rates = sorted(row.product_flops for row in facts.rows)
    lines = [", ".join(f"{k} {v}" for k, v in facts.settings.items())]
    lines.append(", ".join(f"{k.replace('_', ' ')} {v}" for k, v in machine.items()))
    versions = facts.machine.get("versions", {})
    lines.append(", ".join(f"{k} {v}" for k, v in versions.items()))
    if rates:
        middle = rates[len(rates) // 2] / 1e9
        lines.append(f"matrix product: {middle:.0f} GFLOP/s, the median of all rows")
    return [f"- {line}" for line in lines]


def figures(row: Row) -> str:
    """Describe a row in one line, for the terminal while the rest is measured."""
    best = row.best
    against = f"{best.times:.2f} times as fast as {best.peer}" if best else "no peer"
    ours = row.ours
    return (
        f"{row.variant}, batch {row.batch}: {seconds(ours.p50_s)}, {against}, "
        f"{ours.share:.0%} of the matrix product, {size(ours.memory_bytes)}, {count(row.macs)} MACs"
    )
