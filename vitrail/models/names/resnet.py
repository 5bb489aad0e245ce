"""The names that torchvision, timm and transformers give to a ResNet's parameters."""

from __future__ import annotations

from typing import Any

_TRUNK = [
    ("layer1.", "stages.0.blocks."),
    ("layer2.", "stages.1.blocks."),
    ("layer3.", "stages.2.blocks."),
    ("layer4.", "stages.3.blocks."),
    (".downsample.0.", ".shortcut.conv."),
    (".downsample.1.", ".shortcut.norm."),
    ("conv1.", "stem.convs.0.conv."),
    ("bn1.", "stem.convs.0.norm."),
    ("fc.", "head."),
]


def _torchvision(config: Any) -> list:
    """Return rows of conv1, bn1 and so on of a block: the last 3x3 of the
    two or three is our mixer.
    """
    names = ("conv1", "mixer") if config.expansion == 1 else ("conv1", "mixer", "conv3")
    inside = [
        row
        for n, ours in enumerate(names, 1)
        for row in [
            (f".conv{n}.", f".{ours}.conv." if ours != "mixer" else ".mixer."),
            (f".bn{n}.", f".{ours}.norm." if ours != "mixer" else ".norm."),
        ]
    ]
    return [*_TRUNK, *inside]


def _transformers(config: Any) -> list:
    names = ("conv1", "mixer") if config.expansion == 1 else ("conv1", "mixer", "conv3")
    inside = [
        row
        for n, ours in enumerate(names)
        for row in [
            (f".layer.{n}.convolution.", f".{ours}.conv." if ours != "mixer" else ".mixer."),
            (f".layer.{n}.normalization.", f".{ours}.norm." if ours != "mixer" else ".norm."),
        ]
    ]
    return [
        ("resnet.", ""),
        ("embedder.embedder.convolution.", "stem.convs.0.conv."),
        ("embedder.embedder.normalization.", "stem.convs.0.norm."),
        ("encoder.stages.{i}.layers.", "stages.{i}.blocks."),
        (".shortcut.convolution.", ".shortcut.conv."),
        (".shortcut.normalization.", ".shortcut.norm."),
        *inside,
        ("classifier.1.", "head."),
    ]


TABLES = {"torchvision": _torchvision, "timm": _torchvision, "transformers": _transformers}
