"""MobileNetV2 and EfficientNet against torchvision and timm with the same random weights."""

import pytest
import torch
from agree import difference, weekly
from support.peers import timm, torchvision

from vitrail.errors import CheckpointError
from vitrail.models import identify, resolve
from vitrail.models.trunk.readings import tables
from vitrail.run.normalisation import normalisation


@pytest.mark.parametrize("side", [(64, 96), (65, 75)])
def test_torchvision_mobilenet(side):
    peer = torchvision.models.mobilenet_v2(num_classes=7)
    config = resolve("mobilenet_v2_100", classes=7)
    assert difference(peer, config, "torchvision", side) <= 1e-6


@pytest.mark.parametrize("name", ["035", "110d", *weekly("050", "075", "100", "120d", "140")])
def test_timm_mobilenet(name):
    peer = timm.create_model(f"mobilenetv2_{name}", num_classes=7)
    config = resolve(f"mobilenet_v2_{name}", classes=7)
    assert difference(peer, config, "timm") <= 1e-6


@pytest.mark.parametrize("name", ["b0", *weekly("b3", "b5")])
def test_torchvision_efficientnet(name):
    peer = getattr(torchvision.models, f"efficientnet_{name}")(num_classes=7)
    config = resolve(f"efficientnet_{name}", classes=7)
    assert difference(peer, config, "torchvision", (65, 75)) <= 1e-6


@pytest.mark.parametrize("side", [(64, 96), (65, 75)])
@pytest.mark.parametrize(
    "name",
    [
        "efficientnet_b1",
        "tf_efficientnet_b0",
        "tf_efficientnet_lite0",
        *weekly("tf_efficientnet_b4"),
    ],
)
def test_timm_efficientnet(name, side):
    peer = timm.create_model(name, num_classes=7)
    assert difference(peer, resolve(name, classes=7), "timm", side) <= 1e-6


@pytest.mark.parametrize("n", [2, *weekly(3, 4)])
def test_timm_lite(n):
    peer = timm.create_model(f"tf_efficientnet_lite{n}", num_classes=7)
    config = resolve(f"tf_efficientnet_lite{n}", classes=7)
    assert difference(peer, config, "timm", (65, 75)) <= 1e-6


def test_names_tell_how_is_padded():
    """EfficientNet-PyTorch's names are those of weights that pad as TensorFlow does, and
    torchvision's of others, whatever the file is called."""
    assert identify(renamed("tf_efficientnet_lite0")).name == "tf_efficientnet_lite0"
    even = torchvision.models.efficientnet_b0().state_dict()
    found = identify(even)
    assert (found.name, found.source, found.rivals) == ("efficientnet_b0", "torchvision", ())


def test_a_common_file_name_brings_no_other_normalisation(tmp_path):
    """efficientnet-lite0 is what others call timm's tf_efficientnet_lite0, whose mean is a half."""
    for name, mean in (("tf_efficientnet_lite0", 0.5), ("efficientnet_lite0", 0.485)):
        path = tmp_path / "efficientnet-lite0-57934424.pth"
        state = timm.create_model(name).state_dict() if name[:2] != "tf" else renamed(name)
        torch.save(state, path)
        known = identify(path)
        assert known.name == name
        assert normalisation(path, known).mean[0] == mean


def test_a_table_without_such_a_config_is_refused():
    with pytest.raises(CheckpointError, match="names of torchvision"):
        tables(resolve("tf_efficientnet_b0"), "torchvision")


def renamed(name):
    """timm's random weights under the names of EfficientNet-PyTorch."""
    state, found = timm.create_model(name).state_dict(), {}
    numbers = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "blocks":
            block = numbers.setdefault((int(parts[1]), int(parts[2])), len(numbers))
            first = parts[1] == "0"
            inner = {
                "conv_pw": "_project_conv" if first else "_expand_conv",
                "conv_dw": "_depthwise_conv",
                "conv_pwl": "_project_conv",
                "bn1": "_bn1" if first else "_bn0",
                "bn2": "_bn2" if first else "_bn1",
                "bn3": "_bn2",
            }[parts[3]]
            key = ".".join(["_blocks", str(block), inner, *parts[4:]])
        else:
            outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head"}
            outer |= {"bn2": "_bn1", "classifier": "_fc"}
            key = ".".join([outer[parts[0]], *parts[1:]])
        found[key] = value.to(torch.float32)
    return found
