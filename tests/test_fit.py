"""The main job: budgets in words, the shortlist, the race, and whole fits of a few seconds."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
from collections import defaultdict
from dataclasses import replace
from functools import cache
from io import StringIO
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from vitrail import models
from vitrail.config import kind_of
from vitrail.data.decode import resize
from vitrail.errors import BudgetError, CheckpointError, DataError, RunError, VitrailError
from vitrail.measure.latency import Latency
from vitrail.recipes.defaults import default
from vitrail.recipes.pretrained import start
from vitrail.recipes.recipe import Data, Recipe, amend, from_json
from vitrail.run.budget import Budget
from vitrail.run.folder import RunFolder
from vitrail.run.view import View
from vitrail.search import shortlist as shortlisting
from vitrail.search import timing
from vitrail.search.box_space import box_candidates
from vitrail.search.candidate import Candidate, candidate
from vitrail.search.clip_space import clip_candidates
from vitrail.search.dense_space import dense_candidates
from vitrail.search.fitness import passes
from vitrail.search.other_size import Rest, other_size, said
from vitrail.search.race import Race
from vitrail.search.rungs import Runner, field_size, keep, rung_seconds, rung_sizes, rung_steps
from vitrail.search.series_space import series_candidates
from vitrail.search.shelf import shelf
from vitrail.search.shortlist import Terms, shortlist
from vitrail.search.space import image_sizes, spread
from vitrail.tasks.task import Scores
from vitrail.units import count, parse_count, parse_duration, parse_latency, seconds

# ---- budget ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [("20ms", 0.02), ("0.02s", 0.02), ("1.5 s", 1.5), ("800us", 8e-4), (0.01, 0.01)],
)
def test_latencies_are_read(text, value):
    assert parse_latency(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"), [("30M", 30_000_000), ("1.3G", 1_300_000_000), ("2500000", 2_500_000)]
)
def test_counts_are_read(text, value):
    assert parse_count(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("10m", 600), ("90s", 90), ("1h30m", 5400), ("1.5h", 5400), (20, 20)]
)
def test_durations_are_read(text, value):
    assert parse_duration(text) == value


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (parse_latency, "20", "latency '20' has no unit: write 20ms or 20s"),
        (parse_latency, "fast", "latency 'fast' is not a time"),
        (parse_latency, "20 minutes", "latency '20 minutes' is not a time"),
        (parse_latency, "0ms", "latency '0ms' must be above zero"),
        (parse_count, "many", "count 'many' is not a number"),
        (parse_count, "-3M", "count '-3M' is not a number"),
        (parse_duration, "10", "time '10' has no unit: write 10m or 10s"),
        (parse_duration, "1h30", "time '1h30' is not a duration"),
    ],
)
def test_a_wrong_budget_says_the_value_and_the_remedy(read, text, said):
    with pytest.raises(BudgetError) as caught:
        read(text)
    assert str(caught.value).startswith(said)


@given(st.integers(1, 10**12))
def test_a_count_reads_back_what_it_writes(value):
    assert parse_count(count(value).replace(" ", "")) == pytest.approx(value, rel=0.006)


def test_times_are_spoken_in_their_units():
    assert [seconds(v) for v in (1e-4, 0.0031, 4.25, 125, 725, 9000)] == [
        "100 µs",
        "3.1 ms",
        "4.25 s",
        "2 min 5 s",
        "12 min",
        "2 h 30 min",
    ]


def test_a_budget_allows_what_keeps_every_limit():
    budget = Budget(latency_s=0.01, macs=100)
    assert budget.allows(params=10**9, macs=100, latency_s=0.01)
    assert budget.allows(params=1, macs=100)
    assert not budget.allows(params=1, macs=101)
    assert not budget.allows(params=1, macs=1, latency_s=0.011)
    assert budget.excess(params=1, macs=150, latency_s=0.02) == 2


# ---- shortlist -------------------------------------------------------------------------


def test_image_sizes_follow_the_data():
    assert image_sizes((28, 28)) == [(28, 28), (32, 32)]
    assert image_sizes((32, 40)) == [(32, 40)]
    assert image_sizes((120, 400)) == [(64, 64), (96, 96), (128, 128)]
    assert image_sizes((50, 60)) == [(50, 50)]


def listed(budget, **changes):
    arguments = {"image_size": (28, 28), "channels": 1, "classes": 3, "budget": budget}
    arguments |= {"images": 500, "seconds": 20.0, "size": 4, "batch": 16}
    return shortlist(Terms(**(arguments | changes)))


def test_a_shortlist_keeps_the_budget_and_several_families(monkeypatch):
    # So few families that all of them are counted and timed before the time is up.
    few = {name: models.families()[name] for name in ("cct", "mlp_mixer")}
    monkeypatch.setattr(shortlisting, "families", lambda: few)
    monkeypatch.setattr(shortlisting, "SIZES", 2)
    found = listed(Budget(macs=3_000_000, params=400_000), seconds=600.0)
    assert 2 <= len(found.candidates) <= 4
    assert len({c.family for c in found.candidates}) >= 2
    assert len({c.name for c in found.candidates}) == len(found.candidates)
    for one in found.candidates:
        assert one.macs <= 3_000_000
        assert one.params <= 400_000
        assert one.rate > 0
        assert one.latency_s > 0


@pytest.mark.parametrize(
    ("device", "able", "low_rate", "chosen"),
    [
        ("cpu", True, 150.0, ("bf16-mixed", 150.0)),
        ("cpu", True, 105.0, ("32-true", 100.0)),  # a gain of 5 % may be noise
        ("cpu", False, 150.0, ("32-true", 100.0)),
        ("cuda", True, 150.0, ("bf16-mixed", 150.0)),
    ],
)
def test_a_candidate_trains_in_the_faster_precision(monkeypatch, device, able, low_rate, chosen):
    rates = {"32-true": 100.0, "bf16-mixed": low_rate}
    monkeypatch.setattr(timing, "training_rate", lambda one, precision, **_: rates[precision])
    monkeypatch.setattr(timing, "fast_bf16", lambda: able)
    one = timing.paced(candidate(small("resnet"), params=1, macs=1), batch=8, device=device)
    assert (one.precision, one.rate) == chosen


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_training_rate_is_measured_in_its_precision(precision, monkeypatch):
    seen = set()
    forward = torch.nn.functional.cross_entropy
    monkeypatch.setattr(
        torch.nn.functional,
        "cross_entropy",
        lambda p, y: seen.add(low.pop() if low else None) or forward(p, y),
    )
    low = []
    create = timing.create

    def spied(config):
        model = create(config)
        model.head.register_forward_hook(lambda m, x, y: low.append(y.dtype))
        return model

    monkeypatch.setattr(timing, "create", spied)
    one = candidate(small("resnet"), params=1, macs=10**8)
    assert timing.training_rate(one, batch=4, precision=precision) > 0
    assert seen == {torch.bfloat16 if precision == "bf16-mixed" else torch.float32}


def test_the_first_sizes_of_a_family_are_spread_over_all_of_them():
    for n in (1, 2, 3, 5, 16, 18, 60):
        for seed in range(8):
            order = spread(range(n), seed)
            assert sorted(order) == [*range(n)]
            for k in (3, 5, 8):
                chosen = sorted(order[:k])
                gaps = [b - a for a, b in pairwise([*chosen, chosen[0] + n])]
                # Of k evenly spread ones none would be further from the next than n / k.
                assert k > n or max(gaps) <= 4 * n / k
    assert spread([], 0) == []


SPACES = {
    "clips": lambda seed: clip_candidates((32, 32), 4, 5, seed),
    "series": lambda seed: series_candidates((40, 1), 3, 5, seed),
    "masks": lambda seed: dense_candidates((32, 32), 3, 5, seed),
    "boxes": lambda seed: box_candidates((64, 64), 3, 5, seed),
}


@pytest.mark.parametrize("kind", SPACES)
def test_every_space_begins_with_sizes_that_are_spread(kind):
    """A few of a family are looked at where time is short, and the best size must be near one."""
    groups = defaultdict(list)
    for one in islice(SPACES[kind](1), 24):
        host = getattr(one.config, "host", one.config)
        head = kind_of(type(one.config)), type(getattr(one.config, "decoder", None))
        groups[kind_of(type(host)), head if kind != "clips" else None].append(host)
    for (family, _), hosts in groups.items():
        space = models.networks()[family].SPACE
        channels, classes = hosts[0].channels, hosts[0].classes
        every = [*space.configs(image=hosts[0].image, channels=channels, classes=classes)]
        if kind == "clips" and family == "mvit":
            every = [replace(config, frames=4) for config in every]
        places = [every.index(host) for host in hosts]
        orders = [
            [place for place in spread(range(len(every)), seed) if place in places]
            for seed in range(1, 100)
        ]
        assert places in orders, family


def test_hosts_count_where_a_network_of_maps_is_built_on_them(monkeypatch):
    monkeypatch.setattr(shortlisting, "prior", {"resnet": 0.9, "acmix": 0.2}.__getitem__)
    hosted = next(iter(models.small_configs("acmix", image=(32, 32), channels=3, classes=10)))
    assert shortlisting._prior(candidate(hosted, params=1, macs=1)) == 0.2
    dense = next(iter(dense_candidates((64, 64), 3, 4, 0)))
    host = kind_of(type(dense.config.host))
    monkeypatch.setattr(shortlisting, "prior", {host: 0.7}.__getitem__)
    assert shortlisting._prior(dense) == 0.7


def test_a_rate_counts_the_optimizer_once_a_batch(monkeypatch):
    now = [0.0]
    create, build = timing.create, timing.build

    def slow(config):
        model = create(config)
        model.register_forward_hook(lambda m, x, y: now.__setitem__(0, now[0] + len(y)))
        return model

    def slow_optimizer(*args):
        optimizer = build(*args)
        optimizer.register_step_post_hook(lambda *_: now.__setitem__(0, now[0] + 32))
        return optimizer

    monkeypatch.setattr(timing, "create", slow)
    monkeypatch.setattr(timing, "build", slow_optimizer)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    one = candidate(small("resnet"), params=1, macs=10**9)
    # An image takes a second, a step of the optimizer 32; four images are timed.
    assert timing.training_rate(one, batch=64) == 64 / (64 + 32)


def test_a_budget_that_nothing_keeps_names_the_closest(monkeypatch):
    monkeypatch.setattr(shortlisting, "PATIENCE_S", 2.0)
    with pytest.raises(BudgetError, match=r"no model keeps .* of \d+ the closest is .* parameters"):
        listed(Budget(params=100))


@pytest.mark.slow
def test_a_latency_that_nothing_keeps_leaves_the_least_slow():
    found = listed(Budget(latency_s=1e-8))
    assert 1 <= len(found.candidates) <= 3
    assert max(c.latency_s for c in found.candidates) <= min(c.latency_s for c in found.over)


def stepwise(latency):
    """Stands in for the clock: every candidate takes so many seconds in torch."""
    return lambda one, budget: Latency(latency, latency, 1)


def test_what_torch_finds_slow_may_race(monkeypatch):
    """Engines are several times as fast: only what is out of their reach is over the budget."""
    monkeypatch.setattr(shortlisting, "folded_latency", stepwise(5.0))
    monkeypatch.setattr(shortlisting, "paced", lambda one, **_: replace(one, rate=100.0))
    assert listed(Budget(latency_s=1.0)).candidates
    near, far = shortlisting.time_models(
        [candidate(small("resnet"), params=1, macs=10)],
        Terms((28, 28), 1, 3, 500, Budget(latency_s=0.1), 20.0, 4, 16),
        lambda text: None,
    )
    assert not near and len(far) == 1


def test_sizes_follow_what_a_family_turns_out_to_compute(monkeypatch):
    """A family ten times as quick as a matrix product promised is timed at ten times the size."""
    monkeypatch.setattr(shortlisting, "folded_latency", stepwise(0.01))
    monkeypatch.setattr(shortlisting, "peak_macs_per_s", lambda: 7.5e6)
    terms = Terms((28, 28), 1, 3, 500, Budget(latency_s=0.1), 1000.0, 4, 16)
    suited = 1e6 * 1000 / (500 * passes(500, "resnet"))  # multiply-adds of the forward pass
    sizes = [suited * 10**power for power in (-2, -1, -0.5, 0, 0.5, 1, 2)]
    field = [candidate(small("resnet"), params=1, macs=int(size)) for size in sizes]
    field = [replace(one, name=str(i)) for i, one in enumerate(field)]

    def order(rate):
        seen = []
        monkeypatch.setattr(
            shortlisting, "paced", lambda one, **_: seen.append(one.name) or rate(one)
        )
        shortlisting.time_models(field, terms, lambda text: None)
        return seen

    as_promised = order(lambda one: replace(one, rate=1e6 / one.macs))
    assert as_promised[0] == "3" and set(as_promised[1:3]) == {"2", "4"}
    assert order(lambda one: replace(one, rate=1e7 / one.macs))[:2] == ["3", "5"]


def test_a_size_that_may_answer_by_both_sides_goes_first():
    """Where limits leave room for twice the multiply-adds, up to a factor of 1.5 in size."""
    budget = Budget(macs=60)
    terms = Terms((28, 28), 1, 3, 500, budget, 1000.0, 4, 16, sides=True)
    shape = small("resnet")
    large, half, little = (candidate(shape, params=1, macs=n) for n in (40, 30, 20))
    rate = 40 * 500 * passes(500, "resnet") / 1000  # the largest suits the time best
    timed = [replace(c, name=str(c.macs), rate=rate / c.macs) for c in (large, half, little)]

    def order(terms):
        return [c.name for c in shortlisting._chosen(timed, terms)]

    assert order(terms) == ["30", "40", "20"]
    assert order(replace(terms, sides=False)) == ["40", "30", "20"]
    assert order(replace(terms, budget=Budget(macs=200))) == ["40", "30", "20"]


# ---- race ------------------------------------------------------------------------------


@given(st.integers(1, 40), st.floats(1, 1e5))
def test_rungs_halve_and_fill_the_time(n, total):
    sizes, marks = rung_sizes(n), rung_seconds(n, total)
    assert sizes[0] == n
    assert all(b == max(2, math.ceil(a / 2)) for a, b in pairwise(sizes))
    spent = sum(
        size * (mark - before)
        for size, mark, before in zip(sizes, marks, [0.0, *marks], strict=False)
    )
    assert spent == pytest.approx(total)
    assert marks == sorted(marks)


def test_a_faster_candidate_makes_more_steps_in_the_same_time():
    assert rung_steps(1000, 10, [1, 2]) == (85, 170)
    assert rung_steps(100, 10, [1, 2]) == (8, 17)
    assert rung_steps(1, 10, [1, 2]) == (4, 8)


def test_a_race_has_no_more_candidates_than_it_can_tell_apart():
    assert field_size([1000.0] * 9, 10, 60) == 9
    fewer = field_size([1000.0] * 9, 100, 120)
    assert 3 <= fewer < 9
    assert rung_steps(1000, 100, rung_seconds(fewer, 120))[0] >= 119
    assert field_size([1.0] * 9, 100, 60) == 3
    assert field_size([1.0], 100, 60) == 1


def runner(family, accuracy, trial, steps=(2, 4, 8)):
    data = Data("x", image=(8, 8), channels=1, mean=(0.5,), std=(0.2,))
    one = Candidate(f"{family}-{trial}", family, {"family": family}, 1, 1)
    recipe = replace(default(small("resnet"), data, images=100, total=8), seed=trial)
    return Runner(one, recipe, steps, rung=0, accuracy=accuracy, loss=1.0, trial=trial)


@cache
def small(family, image=(28, 28), channels=1, classes=3):
    return next(models.small_configs(family, image=image, channels=channels, classes=classes))


def test_the_last_rung_keeps_two_families():
    field = [runner("a", 0.9, 0), runner("a", 0.8, 1), runner("a", 0.7, 2), runner("b", 0.1, 3)]
    assert [r.trial for r in keep(field, 2, last=False)] == [0, 1]
    assert [r.trial for r in keep(field, 2, last=True)] == [0, 3]


def test_whoever_is_far_behind_goes_no_further():
    """Beyond 5 points with the whole interval; few images say nothing of that."""
    many = [
        replace(runner(family, accuracy, trial), judged=2000)
        for trial, (family, accuracy) in enumerate([("a", 0.46), ("b", 0.40), ("c", 0.36)])
    ]
    assert [r.trial for r in keep(many, 3, last=False)] == [0, 1]
    few = [replace(one, judged=100) for one in many]
    assert [r.trial for r in keep(few, 3, last=False)] == [0, 1, 2]
    # Of another rung nothing is known.
    ahead = [replace(many[0], rung=1), *many[1:]]
    assert [r.trial for r in keep(ahead, 3, last=False)] == [0, 1, 2]
    # Not even for the sake of a second family.
    alone = [many[0], replace(many[2], accuracy=0.3)]
    assert [r.trial for r in keep(alone, 2, last=True)] == [0]


class Clockwork:
    """A trainer whose accuracies are known beforehand; it notes what it trains."""

    def __init__(self, accuracy, fail_at=None, judged=10):
        self.accuracy, self.fail_at, self.trained = accuracy, fail_at, []
        self.judged = judged

    def train(self, recipe, folder, until, on_step=None):
        if len(self.trained) == self.fail_at:
            raise KeyboardInterrupt
        self.trained.append((recipe.seed, until))
        return type("Outcome", (), {"best": None, "samples_per_s": 100.0})

    def better(self, outcome, recipe, limit=None):
        return None, Scores(self.accuracy[recipe.seed], 1.0, self.judged)


def run_race(folder, trainer, owner="me", storage=None):
    race = Race(folder, name="race", owner=owner, storage=storage)
    race.enter([runner(f, None, i) for i, f in enumerate("abcde")])
    return race, race.run(trainer, View(), deadline=math.inf, localise=lambda recipe: recipe)


def test_a_race_halves_its_field_and_the_best_wins(tmp_path):
    trainer = Clockwork([0.1, 0.5, 0.9, 0.3, 0.7])
    race, order = run_race(tmp_path, trainer)
    assert [r.recipe.seed for r in order][:3] == [2, 4, 1]
    assert trainer.trained[:5] == [(0, 2), (1, 2), (2, 2), (3, 2), (4, 2)]
    assert sorted(trainer.trained[5:8]) == [(1, 4), (2, 4), (4, 4)]
    assert sorted(trainer.trained[8:]) == [(2, 8), (4, 8)]
    race.finish(order, order[0])
    assert race.study.best_trial.number == order[0].trial


def test_a_race_ends_where_one_leads_by_far(tmp_path):
    trainer = Clockwork([0.1, 0.5, 0.9, 0.3, 0.7], judged=2000)
    race, order = run_race(tmp_path, trainer)
    assert trainer.trained == [(0, 2), (1, 2), (2, 2), (3, 2), (4, 2)]
    assert order[0].recipe.seed == 2 and order[0].judged == 2000
    race.finish(order, order[0])
    assert race.study.best_trial.number == order[0].trial
    # Read again, it is over as well.
    again = Clockwork([0.0] * 5)
    _, same = run_race(tmp_path, again)
    assert not again.trained and [r.recipe.seed for r in same] == [r.recipe.seed for r in order]


@pytest.mark.parametrize(
    ("rate", "found"),
    [
        (300, True),  # the machine was busy when candidates were timed
        (110, False),
        (30, False),  # nothing smaller is left
    ],
)
def test_another_size_of_the_winner_is_trained_where_its_rate_was_far_off(rate, found):
    one = candidate(small("airbench", (32, 32), 3), params=1, macs=4_440_000)
    winner = replace(runner("airbench", 0.8, 0), candidate=replace(one, rate=100.0), rate=rate)
    images, budget = 5000, Budget(macs=60_000_000)
    # At 100 images a second the smallest size suits the time.
    rest = Rest(images, images * passes(images, "airbench") / 100, budget, sides=True)
    other = other_size(winner, rest)
    assert (other is not None) == found
    if other is not None:
        assert other.family == "airbench" and 2 * other.macs <= 60_000_000
        assert 2 < other.macs / one.macs < 4  # as many passes as were planned
        assert other.rate == pytest.approx(rate * one.macs / other.macs)
        assert "300 images a second, where 100 were measured" in said(winner, other)
        assert other_size(winner, replace(rest, budget=Budget(params=1))) is None


@pytest.mark.long
def test_a_fit_trains_another_size_that_did_not_race(photos, quick, tmp_path, monkeypatch):
    from vitrail.jobs import fitting
    from vitrail.jobs.fit import fit

    monkeypatch.setattr(fitting, "train_in_full", stopping := Stopping(fitting.train_in_full))
    asked = []

    def larger(winner, rest):
        asked.append(winner.candidate.name)
        other = models.small_configs("resnet", image=(16, 16), channels=3, classes=3)
        config = next(c for c in other if c != winner.candidate.config)
        return replace(candidate(config, params=1000, macs=1000), rate=winner.rate)

    monkeypatch.setattr(fitting, "other_size", larger)
    out = tmp_path / "run"
    with pytest.raises(RunError, match="stopped for this test"):
        fit(photos, params="100k", time="15s", threads=1, out=out, console=quick)
    fit(photos, out=out, resume=True, console=quick)
    assert len(asked) == 1 and stopping.calls == 2
    result = json.loads((out / "result.json").read_text())
    won = [c for c in result["candidates"] if c["status"] == "won"]
    assert [c["family"] for c in won] == ["resnet"] and won[0]["name"] not in asked
    assert asked[0] in {c["name"] for c in result["candidates"] if c["status"] == "stopped"}
    assert "is trained in place of" in (out / "report.html").read_text()


class Stopping:
    """Fails when it is called first."""

    def __init__(self, call):
        self.call, self.calls = call, 0

    def __call__(self, *arguments):
        self.calls += 1
        if self.calls == 1:
            raise RunError("stopped for this test")
        return self.call(*arguments)


@pytest.fixture(scope="module")
def raced(tmp_path_factory):
    """The folder of a race that is over."""
    folder = tmp_path_factory.mktemp("raced")
    run_race(folder, Clockwork([0.9, 0.5, 0.1, 0.3, 0.7]))
    return folder


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("candidate", {"name": 3}, "trial 0: candidate.name: 3 is not a text"),
        ("recipe", ["resnet"], "trial 0: recipe: "),
        ("recipe", {"model": {}}, "trial 0: "),
        ("steps", "many", "trial 0: steps: "),
        ("steps", [2, 4], "there is a score of rung 2, and steps of 2 rungs"),
        ("seconds", [1.0, None], "trial 0: seconds"),
        ("until0", 1.5, "trial 0: until0: 1.5 is not a whole number"),
        ("rung2", {"rate": "fast"}, "trial 0: rung2.rate: "),
    ],
)
def test_a_race_in_a_study_that_says_something_else_is_one_sentence(
    raced, tmp_path, name, value, said
):
    shutil.copy(raced / "study.sqlite", tmp_path)
    race = Race(tmp_path, name="race", owner="me")
    race._trial(0).set_user_attr(name, value)
    with pytest.raises(RunError, match=r"study\.sqlite is damaged .*start a new run") as caught:
        run_race(tmp_path, Clockwork([0.0] * 5))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (
            "update trial_intermediate_values set step = 'x' where step = 0",
            "'x' is neither a rung nor a score",
        ),
        (
            "update trial_intermediate_values set step = 1e-300 where step = 0",
            "1e-300 is neither a rung nor a score",
        ),
        ("update study_user_attributes set value_json = 'x'", "cannot be used"),
        ("update trial_user_attributes set value_json = 'x'", "cannot be used"),
    ],
)
def test_a_study_whose_rows_are_of_another_type_is_one_sentence(raced, tmp_path, statement, said):
    shutil.copy(raced / "study.sqlite", tmp_path)
    database = sqlite3.connect(tmp_path / "study.sqlite")
    database.execute(statement)
    database.commit()
    database.close()
    with pytest.raises(RunError, match=r"study\.sqlite .*start a new run") as caught:
        run_race(tmp_path, Clockwork([0.0] * 5))
    assert said in str(caught.value)


def test_a_race_that_was_stopped_goes_on_where_it_was(tmp_path):
    accuracy = [0.1, 0.5, 0.9, 0.3, 0.7]
    before = Clockwork(accuracy, fail_at=6)
    with pytest.raises(KeyboardInterrupt):
        run_race(tmp_path, before)
    after = Clockwork(accuracy)
    _, order = run_race(tmp_path, after)
    whole = Clockwork(accuracy)
    (tmp_path / "other").mkdir()
    _, expected = run_race(tmp_path / "other", whole)
    assert before.trained + after.trained == whole.trained
    assert [r.recipe.seed for r in order] == [r.recipe.seed for r in expected]


def test_two_machines_share_one_study(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.sqlite'}"
    accuracy = [0.1, 0.5, 0.9, 0.3, 0.7]
    first = Clockwork(accuracy, fail_at=2)
    with pytest.raises(KeyboardInterrupt):
        run_race(tmp_path, first, "first", url)
    second = Clockwork(accuracy)
    run_race(tmp_path, second, "second", url)
    assert {seed for seed, _ in first.trained} == {0, 1}
    # The third was claimed by the first machine when it stopped.
    assert {seed for seed, _ in second.trained} == {3, 4}


def test_an_unreachable_study_is_one_sentence(tmp_path):
    with pytest.raises(RunError, match=r"cannot be opened .* give --storage"):
        Race(tmp_path, name="race", owner="me", storage="nosuchdatabase://machine/name")


# ---- recipes ---------------------------------------------------------------------------


def test_a_recipe_comes_back_from_json_and_takes_settings():
    from vitrail.config import to_json

    data = Data("photos", channels=1, mean=(0.5,), std=(0.2,))
    recipe = default(small("resnet"), data, images=5000, total=100)
    assert from_json(json.loads(json.dumps(to_json(recipe)))) == recipe
    changed = amend(
        recipe, ["optimizer=sgd", "optimizer.lr=0.2", "data=digits", "model.drop_path=0.1"]
    )
    assert changed.optimizer.lr == 0.2
    assert changed.data.spec == "digits"
    assert changed.config.drop_path == 0.1
    assert changed.config.classes == 3
    assert amend(recipe, ["model=vit_ti16"]).config.dim == 192


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("model=vit_ti15", "model: no variant 'vit_ti15': did you mean 'vit_ti16'?"),
        ("model.dimz=3", "dimz: no such field: did you mean 'dims'?"),
        ("steps.batch=many", "steps.batch: 'many' is not a whole number"),
        ("optimizer=adam", "optimizer: kind 'adam' does not exist: did you mean 'adamw'?"),
    ],
)
def test_a_wrong_setting_of_a_recipe_is_one_sentence(setting, said):
    recipe = default(small("resnet"), Data("photos"), images=5000, total=100)
    with pytest.raises(VitrailError) as caught:
        amend(recipe, [setting])
    assert str(caught.value).startswith(said)


def test_the_beginning_of_a_recipe_does_not_depend_on_its_end():
    config, data = small("resnet"), Data("photos", channels=1, mean=(0.5,), std=(0.2,))
    short = default(config, data, images=5000, total=1000)
    assert isinstance(short, Recipe)
    held = replace(short.schedule, hold=50)
    assert all(held.factor(step, 60) == held.factor(step, 1000) for step in range(50))


# ---- pretrained ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def a_shelf(tmp_path_factory):
    """A small published model with random weights in timm's names, and a file that is none."""
    from safetensors.torch import save_file

    from vitrail.models import create

    folder = tmp_path_factory.mktemp("shelf")
    torch.manual_seed(0)
    model = create("cct_2_3x2_32")
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "some.safetensors"
    )
    save_file({"a": torch.zeros(2)}, folder / "strange.safetensors")
    return folder


def test_a_shelf_gives_candidates_with_new_heads(a_shelf):
    found, left_out = shelf(a_shelf, image_size=(32, 32), classes=3)
    assert found
    assert all(c.pretrained and c.model["classes"] == 3 for c in found)
    assert len(left_out) == 1
    one = found[0]
    torch.manual_seed(1)
    model = start(one.config, one.pretrained)
    fresh = start(one.config, None)
    from safetensors.torch import load_file

    donor = load_file(one.pretrained)
    same = [n for n, v in model.state_dict().items() if n in donor and torch.equal(v, donor[n])]
    assert len(same) >= len(donor) - 2
    assert (
        model(torch.zeros(2, 3, 32, 32)).shape == (2, 3) == fresh(torch.zeros(2, 3, 32, 32)).shape
    )


def test_a_shelf_without_a_known_file_is_one_sentence(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        shelf(tmp_path / "nothing", image_size=(32, 32), classes=3)
    with pytest.raises(CheckpointError, match="has no checkpoint that can be used"):
        shelf(tmp_path, image_size=(32, 32), classes=3)


# ---- whole fits ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes of 30 images, 16x16: bright above, below, or everywhere."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name, rows in (("above", slice(0, 8)), ("below", slice(8, 16)), ("whole", slice(0, 16))):
        (folder / name).mkdir()
        for number in range(30):
            image = random.integers(0, 90, (16, 16, 3), dtype=np.uint8)
            image[rows] += 120
            Image.fromarray(image).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """One thread, short measurements, a cache of its own, and a plain console whose text can be
    read."""
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("vitrail.run.exported.SECONDS", 0.1)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Console(file=StringIO(), width=200)
    torch.set_num_threads(before)


def content(folder):
    return {
        str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes())
        for p in folder.rglob("*")
        if p.is_file()
    }


@pytest.mark.long
def test_a_fit_goes_from_a_folder_to_a_report(photos, quick, tmp_path, monkeypatch):
    from vitrail.jobs.fit import fit
    from vitrail.run import judge

    opened = []
    unseal = judge.unseal
    monkeypatch.setattr(judge, "unseal", lambda part: opened.append(part) or unseal(part))
    before = content(photos)
    out = tmp_path / "run"
    run = fit(photos, latency="50ms", params="400k", time="10s", threads=1, out=out, console=quick)
    assert run == out
    assert content(photos) == before
    assert len(opened) == 1
    files = {p.name for p in run.path.iterdir()}
    assert {"report.html", "weights.safetensors", "recipe.json", "metrics.jsonl"} <= files
    assert {"labels.json", "model.onnx", "README.md", "result.json", "study.sqlite"} <= files
    assert "look-at.csv" in files
    result = json.loads((run / "result.json").read_text())
    assert result["test"]["accuracy"] > 0.8
    assert result["test"]["n"] == 15
    assert result["latency"]["p50_s"] <= 0.05
    picture = result["latency"]["picture"]
    assert picture["size"] == [16, 16] and picture["decode_s"] > 0 and picture["format"] == "PNG"
    if result["model"]["image"] == [16, 16]:
        assert picture["resize_s"] == 0 and picture["model_s"] == result["latency"]["p50_s"]
    assert result["model"]["params"] <= 400_000
    *parts, total = result["seconds"].values()
    assert sum(parts) <= total + 1e-6
    # Training stops at the clock, however long the rest takes on a busy machine.
    assert result["seconds"]["training"] < 10
    assert [c["status"] for c in result["candidates"]].count("won") == 1
    assert f"{result['test']['accuracy']:.1%}" in quick.file.getvalue()

    model, _, labels = RunFolder.open(run).load_model()
    assert run.accuracy == result["test"]["accuracy"]
    assert run.latency_s == result["latency"]["p50_s"]
    assert labels.classes == ("above", "below", "whole")
    picture = np.array(Image.open(photos / "below" / "3.png"))[None]
    picture = resize(picture, labels.image)
    assert labels.classes[int(model(labels.normalised(picture)).argmax())] == "below"

    quick.file.truncate(0)
    assert fit(photos, out=out, resume=True, console=quick) == out
    assert "is finished" in quick.file.getvalue()
    assert len(opened) == 1


@pytest.mark.long
@pytest.mark.parametrize("call", [2, 4])
def test_a_fit_that_was_stopped_goes_on(photos, quick, tmp_path, monkeypatch, call):
    from vitrail.jobs.fit import fit
    from vitrail.run import workshop
    from vitrail.training.loop import Interrupted

    calls = []
    train = workshop.train

    def stopping(*args, **kwargs):
        calls.append(args[3].until)
        if len(calls) == call:
            raise KeyboardInterrupt
        return train(*args, **kwargs)

    monkeypatch.setattr(workshop, "train", stopping)
    out, here, there = tmp_path / "run", tmp_path / "here", tmp_path / "there"
    shutil.copytree(photos, here)
    with pytest.raises(Interrupted, match=rf"nothing is lost: go on with `vitrail fit .* {out}`"):
        fit(here, params="200k", time="15s", threads=1, out=out, console=quick)
    decided = json.loads((out / "fit.json").read_text())
    monkeypatch.setattr(workshop, "train", train)
    # Images that were moved are found where they are now, and have to be the same.
    here.rename(there)
    with pytest.raises(DataError, match="does not exist"):
        fit(here, out=out, resume=True, console=quick)
    other = tmp_path / "other"
    shutil.copytree(there, other)
    (other / "above" / "3.png").unlink()
    with pytest.raises(RunError, match="the images are not those"):
        fit(other, out=out, resume=True, console=quick)
    assert fit(there, out=out, resume=True, console=quick) == out
    after = json.loads((out / "fit.json").read_text())
    assert after["shortlist"] == decided["shortlist"]
    assert after["arguments"]["params"] == 200_000
    for name, plan in decided["finals"].items():
        assert after["finals"][name]["hold"] == plan["hold"]
    assert (out / "report.html").is_file()


@pytest.mark.long
def test_a_winner_over_the_latency_is_replaced_by_the_next(photos, quick, tmp_path, monkeypatch):
    from vitrail.jobs.fit import fit
    from vitrail.run import exported

    turn, measured = exported._turn, []

    def slow_first(*arguments):
        found = turn(*arguments)
        measured.append(found)
        if len(measured) > exported.TRIES:
            return found
        return replace(found, latencies={"onnxruntime": replace(found.latency, p50_s=9.0)})

    monkeypatch.setattr(exported, "_turn", slow_first)
    # However busy the machine is, two are raced.
    monkeypatch.setattr("vitrail.jobs.fitting.RACE_GRACE", 1e9)
    run = fit(photos, latency="80ms", time="8s", threads=1, out=tmp_path / "run", console=quick)
    statuses = {c["status"] for c in json.loads((run / "result.json").read_text())["candidates"]}
    assert {"won", "over budget"} <= statuses


def test_pretrained_candidates_race_too(photos, quick, tmp_path, a_shelf):
    from vitrail.jobs.fit import fit

    run = fit(photos, time="5s", threads=1, out=tmp_path / "run", pretrained=a_shelf, console=quick)
    state = json.loads((run / "fit.json").read_text())
    starts = [c["pretrained"] for c in state["shortlist"]["candidates"]]
    assert any(starts)
    assert not all(starts)
    raced = [c for c in run.result["candidates"] if c["name"].endswith("-pretrained")]
    names = [one["name"] for one in run.result["baselines"]]
    assert ("linear model on frozen features" in names) == any(c["steps"] for c in raced)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"latency": "20"}, BudgetError, "has no unit"),
        ({"input": "1920"}, VitrailError, "is not a size: write width and height"),
        ({"params": "10"}, BudgetError, "the closest is"),
        ({"time": "soon"}, BudgetError, "not a duration"),
        ({"device": "tpu"}, VitrailError, "tpu"),
        ({"threads": 0}, VitrailError, "threads is 0"),
        ({"pretrained": "nowhere"}, CheckpointError, "does not exist"),
    ],
)
def test_wrong_arguments_are_one_sentence_and_leave_nothing(
    photos, quick, tmp_path, arguments, error, said, monkeypatch
):
    from vitrail.jobs.fit import fit

    monkeypatch.setattr(shortlisting, "PATIENCE_S", 2.0)
    with pytest.raises(error, match=said) as caught:
        fit(photos, **({"time": "5s"} | arguments), out=tmp_path / "run", console=quick)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_runs_do_not_write_over_each_other(photos, quick, tmp_path):
    from vitrail.jobs.fit import fit

    out = tmp_path / "run"
    with pytest.raises(RunError, match="add --out"):
        fit(photos, resume=True, console=quick)
    with pytest.raises(RunError, match="does not exist"):
        fit(photos, out=out, resume=True, console=quick)
    with RunFolder.create(out) as run:
        with pytest.raises(RunError, match="in use by another run"):
            fit(photos, out=out, resume=True, console=quick)
        run.write_json(run.result, {})
    with pytest.raises(RunError, match="exists and is not empty"):
        fit(photos, out=out, console=quick)
    with pytest.raises(RunError, match=r"has no fit\.json"):
        fit(photos, out=out, resume=True, console=quick)


def test_a_folder_of_one_class_is_one_sentence(photos, quick, tmp_path):
    from vitrail.jobs.fit import fit

    (tmp_path / "single" / "a").mkdir(parents=True)
    for number in range(4):
        Image.new("L", (16, 16), number).save(tmp_path / "single" / "a" / f"{number}.png")
    with pytest.raises(DataError):
        fit(tmp_path / "single", out=tmp_path / "run", console=quick)
    assert not (tmp_path / "run").exists()


def test_one_recipe_is_trained_without_a_race(photos, quick, tmp_path):
    from vitrail.jobs.train import train_recipe

    settings = [
        "model=cct_2_3x2_32", f"data={photos}", "model.image=16,16", "model.dim=32",
        "steps.total=20", "steps.batch=16", "optimizer=sgd", "optimizer.lr=0.05",
    ]  # fmt: skip
    out = tmp_path / "run"
    assert train_recipe(settings, out=out, threads=1, console=quick) == out
    recipe = json.loads((out / "recipe.json").read_text())
    assert recipe["optimizer"]["kind"] == "sgd"
    assert recipe["optimizer"]["lr"] == 0.05
    assert recipe["steps"]["total"] == 20
    assert (recipe["model"]["dim"], recipe["model"]["classes"]) == (32, 3)
    assert (out / "report.html").is_file()
    assert (out / "model.onnx").is_file()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["data=x"], "model is not given: add --set model=cvt_13"),
        (["model=cvt_13"], "data is not given: add --set data=photos/"),
        (["model=cvt_13", "data=x", "steps.totall=3"], "steps.totall: no such field"),
        (["model=cvt_13", "data=nowhere"], "nowhere does not exist"),
        (["model=cvt_13", "data=nowhere", "objective.smoothing=2"], "objective: smoothing 2.0 is"),
        (["model=cvt_13", "data=nowhere", "methods=patch_drop"], "methods: kind 'patch_drop' does"),
        (["model=mixer_s32", "data=nowhere", "methods=patch_dropout"], "patch_dropout needs a"),
        (["model=cvt_13", "data=nowhere", "objective=entropy"], "objective: kind 'entropy' does"),
    ],
)
def test_wrong_settings_of_a_training_are_one_sentence(quick, tmp_path, settings, said):
    from vitrail.jobs.train import train_recipe

    with pytest.raises(VitrailError) as caught:
        train_recipe(settings, out=tmp_path / "run", console=quick)
    assert str(caught.value).startswith(said)
    assert not (tmp_path / "run").exists()
