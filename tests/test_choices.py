"""Flips and class weights: decided by a training with and one without, once, and kept."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from test_fit import runner

from vitrail.run.state import State
from vitrail.run.view import View
from vitrail.run.watch import checkpoints
from vitrail.search.choices import ClassWeights, Flips, Measuring, Mirrored, chosen
from vitrail.tasks import Classification
from vitrail.tasks.task import Outputs

EVEN, RARE = (100, 100, 100), (280, 15, 15)
TRUTH = [0] * 90 + [1] * 30 + [2] * 30


def answers(*shares):
    """Right answers for the first part of each class."""
    return [at < share * n for share, n in zip(shares, (90, 30, 30), strict=True)
            for at in range(n)]  # fmt: skip


@pytest.mark.parametrize(
    ("flipped", "straight", "mirrored", "used", "why"),
    [
        (0.9, 0.9, 0.85, True, "nothing clearly speaks against them"),
        (0.6, 0.9, 0.85, False, "images are recognised better"),
        # No more than two trainings differ by anyway.
        (13 / 15, 0.9, 0.85, True, "nothing clearly speaks against them"),
        # As good without, and mirrored ones are something else.
        (0.9, 0.9, 0.3, False, "left and right differ here"),
        # They differ, but the network without flips is worse.
        (0.9, 0.7, 0.3, True, "nothing clearly speaks against them"),
    ],
)
def test_flips_are_used_where_they_are_right(flipped, straight, mirrored, used, why):
    three = [answers(*[share] * 3) for share in (flipped, straight, mirrored)]
    found = Flips().decide(three[:1], three[1:], TRUTH)
    assert found.used == used and found.n == len(TRUTH)
    assert found.with_it == pytest.approx(flipped) and found.mirrored == pytest.approx(
        mirrored, abs=0.02
    )
    lead = f"left-right flips are {'' if used else 'not '}used, since {why}"
    assert found.sentence.startswith(lead)


@pytest.mark.parametrize(
    ("weighted", "plain", "used"),
    [
        ((0.8, 0.9, 0.9), (1.0, 0.2, 0.2), True),  # fewer right in all, more of the rare classes
        ((1.0, 0.2, 0.2), (1.0, 0.2, 0.2), False),
        ((0.9, 0.9, 0.9), (0.9, 0.87, 0.9), False),  # one image more is not a reason
        ((1.0, 0.2, 0.2), (0.8, 0.9, 0.9), False),
    ],
)
def test_class_weights_are_used_where_balanced_accuracy_gains(weighted, plain, used):
    found = ClassWeights().decide([answers(*weighted)], [answers(*plain)], TRUTH)
    assert found.used == used
    assert found.with_it == pytest.approx(sum(weighted) / 3, abs=0.02)
    assert found.without == pytest.approx(sum(plain) / 3, abs=0.02)
    assert f"class weights are {'' if used else 'not '}used" in found.sentence
    assert f"{found.with_it:.1%} with them, {found.without:.1%} without" in found.sentence


def test_class_weights_are_a_question_of_uneven_classes_alone():
    recipe, ask = runner("a", None, 0).recipe, ClassWeights().arises
    assert ask(recipe, RARE) and not ask(recipe, EVEN)
    assert not ask(replace(recipe, task=Classification(metric="accuracy")), RARE)


class Bench:
    """Stands in for the workshop: notes trainings, and answers as it is told for each recipe."""

    def __init__(self, counts, right):
        self.split = SimpleNamespace(train=SimpleNamespace(counts=counts))
        self.right, self.trained = right, []

    def train(self, recipe, folder, until, on_step=None):
        if not folder.exists():
            self.trained.append((recipe.augment.flip > 0, recipe.objective.balance))
            folder.mkdir(parents=True)
            (folder / "snapshot").write_text(str(self.trained[-1]))

    def better(self, outcome, recipe, limit=None):
        return torch.nn.Identity(), None

    def watched(self, recipe, limit=None):
        return None

    def outputs(self, network, recipe, images):
        right = self.right(recipe, isinstance(network, Mirrored))
        truth = torch.tensor(TRUTH)
        guesses = torch.where(torch.tensor(right), truth, (truth + 1) % 3)
        return Outputs(torch.eye(3)[guesses], truth)


def measuring(tmp_path, bench, state=None):
    state = state or State.new(tmp_path / "fit.json")
    return Measuring(bench, tmp_path, state, View(Console(file=StringIO())))


def gaining(recipe, mirrored):
    """Weights help here, and flips do not matter."""
    return answers(0.9, 0.9, 0.9) if recipe.objective.balance else answers(1.0, 0.3, 0.3)


def test_the_better_training_is_where_the_race_looks(tmp_path):
    bench = Bench(RARE, gaining)
    runners = [runner("a", None, 0), runner("b", None, 1)]
    found = measuring(tmp_path, bench).settle(runners, ())
    assert bench.trained == [(True, 0.0), (False, 0.0), (True, 1.0)]
    assert [(r.recipe.augment.flip, r.recipe.objective.balance) for r in found] == [(0.5, 1.0)] * 2
    kept = checkpoints(tmp_path, "a-0")
    assert (kept / "snapshot").read_text() == str((True, 1.0))
    assert [p.name for p in kept.parent.iterdir()] == ["a-0"]


def test_what_was_decided_is_not_measured_again(tmp_path):
    runners = [runner("a", None, 0)]
    first = measuring(tmp_path, Bench(RARE, gaining)).settle(runners, ())
    state = State.read(tmp_path / "fit.json")
    assert {name: one.used for name, one in chosen(state).items()} == {
        "flips": True, "class weights": True,
    }  # fmt: skip
    again = Bench(RARE, gaining)
    assert measuring(tmp_path, again, state).settle(runners, ()) == first
    assert again.trained == []


def test_a_stop_between_decision_and_adoption_loses_nothing(tmp_path, monkeypatch):
    from vitrail.search import choices

    def stopped(*_, **__):
        raise KeyboardInterrupt

    runners = [runner("a", None, 0)]
    without = lambda recipe, mirrored: answers(*[0.6 if recipe.augment.flip else 0.9] * 3)  # noqa: E731
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(choices, "_adopt", stopped)
        measuring(tmp_path, Bench(EVEN, without)).settle(runners, ())
    again = Bench(EVEN, without)
    [found] = measuring(tmp_path, again, State.read(tmp_path / "fit.json")).settle(runners, ())
    assert found.recipe.augment.flip == 0 and again.trained == []
    assert (checkpoints(tmp_path, "a-0") / "snapshot").read_text() == str((False, 0.0))


@pytest.mark.parametrize(
    ("settings", "trained"),
    [
        (("augment.flip=0.5", "objective.balance=0"), []),
        (("objective=cross_entropy",), [(True, 0.0), (False, 0.0)]),
        (("augment.shift=0",), [(True, 0.0), (True, 1.0)]),
    ],
)
def test_settings_decide_what_they_name(tmp_path, settings, trained):
    bench = Bench(RARE, gaining)
    measuring(tmp_path, bench).settle([runner("a", None, 0)], settings)
    assert bench.trained == trained


def test_a_damaged_choice_is_one_sentence(tmp_path):
    from vitrail.errors import RunError

    State.new(tmp_path / "fit.json").put(choices={"flips": {"name": "flops"}})
    with pytest.raises(RunError, match=r"fit\.json is damaged \(choices\.flips\.name: "):
        chosen(State.read(tmp_path / "fit.json"))
