"""`vitrail probe`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from vitrail.commands.options import Json, show, whole, work
from vitrail.units import shortened


def probe(
    run: Annotated[
        str, typer.Argument(help="Run of `vitrail pretrain`, `fit` or `train`, or weights.")
    ],
    data: Annotated[
        str, typer.Argument(help="Labelled images: folder of class folders, table or name.")
    ],
    shots: Annotated[
        str, typer.Option(help="Numbers of labels of each class, e.g. 1,5,10.")
    ] = "1,5,10",
    draws: Annotated[int, typer.Option(help="Number of times that labels are drawn anew.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the split and of the draws.")] = 0,
    as_json: Json = False,
) -> None:
    """Tell classes by frozen features, with few labels of each class and with all."""
    from vitrail.jobs.probe import probe as ask

    work()
    found = ask(
        run, data, shots=whole(shots, "--shots"), draws=draws, seed=seed,
        progress=sys.stderr.isatty(),
    )  # fmt: skip
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
        return
    rows = [
        (
            "all" if one.shots is None else str(one.shots),
            _share(one.knn, one.knn_interval),
            _share(one.linear, one.linear_interval),
        )
        for one in found.shots
    ]
    show(("labels a class", "nearest neighbours", "linear"), rows, left=("labels a class",))
    print(
        f"{found.model}: {found.width} features; {found.asked:,} validation images told, labels "
        f"drawn from {found.known:,}, {draws} times, with 95 % intervals over draws"
    )
    if found.strange:
        print(
            f"{shortened(', '.join(found.strange))}: {run} did not learn to tell these, so the "
            "figures are of its features for classes that are new to it"
        )


def _share(value: float, interval: tuple[float, float] | None) -> str:
    if interval is None:
        return f"{value:.1%}"
    return f"{value:.1%} ({interval[0]:.1%} to {interval[1]:.1%})"
