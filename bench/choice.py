"""What the choice of `vitrail fit` costs: its winner beside the best of a pool.

    python bench/choice.py DATA ... [--times 60s,3m] [--macs 60M] [--latency 5ms] [--seeds 1]

For each data set and time `fit` runs as a user would run it. Then each of twelve models, small and
large ones of the families that learn most in little time (those that keep the limits), trains in
full with the recipe of `fit` for as long as `fit` had after reading, without a race, and is judged
on the same test part. The regret is the best of the pool minus `fit`: the best of twelve tests is
chosen by the test itself, so it says more than a user can have. Told is also whether the exported
file keeps the latency. Results are JSON lines in `--out`; what is in it is not measured again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from vitrail.jobs.fit import fit
from vitrail.jobs.training import train_in_full
from vitrail.measure.machine import machine
from vitrail.models import families
from vitrail.recipes.defaults import batch_size, default
from vitrail.recipes.recipe import Data
from vitrail.run.budget import Budget
from vitrail.run.judge import judge
from vitrail.run.reading import Hardware, Read, read
from vitrail.run.state import State
from vitrail.run.subject import counted
from vitrail.run.view import View
from vitrail.run.watch import Watched
from vitrail.search.candidate import Candidate, candidate
from vitrail.search.rungs import EFFICIENCY, Runner
from vitrail.search.space import image_sizes
from vitrail.search.timing import paced
from vitrail.units import parse_count, parse_duration, parse_latency

# A family, and which of its sizes, as shares of the way from its smallest to its largest.
POOL = {
    "airbench": (0.2, 0.45, 0.7, 0.9), "resnet": (0.3, 0.6, 0.9), "cct": (0.4, 0.8),
    "glit": (0.5,), "levit": (0.5,), "mlp_mixer": (0.5,),
}  # fmt: skip


def pool(data: Read, options: argparse.Namespace) -> Iterator[Candidate]:
    """Yield the models of the pool that keep the limits."""
    budget = Budget(macs=parse_count(options.macs) if options.macs else None)
    image, split = image_sizes(data.inspection.size)[-1], data.workshop.split
    for family, places in POOL.items():
        configs = families()[family].SPACE.configs(
            image=image, channels=split.channels, classes=len(split.classes)
        )
        sizes = [(figures, config) for config in configs if (figures := counted(config))]
        allowed = sorted(
            (
                candidate(config, params=figures.params, macs=figures.macs)
                for figures, config in sizes
                if budget.allows(params=figures.params, macs=figures.macs)
            ),
            key=lambda one: one.macs,
        )
        for place in places if allowed else ():
            yield allowed[round(place * (len(allowed) - 1))]


def alone(one: Candidate, data: Read, seconds: float, seed: int, folder: Path) -> float:
    """Train a model in full for the seconds; returns test accuracy."""
    workshop, start = data.workshop, time.monotonic()
    images = len(workshop.split.train)
    batch = batch_size(images, config=one.config)
    one = paced(one, batch=batch)
    recipe = default(
        one.config,
        workshop.data(Data(str(folder)), one.image, one.channels),
        images=images,
        total=max(8, int((one.rate or 1.0) * EFFICIENCY * seconds / batch)),
        seed=seed,
        precision=one.precision,
    )
    state = State.new(folder / "fit.json")
    watched = Watched(workshop, folder, one.name, View(Console(quiet=True)))
    trained = train_in_full(Runner(one, recipe, (1,)), watched, state, start + seconds)
    outputs = judge(trained.model, trained.recipe, workshop.split.test, workshop).outputs
    return trained.recipe.task.scores(outputs).main


def fitted(spec: str, limit: str, seed: int, options: argparse.Namespace, out: Path) -> dict:
    """Run `fit`; returns its accuracy, the seconds after reading, and whether limits were kept."""
    run = fit(
        spec, time=limit, macs=options.macs, latency=options.latency, seed=seed, out=out,
        console=Console(quiet=True),
    )  # fmt: skip
    result = json.loads((run.path / "result.json").read_text())
    most = parse_latency(options.latency) if options.latency else None
    kept = most is None or result["latency"]["p50_s"] <= most
    return {
        "name": "fit", "accuracy": result["test"]["accuracy"], "won": result["model"]["title"],
        "seconds": parse_duration(limit) - result["seconds"]["data"], "kept": kept,
    }  # fmt: skip


def measured(spec: str, limit: str, seed: int, options: argparse.Namespace) -> dict[str, dict]:
    """Return what `fit` and each of the pool reach; what is known already is read."""
    about = {"data": Path(spec).name, "time": limit, "seed": seed}
    known: dict[str, dict] = {}
    if options.out.is_file():
        for line in map(json.loads, options.out.read_text().splitlines()):
            if all(line[name] == value for name, value in about.items()):
                known[line["name"]] = line

    def note(found: dict) -> None:
        known[found["name"]] = found
        with options.out.open("a") as file:
            file.write(json.dumps(about | found) + "\n")
        print({**about, **found}, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        if "fit" not in known:
            note(fitted(spec, limit, seed, options, Path(folder) / "run"))
        data = read(Data(spec, seed=seed), Hardware(), View(Console(quiet=True)))
        for one in pool(data, options):
            if one.name not in known:
                where = Path(folder) / one.name
                where.mkdir()
                right = alone(one, data, known["fit"]["seconds"], seed, where)
                note({"name": one.name, "title": one.title, "accuracy": right})
    return known


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+")
    parser.add_argument("--times", default="60s,3m,10m")
    parser.add_argument("--macs")
    parser.add_argument("--latency")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("choice.jsonl"))
    options = parser.parse_args()
    print(machine())
    regrets = []
    for spec in options.data:
        for limit in options.times.split(","):
            for seed in range(options.seeds):
                found = measured(spec, limit, seed, options)
                ours = found.pop("fit")
                best = max(found.values(), key=lambda one: one["accuracy"])
                regrets.append(100 * (best["accuracy"] - ours["accuracy"]))
                print(
                    f"{spec} {limit} seed {seed}: fit {100 * ours['accuracy']:.2f} % with "
                    f"{ours['won']}, best of {len(found)} {100 * best['accuracy']:.2f} % with "
                    f"{best['title']}: regret {regrets[-1]:+.2f} points"
                    f"{'' if ours['kept'] else '; the latency is not kept'}",
                    flush=True,
                )
    print(f"regret: mean {sum(regrets) / len(regrets):+.2f}, at worst {max(regrets):+.2f} points")


if __name__ == "__main__":
    main()
