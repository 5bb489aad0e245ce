"""What helps is measured before the race: left-right flips, and weights of the classes.

Flips are a matter of the labels: a mirrored cat is a cat; a mirrored arrow, digit or letter is
something else. Class weights are a matter of how uneven the classes are. In both cases the first
candidate is trained for the same few steps with and without, and the better of the two trainings is
kept as the beginning of its race.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Protocol

from torch import Tensor, nn

from vitrail.config import to_json
from vitrail.objectives import CrossEntropy
from vitrail.recipes.recipe import Recipe
from vitrail.report.ahead import Z, paired, paired_balanced
from vitrail.report.verdict import UNEVEN
from vitrail.run.state import State
from vitrail.run.view import View
from vitrail.run.watch import LOOK_AT, checkpoints
from vitrail.run.workshop import Workshop
from vitrail.search.rungs import Runner
from vitrail.tasks import Classification

# Where mirrored images are recognised so much worse, left and right mean something.
DROP = 0.3
# Where they do not, flips slow the first steps down: garments of Fashion-MNIST, which lie the same
# way round, had up to 1.14 times as many errors after 25 to 400 steps, and as many after 12 passes
# (0.0 points, +-2.0, three seeds). Digits had 1.5 to 3.6 times as many after 25 and 50 steps.
WORSE = 1.2
# Two trainings differ by chance as well, which no interval over images knows of: a difference
# counts where it lies beyond this with its whole interval.
CLEAR = 0.01
# The power of a class's rarity that weighs it: all classes count alike.
BALANCE = 1.0
# So many standard errors above 0 the odds of a gain are nine to one.
NINE_TO_ONE = 1.2816

Name = Literal["flips", "class weights"]
Answers = Sequence[Sequence[bool]]


@dataclass(frozen=True)
class Choice:
    """Whether something is `used`, and on which shares of `n` validation images that rests.

    `with_it` and `without` are those of right answers, or the mean of these over classes where the
    choice is about classes; `mirrored` is that of mirrored images without flips.
    """

    name: Name
    used: bool
    with_it: float
    without: float
    n: int
    mirrored: float | None = None

    @property
    def sentence(self) -> str:
        """Say what was decided and why."""
        if self.name == "class weights":
            used = "are used" if self.used else "are not used"
            why = "" if self.used else ", since it is not clear that they help"
            return (
                f"class weights {used}{why}: after as many steps balanced accuracy on {self.n} "
                f"validation images was {self.with_it:.1%} with them, {self.without:.1%} without"
            )
        compared = (
            f"after as many steps {self.with_it:.1%} of {self.n} validation images were right with "
            f"them, {self.without:.1%} without"
        )
        mirrored = self.mirrored or 0.0
        if self.used:
            return (
                f"left-right flips are used, since nothing clearly speaks against them: {compared}"
            )
        if self.without - mirrored > DROP:
            return (
                "left-right flips are not used, since left and right differ here: a network that "
                f"saw no mirrored images is right for {mirrored:.1%} of these and for "
                f"{self.without:.1%} as they are, without gaining by flips ({self.with_it:.1%})"
            )
        return f"left-right flips are not used, since images are recognised better: {compared}"


class Question(Protocol):
    """Something that a recipe has or has not; `usual` says whether it has it unasked.

    Settings that begin with `setting` answer the question.
    """

    name: ClassVar[Name]
    setting: ClassVar[str]
    usual: ClassVar[bool]

    def arises(self, recipe: Recipe, counts: Sequence[int]) -> bool:
        """Tell whether there is something to decide; `counts` are the images of each class."""
        ...

    def applied(self, recipe: Recipe, used: bool) -> Recipe:
        """Return the usual recipe with it or without."""
        ...

    def networks(self, model: nn.Module, used: bool) -> Sequence[nn.Module]:
        """Return the networks to ask, made of one that was trained with it or without."""
        ...

    def decide(self, with_it: Answers, without: Answers, truth: Sequence[int]) -> Choice:
        """Decide from right and wrong answers of each network, an entry per image."""
        ...


class Flips:
    """Left-right flips: left out where they make a fifth more errors, or where the network without
    them no longer recognises mirrored images and is not worse."""

    name: ClassVar[Name] = "flips"
    setting: ClassVar[str] = "augment"
    usual: ClassVar[bool] = True

    def arises(self, recipe: Recipe, counts: Sequence[int]) -> bool:
        """Tell whether the recipe flips images and an image has one answer."""
        return recipe.augment.flip > 0 and not (recipe.task.maps or recipe.task.boxes)

    def applied(self, recipe: Recipe, used: bool) -> Recipe:
        """Return the recipe as it is, or without flips."""
        return recipe if used else replace(recipe, augment=replace(recipe.augment, flip=0.0))

    def networks(self, model: nn.Module, used: bool) -> Sequence[nn.Module]:
        """Return the network, and without flips one that sees its images mirrored."""
        return [model] if used else [model, Mirrored(model)]

    def decide(self, with_it: Answers, without: Answers, truth: Sequence[int]) -> Choice:
        """Compare accuracies."""
        [flipped], [straight, mirrored] = with_it, without
        better = paired(straight, flipped)
        differs = paired(straight, mirrored).low > DROP
        shares = [sum(right) / len(right) for right in (flipped, straight, mirrored)]
        flips, plain, turned = shares
        harm = better.low > CLEAR and 1 - flips > WORSE * (1 - plain)
        left_out = harm or (differs and better.high > 0 and better.middle > -0.01)
        return Choice(self.name, not left_out, flips, plain, len(flipped), turned)


class ClassWeights:
    """Weights that let all classes count alike: taken where balanced accuracy is better with odds
    of nine to one, since rare classes have few images to be surer by."""

    name: ClassVar[Name] = "class weights"
    setting: ClassVar[str] = "objective"
    usual: ClassVar[bool] = False

    def arises(self, recipe: Recipe, counts: Sequence[int]) -> bool:
        """Tell whether classes are uneven and balanced accuracy ranks."""
        task, uneven = recipe.task, max(counts) * len(counts) > UNEVEN * sum(counts)
        ranked = isinstance(task, Classification) and task.metric != "accuracy"
        return uneven and ranked and isinstance(recipe.objective, CrossEntropy)

    def applied(self, recipe: Recipe, used: bool) -> Recipe:
        """Return the recipe as it is, or with weights."""
        return replace(recipe, objective=replace(recipe.objective, balance=BALANCE * used))

    def networks(self, model: nn.Module, used: bool) -> Sequence[nn.Module]:
        """Return the network."""
        return [model]

    def decide(self, with_it: Answers, without: Answers, truth: Sequence[int]) -> Choice:
        """Compare balanced accuracies."""
        [weighted], [plain] = with_it, without
        better = paired_balanced(weighted, plain, truth)
        error = (better.high - better.low) / (2 * Z)
        helps = (better.high + better.low) / 2 > NINE_TO_ONE * error
        with_them, alone = (_balanced(right, truth) for right in (weighted, plain))
        return Choice(self.name, helps, with_them, alone, len(truth))


QUESTIONS: tuple[Question, ...] = (Flips(), ClassWeights())


class Mirrored(nn.Module):
    """A model that sees its images mirrored."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image.flip(-1))


@dataclass(frozen=True, eq=False)
class Measuring:
    """Where choices are measured: the workshop, the run folder, its state, and what is shown."""

    workshop: Workshop
    run: Path
    state: State
    view: View

    def settle(self, runners: Sequence[Runner], settings: Sequence[str]) -> list[Runner]:
        """Return the runners with whatever helps the first of them.

        What `settings` say already is not asked. Snapshots of the better training then lie where
        the race looks for them.
        """
        known = chosen(self.state)
        for one in QUESTIONS:
            first = runners[0]
            said = any(setting.strip().startswith(one.setting) for setting in settings)
            if said or not one.arises(first.recipe, self.workshop.split.train.counts):
                continue
            if one.name not in known:
                known |= {one.name: self._measured(one, first)}
                self.view.say(known[one.name].sentence)
                self.state.put(choices={name: to_json(made) for name, made in known.items()})
            used = known[one.name].used
            _adopt(*self._folders(one, first), other=used != one.usual)
            runners = [replace(r, recipe=one.applied(r.recipe, used)) for r in runners]
        return list(runners)

    def _measured(self, one: Question, first: Runner) -> Choice:
        """Train the candidate up to its first rung with and without, and decide."""
        workshop, name, until = self.workshop, first.candidate.name, first.steps[0]
        self.view.phase(f"measuring whether {one.name} help")
        said: dict[bool, list[list[bool]]] = {}
        truth: list[int] = []
        for folder, used in zip(self._folders(one, first), (one.usual, not one.usual), strict=True):
            recipe = one.applied(first.recipe, used)
            outcome = workshop.train(
                recipe, folder, until, lambda step, *_: self.view.step(name, step, until)
            )
            model, _ = workshop.better(outcome, recipe, LOOK_AT)
            said[used] = []
            for network in one.networks(model, used):
                outputs = workshop.outputs(network, recipe, workshop.watched(recipe, LOOK_AT))
                said[used].append(recipe.task.right(outputs))
                truth = outputs.targets.tolist()
        return one.decide(said[True], said[False], truth)

    def _folders(self, one: Question, first: Runner) -> tuple[Path, Path]:
        """Return where the race looks for the candidate's snapshots, and where the other training
        is."""
        name = first.candidate.name
        other = f"{name}-{'without' if one.usual else 'with'}-{one.name.replace(' ', '-')}"
        return checkpoints(self.run, name), checkpoints(self.run, other)


def chosen(state: State) -> dict[str, Choice]:
    """Return what was decided so far, by name. Raises RunError."""
    made = state.values.get("choices", {})
    return {name: state.get(Choice, f"choices.{name}") for name in made}


def _adopt(kept: Path, beside: Path, *, other: bool) -> None:
    """Leave one training, at the place of the first; does nothing once that is done."""
    if not beside.exists():
        return
    if other:
        shutil.rmtree(kept, ignore_errors=True)
        beside.rename(kept)
    else:
        shutil.rmtree(beside)


def _balanced(right: Sequence[bool], truth: Sequence[int]) -> float:
    """Return the mean over classes of the share of right answers."""
    of_class: dict[int, list[bool]] = {}
    for one, label in zip(right, truth, strict=True):
        of_class.setdefault(label, []).append(one)
    return sum(sum(some) / len(some) for some in of_class.values()) / len(of_class)
