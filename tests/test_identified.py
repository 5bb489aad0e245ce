"""Which model a file is: by its shapes, at any sizes; twins by what they compute and are called."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch

import vitrail
from vitrail import models
from vitrail.errors import CheckpointError, ConfigError
from vitrail.models.trunk.catalog import shapes, skeleton
from vitrail.models.trunk.figures import counted
from vitrail.models.trunk.identify import file_words, identify_state


def smallest():
    """The variant with the fewest parameters of every family of images."""
    found = {}
    for name, variant in models.catalog().items():
        params = counted()[name].params
        if getattr(variant.config, "frames", 1) == 1:
            found[variant.family] = min(found.get(variant.family, (params, name)), (params, name))
    return {family: name for family, (_, name) in found.items()}


def twins():
    """Groups of variants whose states have the same names and as many values."""
    found = {}
    for name, figures in counted().items():
        found.setdefault((figures.body, figures.names), []).append(name)
    return found.values()


EVERY_DAY = {
    "cct",
    "deit",
    "glit",
    "hornet",
    "lesa",
    "levit",
    "mlp_mixer",
    "resnet",
    "tnt",
    "vit_c",
}
FAMILIES = [
    pytest.param(name, id=family, marks=() if family in EVERY_DAY else pytest.mark.slow)
    for family, name in smallest().items()
]


def found_again(name, **changes):
    """The identity of a state of this variant, and the config that it was made with."""
    config = models.resolve(name, **changes)
    found = identify_state(skeleton(config).state_dict(), file_words(f"{name}.pth"))
    assert found is not None, (name, changes)
    assert shapes(found.config) == shapes(config), (name, changes, found)
    assert name in (found.name, *found.same) or found.name.startswith(name)
    return found, config


@pytest.mark.parametrize("name", FAMILIES)
def test_other_classes_channels_and_images(name):
    found, config = found_again(name, classes=7, channels=4)
    assert (found.config.classes, found.config.channels) == (7, 4)
    if not name.startswith("bats"):  # its head of training has classes as well
        found, config = found_again(name, classes=0, channels=1)
        assert (found.config.classes, found.config.channels) == (0, 1)
    height, width = models.catalog()[name].config.image
    found, config = found_again(name, image=(height, 2 * width))
    if shapes(models.resolve(config, image=(height, width))) != shapes(config):
        assert found.config.image == (height, 2 * width)


def test_who_asks_knows_which_way_an_image_lies():
    """A table of 10 x 20 positions is one of 20 x 10 as well."""
    state = vitrail.create("vit_ti16", image=(320, 160), classes=3).state_dict()
    assert vitrail.identify(state).config.image == (160, 320)
    tall = vitrail.load("vit_ti16", state, image=(320, 160))
    assert tall.config.image == (320, 160)
    assert torch.equal(tall.embed.position, state["embed.position"])


# ---- twins -------------------------------------------------------------------------------

PAIRS = [pair for group in twins() for pair in pairwise(group)]
DAILY = {"cct_2_3x2_32_sine", "vit_ti16", "pnasnet5_mobile_symmetric", "xcit_nano_12_p16_384"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(*pair, id="-".join(pair), marks=() if pair[1] in DAILY else pytest.mark.slow)
        for pair in PAIRS
        if counted()[pair[0]].macs < 6e9
    ],
)
def test_twins_that_compute_something_else_are_rivals(one, other):
    """The same tensors in both: rivals if the outputs differ, and only then. Some have as many
    values in tensors of other shapes, which is told."""
    torch.manual_seed(0)
    config = models.catalog()[one].config
    if shapes(config) != shapes(models.catalog()[other].config):
        found = identify_state(skeleton(config).state_dict())
        assert one in (found.name, *found.same) and other not in (found.name, *found.same)
        return
    made = vitrail.create(config).double().state_dict()
    state = {
        name: 0.1 * torch.randn_like(value) if value.is_floating_point() else value
        for name, value in made.items()
    }
    for name in state:
        if name.endswith(("norm.weight", "running_var")):
            state[name] = 1 + state[name].abs()
    x = torch.randn(1, config.channels, *config.image, dtype=torch.float64)

    def answer(name):
        try:
            wanted = models.resolve(name, image=config.image, classes=config.classes)
            return vitrail.load(wanted, state, dtype=torch.float64)(x)
        except ConfigError as error:  # it takes no such image, so it is another network
            assert "multiples of its patch" in str(error)
            return torch.full((1, config.classes), torch.nan)

    with torch.no_grad():
        a, b = answer(one), answer(other)
    alike = bool((a - b).abs().max() <= 1e-10 * a.abs().max())
    found = vitrail.identify(state)
    assert {one, other} <= {found.name, *found.same}
    if found.name in (one, other):
        assert ({one, other} - {found.name} <= set(found.rivals)) == (not alike)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("nat_mini.pth", "nat_mini"),
        ("dinat_mini_in1k_224.pth", "dinat_mini"),
        ("cswin_base_384.pth", "cswin_base_384"),
        ("cswin_base.pth", "cswin_base"),
        ("pnasnet5_mobile_symmetric.pth", "pnasnet5_mobile_symmetric"),
        ("deit_tiny_patch16_224-a1311bcf.pth", "deit_tiny"),
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors", "vit_ti16"),
        ("xcit_nano_12_p16_384_dist.pth", "xcit_nano_12_p16_384"),
    ],
)
def test_the_name_of_a_file_decides_between_twins(file, name):
    state = skeleton(models.catalog()[name].config).state_dict()
    found = identify_state(state, file_words(file))
    assert found is not None
    assert found.name == name and not found.rivals


def test_what_is_written_beside_the_weights_decides(tmp_path):
    state = vitrail.create("deit_tiny").state_dict()
    torch.save({"arch": "vit_tiny_patch16_224", "state_dict": state}, tmp_path / "best.pth")
    found = vitrail.identify(tmp_path / "best.pth")
    assert found.name == "vit_ti16" and not found.rivals
    torch.save({"state_dict": state}, tmp_path / "best.pth")
    found = vitrail.identify(tmp_path / "best.pth")
    assert {found.name, *found.rivals} == {"deit_tiny", "vit_ti16"}
    assert vitrail.models.identify(tmp_path / "best.pth", "vit_ti16").name == "vit_ti16"
    with pytest.raises(CheckpointError, match="not of resnet_18: they fit deit_tiny or vit_ti16"):
        vitrail.models.identify(tmp_path / "best.pth", "resnet_18")


def test_adopting_needs_to_know_which_twin_it_is(tmp_path, capsys):
    from vitrail.cli import main

    torch.save(vitrail.create("deit_tiny", classes=3).state_dict(), tmp_path / "best.pth")
    file, out = str(tmp_path / "best.pth"), str(tmp_path / "run")
    with pytest.raises(SystemExit) as stopped:
        main(["load", file, "--out", out])
    assert stopped.value.code == 2
    assert "may be deit_tiny or vit_ti16" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["load", file, "--out", out, "--model", "vit_ti16"])
    assert not stopped.value.code
    labels = json.loads((tmp_path / "run" / "labels.json").read_text())
    assert labels["mean"] == [0.5, 0.5, 0.5]


# ---- what does not fit -------------------------------------------------------------------


def test_the_nearest_model_is_named_with_the_names_of_the_file():
    torchvision = pytest.importorskip("torchvision")
    state = torchvision.models.resnet18(num_classes=5).state_dict()
    del state["layer3.1.conv2.weight"]
    state["extra.scale"] = torch.ones(2)
    said = "1 missing (layer3.1.conv2.weight); 1 unexpected (extra.scale)"
    with pytest.raises(CheckpointError) as error:
        vitrail.identify(state)
    assert f"nearest is resnet_18 in torchvision names: {said}" in str(error.value)
    with pytest.raises(CheckpointError) as error:
        vitrail.load("resnet_18", state)
    assert (
        f"does not fit resnet_18 (tried vitrail, torchvision, timm, transformers names): {said}"
        in (str(error.value))
    )
    assert "it is resnet_18" not in str(error.value)
    whole = torchvision.models.resnet18(num_classes=5).state_dict()
    with pytest.raises(CheckpointError, match="it is resnet_18 in torchvision names"):
        vitrail.load("hornet_tiny_gf", whole)


def test_figures_are_those_of_the_models():
    """figures.json is made anew by `python -m vitrail.models figures FAMILY`."""
    from vitrail.models.__main__ import names
    from vitrail.models.trunk.figures import fingerprint, vocabulary

    assert list(counted()) == sorted(models.catalog())
    assert set(vocabulary()) == set(models.families())
    for name in smallest().values():
        config = models.catalog()[name].config
        own = {n: s for n, s in shapes(config).items() if not n.startswith("head.")}
        assert counted()[name].names == fingerprint(own), name
        params = sum(p.numel() for p in skeleton(config).parameters())
        assert counted()[name].params == params, name
    assert set(names("cct")) == vocabulary()["cct"]


@pytest.mark.slow
@pytest.mark.parametrize("family", models.families())
def test_all_figures_are_those_of_the_models(family):
    from vitrail.models import __main__ as made
    from vitrail.models.trunk.figures import vocabulary

    assert set(made.names(family)) == vocabulary()[family]
    for name, variant in models.catalog().items():
        if variant.family == family:
            assert counted()[name] == made.counted(name), name
