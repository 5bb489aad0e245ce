"""SE, ECA, CBAM, global context and non-local in timm's ResNets, with the same random weights."""

from dataclasses import replace
from functools import partial

import pytest
from agree import difference
from support.peers import timm

from vitrail.models import cbam, eca, gcnet, resolve, senet

ALL = (True,) * 4
CASES = {
    "se": senet.Config(divisor=8),
    "ese": senet.Config(gate="ese"),
    "eca": eca.Config(),
    "cbam": cbam.Config(bias=False),
    "gc": gcnet.Config(stages=ALL, context=gcnet.GC(1 / 8, fusion=("mul",), eps=1e-6)),
    "gca": gcnet.Config(stages=ALL, context=gcnet.GC(1 / 8, eps=1e-6)),
    "nl": gcnet.Config(stages=ALL, context=gcnet.NL(1 / 8, scale="timm", normed=True)),
}


@pytest.mark.parametrize("attention", CASES)
@pytest.mark.parametrize(("block", "expansion"), [("BasicBlock", 1), ("Bottleneck", 4)])
def test_timm(attention, block, expansion):
    kind = getattr(timm.models.resnet, block)
    changes = {"num_classes": 7, "block_args": {"attn_layer": attention}}
    peer = timm.models.resnet.ResNet(kind, (1, 2, 1, 1), **changes)
    sizes = {"depths": (1, 2, 1, 1), "expansion": expansion, "classes": 7}
    assert difference(peer, replace(CASES[attention], **sizes), "timm", (65, 96)) <= 1e-6


@pytest.mark.parametrize("kernel", [3, 5])
def test_another_kernel_of_cbam(kernel):
    layer = partial(timm.layers.cbam.CbamModule, spatial_kernel_size=kernel)
    resnet = timm.models.resnet
    changes = {"num_classes": 7, "block_args": {"attn_layer": layer}}
    peer = resnet.ResNet(resnet.BasicBlock, (1, 2, 1, 1), **changes)
    sizes = {"depths": (1, 2, 1, 1), "expansion": 1, "classes": 7}
    config = cbam.Config(bias=False, kernel=kernel, **sizes)
    assert difference(peer, config, "timm", (65, 96)) <= 1e-6


@pytest.mark.parametrize("name", ["seresnet18", "seresnet50"])
def test_timm_as_it_is(name):
    peer = timm.create_model(name, num_classes=7)
    config = resolve(name.replace("t", "t_"), classes=7)
    assert difference(peer, config, "timm", (65, 96)) <= 1e-6
