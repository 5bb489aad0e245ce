"""Searches: index rules, spaces and their counts, strategies, costs, and a whole small search."""

from __future__ import annotations

import random

import pytest
import torch

from vitrail.errors import ConfigError
from vitrail.run.subject import counted
from vitrail.search.spaces import SPACES, Images, space_of
from vitrail.search.spaces.space import crossed, drawn, mutated
from vitrail.search.supernets.indices import Chosen, Circular, Prefix, Residues, Suffix, taken

IMAGES = Images((28, 28), 1, 10)


@pytest.mark.parametrize("name", SPACES)
def test_counts_are_exact(name):
    space, rng = space_of(name, IMAGES), random.Random(0)
    for genes in (*space.ends, *(drawn(space, rng) for _ in range(6))):
        config = space.config(genes)
        assert space.count(config) == counted(config)


@pytest.mark.parametrize("name", SPACES)
def test_ends_are_the_ends(name):
    space, rng = space_of(name, IMAGES), random.Random(1)
    small, large = (space.count(space.config(genes)) for genes in space.ends)
    for _ in range(200):
        one = space.count(space.config(drawn(space, rng)))
        assert small.macs <= one.macs <= large.macs and small.params <= one.params <= large.params


@pytest.mark.parametrize("name", SPACES)
def test_genes_have_one_form(name):
    """Whatever is drawn, mutated and crossed stays as it is, and means one network."""
    space, rng, found = space_of(name, IMAGES), random.Random(2), {}
    genes = drawn(space, rng)
    for _ in range(50):
        genes = crossed(space, mutated(space, genes, 0.2, rng), drawn(space, rng), rng)
        assert space.canonical(genes) == genes
        assert found.setdefault(genes, space.config(genes)) == space.config(genes)
    assert len({*found.values()}) == len(found)


@pytest.mark.parametrize("name", SPACES)
def test_a_candidate_is_the_shared_network(name):
    """Extracted, a subnet computes what the shared network computes of it, by every rule."""
    torch.manual_seed(0)
    space, rng = space_of(name, IMAGES), random.Random(3)
    shared = space.supernet().double().eval()
    for parameter in shared.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    image = torch.randn(2, 1, 28, 28, dtype=torch.float64)
    for _ in range(3):
        config = space.config(drawn(space, rng))
        outputs = []
        for rule in space.rules:
            with torch.no_grad():
                logits = shared(image, config, rule)
                assert (shared.extracted(config, rule)(image) - logits).abs().max() <= 1e-12
            outputs.append(logits)
        assert all((outputs[0] - one).abs().max() > 1e-6 for one in outputs[1:])


def test_ranges_are_views():
    weight = torch.randn(12, 12)
    for rule in (Prefix(), Suffix(), Circular(1, 4)):
        part = taken(weight, (6, 5), rule)
        assert part.shape == (6, 5) and part.untyped_storage().data_ptr() == weight.data_ptr()
    assert taken(weight, (12, 12), Suffix()) is weight


def test_rules_choose_what_they_say():
    weight = torch.arange(12.0)
    assert taken(weight, (5,), Prefix()).tolist() == [0, 1, 2, 3, 4]
    assert taken(weight, (5,), Suffix()).tolist() == [7, 8, 9, 10, 11]
    assert taken(weight, (5,), Circular(3, 4)).tolist() == [9, 10, 11, 0, 1]
    assert taken(weight, (5,), Chosen((4, 0, 9, 11, 2, 7))).tolist() == [4, 0, 9, 11, 2]
    rows = taken(weight, (6,), Prefix(), {0: Residues(3)})
    assert rows.tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize("have", [12, 10])
def test_windows_use_each_channel_alike(have):
    for want in range(1, have + 1):
        used = torch.zeros(have)
        for number in range(4):
            used[taken(torch.arange(have), (want,), Circular(number, 4))] += 1
        assert used.max() - used.min() <= 1 and used.sum() == 4 * want


def test_wrong_rules_say_so():
    with pytest.raises(ValueError, match="no wider"):
        taken(torch.zeros(4), (5,), Prefix())
    with pytest.raises(ValueError, match="residue classes"):
        taken(torch.zeros(9), (4,), Prefix(), {0: Residues(3)})
    with pytest.raises(ValueError, match="order of 2 channels"):
        taken(torch.zeros(9), (4,), Chosen((1, 2)))
    with pytest.raises(ValueError, match="beyond the 3"):
        taken(torch.zeros(3), (2,), Chosen((1, 4)))
    with pytest.raises(ValueError, match="window 4 of 4"):
        Circular(4, 4)


def test_images_that_no_patch_divides():
    with pytest.raises(ConfigError, match=r"no patch divides 29x31 .*--image, such as 16x16"):
        space_of("vitas", Images((29, 31), 3, 4))
    with pytest.raises(ConfigError, match="no search is called 'vitaz'"):
        space_of("vitaz", IMAGES)
