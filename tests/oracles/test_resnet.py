"""ResNet against torchvision, timm and transformers with the same random weights."""

import pytest
from agree import difference
from support.peers import timm, torchvision, transformers

from vitrail.models import resolve


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvision(name):
    peer = getattr(torchvision.models, name)(num_classes=7)
    config = resolve(name.replace("t", "t_"), classes=7)
    assert difference(peer, config, "torchvision", (65, 96)) <= 1e-6


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_timm(name):
    peer = timm.create_model(name, num_classes=7)
    config = resolve(name.replace("t", "t_"), classes=7)
    assert difference(peer, config, "timm", (65, 96)) <= 1e-6


@pytest.mark.parametrize(("layer", "name"), [("basic", "resnet_18"), ("bottleneck", "resnet_50")])
def test_transformers(layer, name):
    ours = resolve(name, classes=7)
    widths = [d * ours.expansion for d in ours.dims]
    sizes = {
        "hidden_sizes": widths,
        "depths": list(ours.depths),
        "layer_type": layer,
        "num_labels": 7,
    }
    peer = transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes))
    assert difference(peer, ours, "transformers", (65, 96), lambda y: y.logits) <= 1e-6
