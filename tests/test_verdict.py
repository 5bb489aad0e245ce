"""What is said of a run beside its baselines, and how far one model is ahead of another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_report import read, some_facts

from vitrail.report import facts as f
from vitrail.report.ahead import Interval, paired, paired_balanced, unpaired, unpaired_balanced
from vitrail.report.card import render_card
from vitrail.report.page import render
from vitrail.report.scores import Baseline, ClassRow, Score
from vitrail.report.verdict import advice, compared, headline, sentence, standing, uneven, verdict

ALWAYS = Baseline("always 'healthy'", 0.956, 0.5, 200, constant=True)
LINEAR = Baseline("linear model on 16x16 pixels", 0.7, 0.7, 200)
KERNEL = Baseline("kernel model on pixels", 0.99, 0.99, 200)


def facts(accuracy, balanced, *baselines, parts=((50, 50), (10, 10)), recalls=None):
    """A run of two classes, `recalls` those of (healthy, sick) with 190 and 10 test images."""
    told = some_facts(("healthy", "sick"))
    rows = recalls or (accuracy, accuracy)
    return replace(
        told,
        data=replace(told.data, parts=dict(zip(("train", "test"), parts, strict=True))),
        test=Score(accuracy, accuracy - 0.03, min(1.0, accuracy + 0.03), 200, balanced),
        baselines=baselines,
        per_class=[
            ClassRow(name, n, 0.5, recall, 0.5)
            for name, n, recall in zip(("healthy", "sick"), (190, 10), rows, strict=True)
        ],
        budget=f.BudgetFacts(),
    )


UNEVEN = ((956, 44), (191, 9))


def test_even_classes_and_a_good_model():
    good = facts(0.98, 0.98, replace(ALWAYS, accuracy=0.5), LINEAR)
    assert not uneven(good)
    assert headline(good) == "98.0\u00a0% of unseen images right, in 1.2\u00a0ms each"
    assert compared(good).replace("\u00a0", " ") == (
        "On the same images always answering 'healthy' reaches 50.0 % and a linear model on 16x16 "
        "pixels 70.0 %."
    )
    assert advice(good) == "" and standing(good).better
    told = sentence(good)
    assert told.startswith("resnet-16: 98.0 % of 200 test images right (95 % interval 95.0 %")
    assert "always answering 'healthy' reaches 50.0 %" in told and "balanced" not in told


def test_uneven_classes_put_balanced_accuracy_first():
    good = facts(0.97, 0.93, ALWAYS, parts=UNEVEN, recalls=(0.98, 0.9))
    assert uneven(good)
    assert headline(good).replace("\u00a0", " ") == (
        "Balanced accuracy 93.0 %, 97.0 % of unseen images right, in 1.2 ms each"
    )
    assert "(balanced 50.0\u00a0%)" in compared(good)
    assert "balanced accuracy 93.0 %" in sentence(good)


def test_a_model_that_always_says_healthy_is_called_that_first():
    bad = facts(0.956, 0.5, ALWAYS, parts=UNEVEN, recalls=(1.0, 0.0))
    said = "No better than always answering 'healthy' (95.6 %)"
    assert headline(bad).replace("\u00a0", " ") == said
    assert sentence(bad).startswith(said + ". resnet-16: 95.6 %")
    assert "Nothing that this test can show was learned" in verdict(bad)
    page = render(bad)
    assert f'<h1 class="bad">{said}'.replace("'", "&#39;") in page.replace("\u00a0", " ")
    assert f"**{said}.**" in render_card(bad).replace("\u00a0", " ")
    assert '<h1 class="bad">' not in render(facts(0.98, 0.98, LINEAR))


def test_balanced_accuracy_decides_where_classes_are_uneven():
    """Fewer right than by always saying healthy, but the sick are found."""
    found = standing(facts(0.94, 0.92, ALWAYS, parts=UNEVEN, recalls=(0.94, 0.9)))
    assert found.balanced and found.better
    # One of ten sick ones found is within noise of none.
    hardly = facts(0.95, 0.55, ALWAYS, parts=UNEVEN, recalls=(0.995, 0.1))
    assert not standing(hardly).better and not standing(hardly).worse
    # Where a baseline's balanced accuracy is unknown, accuracy decides.
    unknown = facts(0.94, 0.92, replace(ALWAYS, balanced=None), parts=UNEVEN, recalls=(0.94, 0.9))
    assert not standing(unknown).balanced and not standing(unknown).better


def test_a_small_model_that_wins_is_recommended():
    beaten = facts(0.9, 0.9, LINEAR, KERNEL)
    assert standing(beaten).worse and standing(beaten).baseline is KERNEL
    said = "Worse than a kernel model on pixels (99.0 %)"
    assert headline(beaten).replace("\u00a0", " ") == said
    assert advice(beaten) == (
        "Use the kernel model on pixels instead: it is better on these images, and simpler."
    )
    assert "Use the kernel model" in read(render(beaten)).text and "Use the" in sentence(beaten)
    level = facts(0.985, 0.985, KERNEL)
    assert headline(level).startswith("No better than a kernel model on pixels")
    assert advice(level).startswith("Prefer the kernel model on pixels: these 200 images do not")


def test_paired_intervals_are_used_where_they_are_given():
    level = facts(0.985, 0.985, KERNEL)
    assert not standing(level).better
    ahead = replace(KERNEL, accuracy=0.97, ahead=Interval(0.015, 0.004, 0.03))
    assert standing(facts(0.985, 0.985, ahead)).better
    balanced = replace(ALWAYS, ahead_balanced=Interval(0.3, 0.1, 0.5))
    one = facts(0.95, 0.55, balanced, parts=UNEVEN, recalls=(0.995, 0.1))
    assert standing(one).balanced and standing(one).better


def test_a_constant_goes_before_a_model_that_does_as_well():
    both = facts(0.9, 0.9, replace(LINEAR, accuracy=0.956, balanced=0.5), ALWAYS)
    assert standing(both).baseline is ALWAYS
    assert headline(both).startswith("Worse than always answering")


def test_nothing_is_said_of_baselines_that_are_not_there():
    bare = facts(0.9, 0.9)
    assert standing(bare) is None and compared(bare) == "" and advice(bare) == ""
    untested = replace(facts(0.9, 0.9, ALWAYS), test=None)
    assert standing(untested) is None and sentence(untested) == "resnet-16: not tested"
    assert "reaches" not in verdict(untested)
    assert not uneven(replace(bare, data=replace(bare.data, parts={})))


def test_names_of_classes_are_plain_and_short():
    name = f"always '\x1b[2J{'x' * 300}'"
    told = sentence(facts(0.9, 0.9, Baseline(name, 0.9, None, 200, constant=True)))
    assert "\x1b" not in told and len(told) < 500


# ---- how far ahead ---------------------------------------------------------------------------


def test_pairs_by_hand():
    """21 images that both get right or wrong, 8 that only we get right, 1 that only they do."""
    ours = [True] * 17 + [False] * 4 + [True] * 8 + [False]
    theirs = [True] * 17 + [False] * 4 + [False] * 8 + [True]
    found = paired(ours, theirs)
    n, b, c = 32, 8.5, 1.5
    centre, error = (b - c) / n, ((b + c) - (b - c) ** 2 / n) ** 0.5 / n
    assert found.middle == pytest.approx(7 / 30)
    assert (found.low, found.high) == pytest.approx(
        (centre - 1.959964 * error, centre + 1.959964 * error), abs=1e-6
    )
    back = paired(theirs, ours)
    assert (back.middle, back.low, back.high) == pytest.approx(
        (-found.middle, -found.high, -found.low)
    )
    level = paired(ours, ours)
    assert level.middle == 0 and level.low < 0 < level.high
    with pytest.raises(ValueError, match="give at least one"):
        paired([], [])
    with pytest.raises(ValueError, match="shorter"):
        paired(ours, theirs[1:])


def test_newcombe_by_hand():
    """The first example of his paper, method 10: 56/70 against 48/80."""
    found = unpaired(56 / 70, 48 / 80, 70, 80)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize("seed", range(3))
def test_intervals_hold_the_truth(seed):
    """In some 95 of 100 draws, of any of the four, and no less than 90."""
    random, held = np.random.default_rng(seed), np.zeros(4)
    truth = np.repeat([0, 1], [150, 50])
    share = {"ours": np.array([0.9, 0.6]), "theirs": np.array([0.8, 0.5])}
    gap = np.average(share["ours"] - share["theirs"], weights=[150, 50])
    draws = 200
    for _ in range(draws):
        hard = random.random(200)  # both find the same images hard
        mixed = np.where(random.random(200) < 0.5, hard, random.random(200))
        ours, theirs = hard < share["ours"][truth], mixed < share["theirs"][truth]
        recalls = [(ours[truth == k].mean(), int((truth == k).sum())) for k in (0, 1)]
        other = np.mean([theirs[truth == k].mean() for k in (0, 1)])
        found = (
            (paired(ours, theirs), gap),
            (paired_balanced(ours, theirs, truth), 0.1),
            (unpaired(ours.mean(), theirs.mean(), 200, 200), gap),
            (unpaired_balanced(recalls, other, constant=False), 0.1),
        )
        held += [one.low <= true <= one.high for one, true in found]
    assert (held / draws >= 0.9).all() and (held[:2] / draws <= 0.995).all(), held / draws


def test_balanced_pairs_weigh_classes_alike():
    truth = [0] * 90 + [1] * 10
    ours = [True] * 100
    theirs = [True] * 90 + [False] * 10
    found = paired_balanced(ours, theirs, truth)
    assert found.middle == pytest.approx(0.5) and 0 < found.low < 0.5 <= found.high <= 1
    assert paired(ours, theirs).middle == pytest.approx(0.1)
    with pytest.raises(ValueError, match="give at least one"):
        paired_balanced([], [], [])


def test_baselines_keep_their_names_in_json():
    from vitrail.report.scores import under_its_name

    for measure in ("accuracy", "mean average precision"):
        told = under_its_name(KERNEL, measure)
        assert told["name"] == KERNEL.name and told[measure.replace(" ", "_")] == KERNEL.accuracy
