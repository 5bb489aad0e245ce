"""Which models race: all families and image sizes, counted, timed, and thinned to a few.

From every family's own space of small configs: exact counts on `meta` against the budget;
then, for a spread of those that are left, the latency on this machine and a few training
steps by the clock, since what a model can learn in a limited time depends on how many images
it sees. The list is in turns of families, those first that learned most elsewhere in the same
time (`prior.py`), at sizes near the best balance between capacity and images seen. The less
time there is, the fewer families are looked at.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from vitrail.engines.apart import Apart
from vitrail.errors import BudgetError
from vitrail.models import families
from vitrail.run.budget import Budget
from vitrail.search.candidate import Candidate
from vitrail.search.prior import by_prior, prior
from vitrail.search.rescue import second_look
from vitrail.search.space import small_candidates
from vitrail.search.timing import folded_latency, paced, peak_macs_per_s

# Engines are faster than torch at batch 1; whoever is a little over in torch may keep the
# budget as exported, which is measured before the winner is chosen.
SLACK = 1.5
# Shares of the multiply-adds that suit the time, in the order in which they are tried.
SHARES = (1.0, 0.4, 2.5, 0.16, 5.0, 0.06)

# What a size that is off by a factor of e in passes over the images is thought to cost.
MISFIT = 0.02

# So long at least models are counted before it is said that none keeps the budget.
PATIENCE_S = 20.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Shortlist:
    """`candidates` race; `over` were measured and are over the budget; `counted` in all."""

    candidates: tuple[Candidate, ...]
    over: tuple[Candidate, ...] = ()
    counted: int = 0


def shortlist(
    *,
    image_size: tuple[int, int],
    channels: int,
    classes: int,
    budget: Budget,
    images: int,
    seconds: float,
    size: int,
    batch: int,
    device: str = "cpu",
    seed: int = 0,
    extra: Sequence[Candidate] = (),
    say: Say = lambda text: None,
    apart: Apart | None = None,
) -> Shortlist:
    """At most `size` candidates for a race.

    `images` is the number of training images, `seconds` what the winner may train in all,
    `extra` are candidates with pretrained weights (counted already). About a thirtieth of
    `seconds` goes into counting and a fifteenth into timing; with `apart` another fifteenth into
    a second look at what is too slow in torch, by the engine that the budget names. Raises
    BudgetError, naming the closest model, when nothing keeps the budget.
    """
    say("counting models")
    space = _space(image_size, channels, classes, seed, most=max(6, 2 * size))
    pool, allowed = list(extra), [c for c in extra if budget.allows(params=c.params, macs=c.macs)]
    deadline = math.inf
    for one, second_choice in space:
        if second_choice and len(allowed) >= size:
            break
        pool.append(one)
        # The first one waits for torch's imports.
        deadline = min(deadline, time.perf_counter() + max(3.0, seconds / 30))
        if budget.allows(params=one.params, macs=one.macs):
            allowed.append(one)
        # A tight budget leaves few: then it is worth a longer search.
        late = time.perf_counter() - deadline
        if late > 0 and (len(allowed) >= 4 * size or (allowed and late > seconds / 15)):
            break
        if late > max(PATIENCE_S, seconds / 10):
            break
    if not allowed:
        raise _nothing(pool, budget)
    # Training takes three passes, at some 40 % of the rate of a matrix product.
    peak = peak_macs_per_s()
    goal = peak * seconds / (3 * 2.5 * images * passes(images))
    # Whatever cannot see every image once, even at the full rate, is not worth timing.
    affordable = [c for c in allowed if 3 * c.macs * images <= peak * seconds]
    affordable = affordable or [min(allowed, key=lambda c: c.macs)]
    timed: list[Candidate] = []
    over: list[Candidate] = []
    least = min(size, len({_column(c) for c in affordable}))
    deadline = time.perf_counter() + seconds / 15
    for one in _spread(affordable, goal, per_family=max(2, min(6, size))):
        if time.perf_counter() > deadline and len(timed) >= least:
            break
        say(f"timing {one.name}")
        one = replace(one, latency_s=folded_latency(one, budget).p50_s)
        slack = replace(budget, latency_s=budget.latency_s and budget.latency_s * SLACK)
        if slack.allows(params=one.params, macs=one.macs, latency_s=one.latency_s):
            timed.append(paced(one, batch=batch, device=device))
        else:
            over.append(one)
    if apart is not None:
        for one in second_look(over, budget, seconds=seconds / 15, apart=apart, say=say):
            over = [c for c in over if c.name != one.name]
            if budget.allows(params=one.params, macs=one.macs, latency_s=one.latency_s):
                timed.append(paced(one, batch=batch, device=device))
            else:
                over.append(one)
    if not timed:
        say("looking for faster models")
        until = time.perf_counter() + max(PATIENCE_S, seconds / 10)
        rest = takewhile(lambda _: time.perf_counter() < until, (c for c, _ in space))
        more = [c for c in rest if budget.allows(params=c.params, macs=c.macs)]
        timed = _cheapest([*allowed, *more], budget, over, until + PATIENCE_S)
        timed = [paced(c, batch=batch, device=device) for c in timed]
    return Shortlist(tuple(_chosen(timed, images, seconds, size)), tuple(over), len(pool))


def _space(
    image_size: tuple[int, int], channels: int, classes: int, seed: int, *, most: int
) -> Iterator[tuple[Candidate, bool]]:
    """Candidates of the `most` promising families, then of the others (marked True)."""
    ordered = by_prior(families())
    for chosen, second_choice in ((ordered[:most], False), (ordered[most:], True)):
        for one in small_candidates(image_size, channels, classes, seed, chosen):
            yield one, second_choice


def _prior(one: Candidate) -> float:
    """The prior of a family; pretrained weights count more than any without."""
    return prior(one.family) + (one.pretrained is not None)


def _cheapest(
    allowed: Sequence[Candidate], budget: Budget, over: list[Candidate], until: float
) -> list[Candidate]:
    """The small end of each family, when the spread missed the latency budget; the smallest
    of all are timed first, and no more from `until` (of time.perf_counter()) on."""
    tried, seen = {c.name for c in over}, Counter[str]()
    found = []
    for one in sorted(allowed, key=lambda c: c.macs):
        if one.name in tried or seen[one.family] == 3 or time.perf_counter() > until:
            continue
        seen[one.family] += 1
        one = replace(one, latency_s=folded_latency(one, budget).p50_s)
        limit = (budget.latency_s or math.inf) * SLACK
        (found if (one.latency_s or 0.0) <= limit else over).append(one)
    if not found:
        raise _nothing(over, budget)
    return found


def _spread(pool: Iterable[Candidate], goal: float, *, per_family: int) -> list[Candidate]:
    """Some of each family around `goal` multiply-adds: nearest first, the families in turns."""
    members: dict[str, list[Candidate]] = {}
    for one in pool:
        members.setdefault(_column(one), []).append(one)
    columns = []
    for name in sorted(members, key=lambda c: -_prior(members[c][0])):
        picked: dict[str, Candidate] = {}
        for share in SHARES[:per_family]:
            near = min(members[name], key=lambda c: abs(math.log((c.macs + 1) / goal / share)))
            picked[near.name] = near
        columns.append(list(picked.values()))
    return [column[i] for i in range(per_family) for column in columns if i < len(column)]


def _column(one: Candidate) -> str:
    """Candidates compete for places within their family, pretrained ones among themselves."""
    return one.family + ("*" if one.pretrained else "")


def epochs_seen(one: Candidate, images: int, seconds: float) -> float:
    """Passes over the training images that the candidate makes in that time."""
    return (one.rate or 0.0) * seconds / images


def passes(images: int) -> float:
    """Passes over so many training images at which small models learn best in a limited time.

    Fewer leave a model undertrained, more would be better spent on a larger one: 25 for 5,000
    images, 12 for 50,000.
    """
    return min(60.0, max(6.0, 25 * (5000 / images) ** 0.3))


def fitness(one: Candidate, images: int, seconds: float) -> float:
    """How well its size suits the time: 0 at the best number of passes, less on either side.

    Pretrained weights need a fifth of the passes. Too few passes cost twice as much as too
    many.
    """
    goal = passes(images) / 5 if one.pretrained else passes(images)
    off = math.log(max(epochs_seen(one, images, seconds), 1e-9) / goal)
    return -off if off > 0 else 2 * off


def _chosen(timed: Sequence[Candidate], images: int, seconds: float, size: int) -> list[Candidate]:
    """The best suited of each family in turns, so that no family is left out early."""
    columns: dict[str, list[Candidate]] = {}
    for one in sorted(timed, key=lambda c: -fitness(c, images, seconds)):
        columns.setdefault(_column(one), []).append(one)
    ordered = sorted(
        columns.values(),
        key=lambda c: -_prior(c[0]) - MISFIT * fitness(c[0], images, seconds),
    )
    longest = max(len(column) for column in ordered)
    turns = [column[i] for i in range(longest) for column in ordered if i < len(column)]
    return turns[:size]


def _nothing(pool: Sequence[Candidate], budget: Budget) -> BudgetError:
    if not pool:
        return BudgetError("no model can be built for these images: give images of 8 pixels or up")
    closest = min(
        pool,
        key=lambda c: budget.excess(params=c.params, macs=c.macs, latency_s=c.latency_s),
    )
    return BudgetError(
        f"no model keeps the budget ({budget.spoken()}): of {len(pool)} the closest is "
        f"{closest.name} with {closest.figures()}; allow that much"
    )
