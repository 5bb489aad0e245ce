"""What channels are worth, by the authors' figures and by a form that is as slow as it is plain."""

from __future__ import annotations

import pytest
import torch
from support import golden
from test_backbones import build, image

import vitrail
from vitrail.compression.choosing import Shape, at_random, best, chosen, grouped, magnitudes
from vitrail.compression.up_vit import candidates, importances, slow
from vitrail.errors import ConfigError
from vitrail.models import deit, vit
from vitrail.models.trunk.widths import Cut, sizes, sliced

SMALL = {"dim": 6, "depth": 3, "heads": 3, "hidden": 4, "patch": 8, "classes": 5}
PLAIN = {
    "class token": deit.Config(**SMALL, image=(32, 24)),
    "mean": vit.Config(**{**SMALL, "depth": 2}, image=(32, 24), pool="mean"),
    "cut": deit.Config(**{**SMALL, "heads": (3, 1, 2), "inner": (6, 3, 4)}, image=(32, 24)),
}


def read(name):
    return golden.read(golden.FOLDER / "blocks" / f"{name}.json")


def loaded(expected, **changes):
    config = deit.Config(image=(32, 32), classes=10, **changes)
    return vitrail.load(config, golden.state(expected), source="timm", dtype=torch.float64)


def test_importances_are_those_of_the_authors():
    expected = read("up_vit_importance")
    model = loaded(expected, dim=768, depth=2, heads=12, hidden=3072)
    images = golden.image(expected["input_shape"])
    asked = {
        "kl_neck": [("dim", c) for c in (0, 100, 767)],
        "kl_attn": [("inner.0", 5), ("inner.1", 64), ("inner.1", 767)],
        "kl_ffn": [("hidden.0", 0), ("hidden.1", 3071)],
    }
    with torch.no_grad():
        assert golden.deviation(model(images), expected["outputs"]["teacher_logits"]) <= 1e-6
        for name, some in asked.items():
            found = torch.cat([value for _, _, value in slow(model, images, some)])
            assert golden.deviation(found, expected["outputs"][name]) <= 1e-6, name


@pytest.mark.slow  # 86 million weights in float64
def test_a_deit_t_is_cut_out_of_a_deit_b_as_the_authors_do():
    expected = read("up_deit_t_from_b")
    model = loaded(expected, dim=768, depth=12, heads=12, hidden=3072)
    images, outputs = golden.image(expected["input_shape"]), expected["outputs"]
    names = {"dim": ("neck", 768)}
    names |= {f"inner.{i}": (f"attn.{i}", 768) for i in range(12)}
    names |= {f"hidden.{i}": (f"ffn.{i}", 3072) for i in range(12)}
    scores = {
        width: torch.from_numpy(golden.tensor(f"importance.{name}", (n,))).abs()
        for width, (name, n) in names.items()
    }
    channels = {w: 768 if w.startswith("hidden") else 192 for w in names}
    heads = {f"inner.{i}": 3 for i in range(12)}
    smaller = sliced(model, chosen(scores, Shape(channels, heads)))
    assert smaller.config == deit.Config(image=(32, 32), classes=10)
    state = smaller.state_dict()
    with torch.no_grad():
        found = {
            "big_logits": model(images),
            "sub_logits": smaller(images),
            "sub_block0_qkv_weight": state["blocks.0.mixer.qkv.weight"],
            "sub_block11_fc2_weight": state["blocks.11.ffn.fc2.weight"],
        }
    for name, value in found.items():
        assert golden.deviation(value, outputs[name]) <= 1e-6, name


@pytest.mark.parametrize("name", PLAIN)
def test_the_fast_form_is_the_slow_one(name, monkeypatch):
    """In float64 to 1e-10, whatever goes through in one batch."""
    model = build(PLAIN[name], torch.float64)
    batches = [image(model.config, n, torch.float64) for n in (2, 3)]
    told = []
    monkeypatch.setattr("vitrail.compression.up_vit.ROOM", 700)
    found = importances(model, batches, told.append)
    assert sum(told) == 2 * candidates(model)
    for width, values in found.items():
        assert len(values) == sizes(model)[width]
    with torch.no_grad():
        expected = {width: torch.zeros_like(values) for width, values in found.items()}
        for images in batches:
            for width, channels, value in slow(model, images):
                expected[width][channels] += value
    for width, values in found.items():
        assert (values - expected[width]).abs().max() <= 1e-10 * max(1, expected[width].max())
        assert values.max() > 0, width


def test_a_family_without_a_fast_form_is_asked_slowly():
    model = build(vit.Config(**{**SMALL, "depth": 1}, image=(32, 24), pool="map"), torch.float64)
    found = importances(model, [image(model.config, 2, torch.float64)])
    assert set(found) == {w for w in sizes(model) if not w.startswith("heads")}
    assert found["hidden.1"].max() > 0


def test_the_best_stay_and_of_equal_ones_the_last():
    assert best(torch.tensor([3.0, 1, 2, 1, 5]), 3) == [0, 2, 4]
    assert best(torch.zeros(4), 2) == [2, 3]
    with pytest.raises(ConfigError, match="0 of 4 channels cannot stay"):
        best(torch.zeros(4), 0)


def test_heads_are_the_best_channels_of_consecutive_groups():
    scores = torch.tensor([1.0, 9, 2, 8, 9, 1, 1, 2, 3, 0, 0, 9])
    assert grouped(scores, 2, 3) == [1, 3, 4, 7, 8, 11]
    assert grouped(scores, 3, 1) == [1, 4, 11]


@pytest.mark.parametrize("scores", [magnitudes, lambda model: at_random(model, 7)])
def test_silent_neurons_have_no_magnitude_and_chance_is_the_same_again(scores):
    model = build(PLAIN["class token"], torch.float64)
    with torch.no_grad():
        model.get_submodule("blocks.1.ffn.fc1").weight[2] = 0
        model.get_submodule("blocks.1.ffn.fc2").weight[:, 2] = 0
    found, again = scores(model), scores(model)
    assert all(torch.equal(found[width], again[width]) for width in found)
    cut = chosen(found, Shape({"hidden.1": 3}, {}))
    if scores is magnitudes:
        assert cut == Cut({"hidden.1": (0, 1, 3)})
    assert sliced(model, cut).config.hidden == (4, 3, 4)
