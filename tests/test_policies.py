"""Policies of published recipes: what timm and torchvision compute, drawn from one generator."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
import torch
from support.peers import Peer, torchvision
from support.pictures import photo

from vitrail.data.augment import Augment
from vitrail.data.operations import OPERATIONS, operate, operate_all
from vitrail.data.policies import (
    AutoAugment,
    ColorJitter,
    GoogleRandAugment,
    TimmRandAugment,
    sub_policies,
)
from vitrail.errors import ConfigError

peer = Peer("timm.data.auto_augment")
LEVELS = {
    "rotate": "_rotate_level_to_arg", "posterize": "_posterize_increasing_level_to_arg",
    "solarize": "_solarize_increasing_level_to_arg", "solarize_add": "_solarize_add_level_to_arg",
    "shear_x": "_shear_level_to_arg", "translate_x": "_translate_rel_level_to_arg",
    "translate_y": "_translate_rel_level_to_arg",
}  # fmt: skip
POLICIES = [TimmRandAugment(), GoogleRandAugment(2, 15), AutoAugment(), ColorJitter()]


@pytest.fixture(scope="module")
def images():
    return [photo(seed, 30, 42) for seed in range(4)]


def tensor(images) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.asarray(one) for one in images])).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("name", "theirs", "amounts"),
    [
        ("autocontrast", "auto_contrast", [0]), ("equalize", "equalize", [0]),
        ("invert", "invert", [0]), ("rotate", "rotate", [17.0, -30.0]),
        ("posterize", "posterize", [1, 4, 8]), ("solarize", "solarize", [0, 26, 200, 256]),
        ("solarize_add", "solarize_add", [0, 99, 110]), ("color", "color", [0.1, 1.6, 3.7]),
        ("contrast", "contrast", [0.1, 1.6, 3.7]), ("brightness", "brightness", [0.1, 1.6, 3.7]),
        ("sharpness", "sharpness", [0.1, 1.6, 3.7]), ("shear_x", "shear_x", [0.27, -0.2]),
        ("shear_y", "shear_y", [0.27, -0.2]), ("translate_x", "translate_x_abs", [5.0, -13.5]),
        ("translate_y", "translate_y_abs", [5.0, -13.5]),
    ],
)  # fmt: skip
def test_operations_are_those_of_pillow(images, name, theirs, amounts):
    from PIL import Image

    told = {"resample": Image.Resampling.BILINEAR, "fillcolor": (128, 128, 128)}
    for amount in amounts:
        ours = operate(tensor(images), name, torch.full((4,), float(amount)))
        values = () if name in ("autocontrast", "equalize", "invert") else (amount,)
        function = getattr(peer, theirs)
        expected = tensor([function(one, *values, **told) for one in images])
        difference = (ours.int() - expected.int()).abs()
        # A pixel that comes from beside the border may be grey in one of them.
        assert (difference > 1).float().mean() < 0.01, (name, amount)


def test_each_image_has_an_amount_of_its_own(images):
    batch = tensor(images)
    amounts = torch.tensor([0.2, 1.0, 2.0, 0.7])
    together = operate(batch, "contrast", amounts)
    for i, amount in enumerate(amounts):
        assert torch.equal(together[i], operate(batch[i : i + 1], "contrast", amount[None])[0])
    assert torch.equal(together[1], batch[1])


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: type(p).__name__)
def test_a_policy_is_its_draws(policy, channels):
    pixels = np.random.default_rng(1).integers(0, 256, (40, 15, 20, channels)).astype(np.uint8)
    drawn = policy.draw(40, (15, 20), np.random.default_rng(0))
    again = policy.draw(40, (15, 20), np.random.default_rng(0))
    assert np.array_equal(drawn.amounts, again.amounts)
    whole = operate_all(pixels, drawn, np.arange(40))
    some = np.array([3, 31, 7])
    assert np.array_equal(operate_all(pixels[some], drawn, some), whole[some])
    assert (whole != pixels).any((1, 2, 3)).mean() > 0.3


def test_timm_s_magnitudes():
    """Each operation's ranges over many draws, against timm's own functions of level 9."""
    drawn = TimmRandAugment(9, 0.0).draw(20000, (30, 42), np.random.default_rng(0))
    acts = drawn.operations >= 0
    assert acts.mean() == pytest.approx(0.5, abs=0.01)
    assert np.unique(drawn.operations[acts]).tolist() == list(range(15))
    sides = {"translate_x": 42, "translate_y": 30}
    for name, function in LEVELS.items():
        (level,) = vars(import_module(peer.name))[function](9, {"translate_pct": 0.45})
        amount = abs(level) * sides.get(name, 1)
        found = np.abs(drawn.amounts[drawn.operations == OPERATIONS.index(name)])
        assert np.allclose(found, amount), name
    factors = drawn.amounts[drawn.operations == OPERATIONS.index("color")]
    assert set(np.round(factors, 6)) == {0.19, 1.81}
    varied = TimmRandAugment(9, 0.5).draw(20000, (30, 42), np.random.default_rng(0))
    turns = np.abs(varied.amounts[varied.operations == OPERATIONS.index("rotate")])
    assert turns.max() == 30 and turns.mean() == pytest.approx(27, abs=0.3)


def test_google_s_magnitudes():
    drawn = GoogleRandAugment(2, 10).draw(20000, (224, 112), np.random.default_rng(0))
    assert np.unique(drawn.operations).tolist() == list(range(16))
    told = {
        "rotate": 30, "posterize": 4, "solarize": 256, "solarize_add": 110, "color": 1.9,
        "shear_x": 0.3, "translate_y": 100, "translate_x": 50, "cutout": 20,
    }  # fmt: skip
    for name, amount in told.items():
        found = drawn.amounts[drawn.operations == OPERATIONS.index(name)]
        assert np.allclose(np.abs(found), amount), name
        assert (found < 0).any() == (name in ("rotate", "shear_x", "translate_x", "translate_y"))


def test_autoaugment_has_torchvision_s_table():
    reference = torchvision.transforms.v2.AutoAugment()._policies
    names = {"ShearX": "shear_x", "SolarizeAdd": "solarize_add"}
    assert sub_policies() == [
        tuple((names.get(n, n.lower()), p, level or 0) for n, p, level in pair)
        for pair in reference
    ]
    drawn = AutoAugment().draw(20000, (10, 10), np.random.default_rng(0))
    first = drawn.operations[:, 0] == OPERATIONS.index("posterize")
    assert first.mean() == pytest.approx((0.4 + 0.6 + 0.8) / 25, abs=0.005)


def test_nothing_is_left_at_google_s_magnitude_zero():
    batch = torch.full((1, 3, 4, 4), 200, dtype=torch.uint8)
    drawn = GoogleRandAugment(1, 0).draw(2000, (4, 4), np.random.default_rng(0))
    bits = drawn.amounts[drawn.operations == OPERATIONS.index("posterize")]
    assert (bits == 0).all()
    assert (operate(batch, "posterize", torch.zeros(1)) == 0).all()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: TimmRandAugment(11), "magnitude 11 is not between 0 and 10"),
        (lambda: TimmRandAugment(9, -1), "std -1"),
        (lambda: GoogleRandAugment(0), "0 operations"),
        (lambda: Augment(randaugment=(2, 9), policy=AutoAugment()), "both set"),
        (lambda: Augment(repeats=0), "augment.repeats is 0"),
    ],
)
def test_impossible_settings(wrong, said):
    with pytest.raises(ConfigError, match=said):
        wrong()


def test_a_jitter_changes_three_things_in_any_order():
    drawn = ColorJitter(0.4).draw(600, (8, 8), np.random.default_rng(0))
    names = {OPERATIONS[index] for index in np.unique(drawn.operations)}
    assert names == {"brightness", "contrast", "color"}
    assert (np.sort(drawn.operations, 1) == np.unique(drawn.operations)).all()
    assert len(np.unique(drawn.operations, axis=0)) == 6
    assert 0.6 <= drawn.amounts.min() < 0.65 and 1.35 < drawn.amounts.max() <= 1.4
    pixels = np.random.default_rng(1).integers(0, 256, (4, 9, 9, 3)).astype(np.uint8)
    still = ColorJitter(0.0).draw(4, (9, 9), np.random.default_rng(0))
    assert np.array_equal(operate_all(pixels, still, np.arange(4)), pixels)
    with pytest.raises(ConfigError, match=r"strength 1\.5 is not between 0 and 1"):
        ColorJitter(1.5)
