"""Studies of architecture searches: what each paper says of its own, on real images, seed by seed.

    python bench/searches.py STUDY [DATA] [--seeds 3] [--out FOLDER] [--scale 1]

    vitas   channels shared from both sides, from one, or in windows: rank correlation of inherited
            scores with those of networks trained alone; and the share of random networks near a
            limit, before and after the identity's probability is fitted
    glit    all-attention, all blocks mixed (one head of three attends), and what a search found, at
            equal multiply-adds
    pnas    cells that grow by a predictor's word against random ones, at equal trainings
    bats    cells searched with binary inputs, with real ones, and drawn, all trained binary
    aim     shared network, evolution and one training against the training of 30 candidates, in
            AutoFormer's space; aim-vitas is the same in ViTAS's, whose networks cost a fifth

Each arm has the same seeds, which decide weights, batches and draws; what there is after a stop is
not trained again. Tables have means in hundredths (per cent, or a hundred times a correlation) and
differences with 95 % intervals. Everything is chosen by validation images. --scale makes trainings
longer or shorter; 1 is meant for a quarter to half an hour on 2 cores of the bundled sample.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from arms import Figures, finished, table
from lab import Lab, best, hunted, opened, share_of, some_within

from vitrail.models.glit import plain
from vitrail.run.budget import Budget
from vitrail.run.watch import LOOK_AT
from vitrail.search.costs import Cost, fitted, share_within
from vitrail.search.judging import correlation
from vitrail.search.relaxed import Relaxed
from vitrail.search.spaces.space import drawn
from vitrail.search.strategies import Evolve, Found, Ground, Progressive, Random

TIMES = 3  # a training step is a forward pass and twice as much backwards
THIRTY = 30
SIDES = ("thirty trained", "search")


@dataclass(frozen=True)
class Study:
    """Arms, the one that others are compared with, and who makes the figures of one."""

    arms: tuple[str, ...]
    base: str
    run: Callable[[Lab, str, int, float], Figures]
    name: str = ""


def steps(number: int, scale: float) -> int:
    """Return a number of steps at a scale."""
    return max(4, round(number * scale))


# ---- ViTAS ---------------------------------------------------------------------------------


def vitas(lab: Lab, arm: str, seed: int, scale: float) -> Figures:
    """Tell how a kind of sharing ranks eight networks, whose own trainings all arms share."""
    space = lab.space("vitas", sharing=arm)
    limit = share_of(space, 0.2)
    space = fitted(space, Budget(macs=limit), seed)
    some = some_within(lab.space("vitas"), 8, seed, limit, least=0.3)
    shared, recipe = lab.shared(space, steps(600, scale), seed, name=arm)
    judge = lab.judge(shared, recipe, space)
    inherited = [judge(genes).score for genes in some]

    def train(name: str, _: int) -> Figures:
        config = space.config(some[int(name)])
        return {"score": lab.alone(config, steps(250, scale), seed)}

    alone = finished(lab.out / f"alone-{seed}.json", [*map(str, range(len(some)))], 1, train)
    ranks = correlation([(s, alone[str(i)][0]["score"]) for i, s in enumerate(inherited)])
    return {
        "Kendall": ranks.kendall or 0.0, "Spearman": ranks.spearman or 0.0,
        "inherited": sum(inherited) / len(inherited),
    }  # fmt: skip


def window(lab: Lab, arm: str, seed: int, scale: float) -> Figures:
    """Tell which share of random networks lies within 80 to 100 % of three limits."""
    space, found = lab.space("vitas"), {}
    for share in (0.05, 0.15, 0.3):
        budget = Budget(macs=share_of(space, share))
        own = fitted(space, budget, seed) if arm == "fitted" else space
        found[f"limit at {100 * share:.0f} %"] = share_within(own, budget, seed)
    return found


# ---- GLiT ----------------------------------------------------------------------------------


def glit(lab: Lab, arm: str, seed: int, scale: float) -> Figures:
    """Train an arm; each is as wide as the limit allows, which is two attending heads of three in
    every block of the space's own width."""
    space = lab.space("glit")
    blocks, heads = len(space.base.local), space.base.heads

    def like(thirds: int, dim: int) -> Any:
        return replace(space.base, dim=dim, **plain((thirds,) * blocks, heads))

    limit = space.count(like(2, space.base.dim)).macs
    if arm == "searched":
        shared, recipe = lab.shared(space, steps(600, scale), seed)
        ground = Ground(space, lambda genes: _macs(space, genes) <= limit, seed)
        evolve = Evolve(10, 4, 4, 4, generations=4)
        found = best(hunted(evolve, ground, lab.judge(shared, recipe, space)))
        config = space.config(found.genes)
    else:
        thirds = heads if arm == "all attention" else 1
        widths = [like(thirds, dim) for dim in range(heads, 2 * space.base.dim, heads)]
        config = [one for one in widths if space.count(one).macs <= limit][-1]
    right = lab.alone(config, steps(1500, scale), seed, test=True)
    return {"test": right, "multiply-adds of the limit": space.count(config).macs / limit}


# ---- PNAS ----------------------------------------------------------------------------------


def pnas(lab: Lab, arm: str, seed: int, scale: float) -> Figures:
    """Train as many small networks of cells that grow, or of random cells of the largest size."""
    space = lab.space("pnas", blocks=3, small_dim=8)
    grow = Progressive(first=8, beam=4)
    trainings = grow.first + (space.blocks - 1) * grow.beam
    count = steps(60, scale)
    ground = Ground(space, lambda genes: True, seed)

    def judge(genes: Any) -> Found:
        config = space.small(genes)
        counts = space.count(config)
        cost = Cost(counts.macs, counts.params)
        return Found(genes, lab.alone(config, count, seed), 0.0, cost)

    found = hunted(grow if arm == "progressive" else Random(trainings), ground, judge)
    largest = [one for one in found if one.generation == space.blocks - 1 or arm == "random"]
    ordered = sorted(largest, key=lambda one: one.order, reverse=True)
    top = ordered[: grow.beam]
    config = space.small(top[0].genes)
    return {
        "best small, validation": top[0].score,
        f"mean of the best {grow.beam}": sum(one.score for one in top) / len(top),
        "best, trained longer, test": lab.alone(config, 5 * count, seed, paper="pnas", test=True),
    }


# ---- BATS ----------------------------------------------------------------------------------


def bats(lab: Lab, arm: str, seed: int, scale: float) -> Figures:
    """Search cells as the arm says, and train what is found in two stages, to be all binary."""
    searched = "none" if arm == "real, binarised" else "inputs"
    space = lab.space("bats", searched=searched)
    space = replace(space, found=replace(space.found, dim=16, cells=3))
    if arm == "random":
        genes = drawn(space, random.Random(f"bats {seed}"))
    else:
        mixture, _ = lab.shared(space, steps(80, scale), seed, shares=Relaxed, name=searched)
        tables = [one.tolist() for one in mixture.mixture()]
        genes = space.strongest((tables[0], tables[1]))
    config = space.config(genes)
    chosen = [name for name, _ in (*config.normal, *config.reduce)]
    free = sum("pool" in name or "skip" in name for name in chosen) / len(chosen)
    right = lab.alone(config, steps(300, scale), seed, paper="bats", test=True)
    return {"test": right, "operations without weights": free}


# ---- the aim -------------------------------------------------------------------------------


def aim(lab: Lab, arm: str, seed: int, scale: float, name: str = "autoformer") -> Figures:
    """Find a network by a search, or by training thirty; cost is in multiply-adds of trainings."""
    space = lab.space(name)
    limit, alone = share_of(space, 0.3), steps(250, scale)
    some, batch = (
        some_within(space, THIRTY, seed, limit),
        lab.recipe(_ends(space), 4, 0).steps.batch,
    )

    def cost(each: list[int], count: int) -> int:
        return TIMES * batch * count * sum(each)

    thirty = cost([_macs(space, genes) for genes in some], alone)
    if arm == SIDES[0]:
        scores = [lab.alone(space.config(genes), alone, seed) for genes in some]
        genes, own = some[max(range(len(some)), key=scores.__getitem__)], thirty
    else:
        learned = steps(250, scale)
        shared, recipe = lab.shared(space, learned, seed)
        ground = Ground(space, lambda g: _macs(space, g) <= limit, seed)
        found = hunted(Evolve(10, 4, 3, 3, generations=4), ground, lab.judge(shared, recipe, space))
        genes = best(found).genes
        # A step of the shared network trains one random candidate of the whole space.
        steps_drawn = [drawn(space, random.Random(f"{seed} {n}")) for n in range(learned)]
        images = len(lab.images.workshop.watched(recipe, LOOK_AT))
        own = cost([_macs(space, g) for g in steps_drawn], 1) + cost([_macs(space, genes)], alone)
        own += images * sum(one.cost.macs for one in found)
    right = lab.alone(space.config(genes), alone, seed, test=True)
    return {"test": right, "cost, of thirty trainings": own / thirty}


def _macs(space: Any, genes: Any) -> int:
    return space.count(space.config(genes)).macs


def _ends(space: Any) -> Any:
    return space.config(space.ends[0])


STUDIES: dict[str, tuple[Study, ...]] = {
    "vitas": (
        Study(("left", "sides", "cyclic"), "left", vitas, "sharing"),
        Study(("uniform", "fitted"), "uniform", window, "window"),
    ),
    "glit": (Study(("all attention", "mixture", "searched"), "all attention", glit, "heads"),),
    "pnas": (Study(("random", "progressive"), "random", pnas, "growth"),),
    "bats": (Study(("real, binarised", "binary", "random"), "real, binarised", bats, "cells"),),
    "aim": (Study(SIDES, SIDES[0], aim, "cost"),),
    "aim-vitas": (Study(SIDES, SIDES[0], partial(aim, name="vitas"), "cost"),),
}


def main() -> None:
    """Run one study, and print and keep its tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("data", nargs="?", default="fashion-sample")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    out = asked.out or Path(f"bench-run/searches-{asked.study}-{asked.scale:g}")
    lab, told = opened(asked.data, out), []
    for study in STUDIES[asked.study]:

        def train(arm: str, seed: int, run: Any = study.run) -> Figures:
            return run(lab, arm, seed, asked.scale)

        found = finished(out / f"{study.name}.json", study.arms, asked.seeds, train)
        told.append(table(found, study.base))
    (out / "table.md").write_text("\n\n".join(told) + "\n")
    print("\n\n".join(told))


if __name__ == "__main__":
    main()
