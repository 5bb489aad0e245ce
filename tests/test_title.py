"""Short titles: of every family's small space, at most 40 characters, by the papers' names."""

from __future__ import annotations

import re

import pytest

from vitrail.models import families, resolve
from vitrail.models.trunk.title import family_title, short_title


@pytest.mark.parametrize("family", families())
def test_titles_of_a_small_space(family):
    module = families()[family]
    name = family_title(family, module.Config())
    letters = [c for c in name.lower() if c.isalnum()]
    assert name and " :" not in name and len(name) <= 14
    # A name of its own by a table, or the file's name as the paper writes it.
    assert name in ("EA-ResNet", "ECA-Net") or letters == [c for c in family if c.isalnum()], name
    for image in ((28, 28), (224, 160)):
        for config in module.SPACE.configs(image=image, channels=3, classes=10):
            for params in (4_321, 310_000, 123_456_789):
                title = short_title(family, config, params, image)
                assert len(title) <= 40 and title.startswith(name), title
                assert re.search(r", [\d.]+ [Mk], \d+(x\d+)? px$", title), title


@pytest.mark.parametrize(
    ("variant", "changes", "title"),
    [
        ("resnet_18", {"dims": (32, 64), "depths": (1, 2)}, "ResNet 32-64, 0.31 M, 28 px"),
        ("vit_ti16", {}, "ViT 192x12, 0.31 M, 28 px"),
        ("swin_tiny", {}, "Swin 96x2-2-6-2, 0.31 M, 28 px"),
        ("glit_tiny", {}, "GLiT 192x12, 0.31 M, 28 px"),
        ("botnet_50", {}, "BoTNet 64-128-256-512, 0.31 M, 28 px"),
    ],
)  # fmt: skip
def test_titles_by_hand(variant, changes, title):
    from vitrail.models import catalog, family_of

    assert variant in catalog(), [name for name in catalog() if name.startswith(variant[:4])]
    config = resolve(variant, **changes)
    assert short_title(family_of(config), config, 310_000, (28, 28)) == title
