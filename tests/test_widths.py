"""Channels, heads and blocks are taken out of models: what did nothing is not missed, and what is
left is a model of its own Config."""

from __future__ import annotations

import pytest
import torch
from test_backbones import build, image
from test_sizes import WHOLE

import vitrail
from vitrail import models
from vitrail.errors import ConfigError
from vitrail.models.trunk.catalog import skeleton
from vitrail.models.trunk.widths import Cut, heads_of, places, sizes, sliced, with_widths

NAMES = [name for name in WHOLE if name.partition(",")[0] in with_widths()]


def built(name):
    return build(WHOLE[name], torch.float64)


def silenced(model, width, channels):
    """Zero whatever a width's channels send on, so that nothing hears them."""
    state = model.state_dict()
    for place in places(model):
        if place.width == width:
            part = state[place.tensor].narrow(place.axis, place.start, place.size)
            part.index_fill_(place.axis, torch.tensor(channels), 0)


@pytest.mark.parametrize("name", NAMES)
def test_channels_of_zeros_are_not_missed(name):
    """Neurons, and channels of attention in every head, which make the heads narrower.

    But for XCiT's: its softmax is over channels, and counts those that are zero.
    """
    model, kept, heads = built(name), {}, {}
    for width, size in sizes(model).items():
        if not width.startswith(("inner", "hidden")):
            continue
        if name == "xcit" and width in ("inner.0", "inner.1"):
            continue
        gone = [1, 2]
        if width.startswith("inner"):
            heads[width] = heads_of(model.config, width)
            own = size // heads[width]
            gone = [head * own + 1 for head in range(heads[width])]
        silenced(model, width, gone)
        kept[width] = tuple(c for c in range(size) if c not in gone)
    x = image(model.config, 2, torch.float64)
    smaller = sliced(model, Cut(kept, heads))
    with torch.no_grad():
        assert torch.allclose(smaller(x), model(x), rtol=1e-10, atol=1e-12)
    assert all(sizes(smaller)[width] == len(channels) for width, channels in kept.items())


@pytest.mark.parametrize("name", ["xcit", "pvt", "cvt", "swin"])
def test_a_head_of_zeros_is_not_missed(name):
    model, kept, heads = built(name), {}, {}
    width = next(w for w in sizes(model) if w.startswith("inner") and heads_of(model.config, w) > 1)
    count, size = heads_of(model.config, width), sizes(model)[width]
    gone = range(size // count, 2 * size // count)
    silenced(model, width, list(gone))
    kept[width], heads[width] = tuple(c for c in range(size) if c not in gone), count - 1
    x = image(model.config, 2, torch.float64)
    smaller = sliced(model, Cut(kept, heads))
    with torch.no_grad():
        assert torch.allclose(smaller(x), model(x), rtol=1e-10, atol=1e-12)
    assert heads_of(smaller.config, width) == count - 1


def test_each_stage_of_a_pvt_has_its_own_embedding():
    model = built("pvt")
    names = {place.tensor for place in places(model) if place.width == "dims.0"}
    assert {"stages.0.position", "stages.1.down.proj.weight", "stages.0.down.norm.bias"} <= names
    smaller = sliced(model, Cut({"dims.0": tuple(range(0, 16, 2))}))
    assert smaller.config.dims == (8, 32) and smaller.config.hidden[0] == 32
    with torch.no_grad():
        assert smaller(image(model.config, 2, torch.float64)).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_left_is_a_model_like_any_other(name):
    """It is made again from its Config in JSON and its tensors."""
    model = built(name)
    kept = {w: tuple(range(0, n, 2)) for w, n in sizes(model).items() if not w.startswith("heads")}
    heads = {w: 1 for w in kept if w.startswith("inner")}
    smaller = sliced(model, Cut(kept, heads))
    config = models.config_from_json(models.config_json(smaller.config))
    again = vitrail.load(config, smaller.state_dict(), dtype=torch.float64)
    x = image(config, 2, torch.float64)
    with torch.no_grad():
        assert smaller(x).isfinite().all()
        assert torch.equal(again(x), smaller(x))


@pytest.mark.parametrize(
    "name",
    [
        "vit_ti16",
        "vit_b32_in21k",
        "scaling_vit_s28",
        "deit_tiny",
        "deit_tiny_distilled",
        "cait_xxs24_224",
        "swin_tiny",
        "xcit_tiny_12_p8",
        "xcit_nano_12_p16",
        "pvt_tiny",
        "cvt_13",
        "levit_128s",
    ],
)
def test_tables_know_every_tensor_of_published_models(name):
    found = places(skeleton(models.catalog()[name].config))
    expected = {"hidden"} if name.startswith("levit") else {"inner", "hidden"}
    assert {p.width.split(".")[0] for p in found} >= expected


def test_blocks_that_add_nothing_can_go():
    model = built("vit, map")
    with torch.no_grad():
        for leaf in ("mixer.proj", "ffn.fc2"):
            for parameter in model.get_submodule(f"blocks.0.{leaf}").parameters():
                parameter.zero_()
    smaller = sliced(model, Cut({"hidden.2": (0, 1, 2)}, without=(0,)))
    assert smaller.config.depth == 1
    assert smaller.config.hidden == (24, 3)
    whole = sliced(model, Cut(without=(0,)))
    x = image(model.config, 2, torch.float64)
    with torch.no_grad():
        assert torch.allclose(whole(x), model(x), rtol=1e-12, atol=1e-12)


def test_sinusoids_of_a_vit_become_a_table_before_they_lose_channels():
    model = build(models.resolve(WHOLE["vit"], position="sincos"), torch.float64)
    x = image(model.config, 2, torch.float64)
    whole = sliced(model, Cut({"dim": tuple(range(16))}))
    assert whole.config.position == "learned"
    with torch.no_grad():
        assert torch.allclose(whole(x), model(x), rtol=1e-12, atol=1e-12)
    assert sliced(whole, Cut({"dim": (1, 2, 5)})).config.dim == 3


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        ({"kept": {"hidden.0": (0, 24)}}, "hidden.0 keeps channels up to 24: deit has 24"),
        ({"kept": {"hidden.9": (0,)}}, "deit has no such width"),
        ({"kept": {"hidden.0": ()}}, "give channels, each once"),
        ({"kept": {"inner.0": (0, 1, 2)}, "heads": {"inner.0": 2}}, "do not make 2 heads"),
        ({"without": (0, 1)}, "cannot all go: the model has 2"),
    ],
)
def test_cuts_that_cannot_be(cut, said):
    with pytest.raises(ConfigError, match=said):
        sliced(built("deit"), Cut(**cut))


def test_families_without_a_table_are_refused():
    with pytest.raises(ConfigError, match=r"resnet does not say which .*: .*deit.*vit.* do"):
        places(vitrail.create("resnet_18"))
