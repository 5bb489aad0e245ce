"""VOLO against timm with the same random weights."""

from dataclasses import replace

import pytest
from agree import difference
from support.peers import timm

from vitrail.models.volo import Config

SMALL = Config(dims=(24, 48), heads=(3, 4), depths=(2, 1, 2, 1), stem=8, image=(64, 64), classes=7)


@pytest.mark.parametrize(("patch", "side"), [(8, 64), (8, 80), (4, 40), (16, 96)])
def test_timm(patch, side):
    """80 and 40 pixels give the outlookers maps of 10, whose last centre has a cell of its own."""
    peer = timm.models.VOLO(
        layers=[2, 1, 2, 1],
        img_size=side,
        patch_size=patch,
        stem_hidden_dim=8,
        embed_dims=[24, 48, 48, 48],
        num_heads=[3, 4, 4, 4],
        num_classes=7,
    )
    config = replace(SMALL, patch=patch, image=(side, side))
    assert difference(peer, config, "timm", (side, side)) <= 1e-6


@pytest.mark.parametrize(("pool", "answer"), [("avg", "mean"), ("token", "token")])
def test_one_head(pool, answer):
    peer = timm.models.VOLO(
        layers=[2, 1, 2, 1],
        img_size=64,
        stem_hidden_dim=8,
        embed_dims=[24, 48, 48, 48],
        num_heads=[3, 4, 4, 4],
        num_classes=7,
        global_pool=pool,
        use_aux_head=False,
    )
    assert difference(peer, replace(SMALL, answer=answer), "timm", (64, 64)) <= 1e-6


def test_the_authors_table_reads_the_same():
    peer = timm.models.VOLO(
        layers=[2, 1, 2, 1],
        img_size=64,
        stem_hidden_dim=8,
        embed_dims=[24, 48, 48, 48],
        num_heads=[3, 4, 4, 4],
        num_classes=7,
    )
    assert difference(peer, SMALL, "sail-sg/volo", (64, 64)) <= 1e-6
