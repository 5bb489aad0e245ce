"""FlexiViT's ten patch sizes, its dialects of names, and what its positions and kernels do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_blocks_vit import flax

import vitrail
from vitrail.errors import ConfigError
from vitrail.models import vit
from vitrail.models.flexivit import Config
from vitrail.models.trunk.catalog import bare

SMALL = Config(
    dim=16, depth=2, heads=2, hidden=32, patch=8, kernel=8, table=(2, 2), image=(16, 16), classes=3
)
SIZES = (48, 40, 30, 24, 20, 16, 15, 12, 10, 8)


@pytest.mark.parametrize("patch", SIZES)
def test_the_ten_sizes_of_the_paper_are_reachable(patch):
    with bare():
        model = vitrail.create("flexivit_s", patch=patch)
        side = 240 // patch
        assert model.features(torch.zeros(1, 3, 240, 240))[0].shape == (1, side, side, 384)
    assert model.embed.proj.weight.shape == (384, 3, 32, 32)  # the weights are the same at all
    assert model.embed.position.shape == (1, 49, 384)


def test_at_its_kernel_and_table_it_is_a_vit():
    plain = vit.Config(dim=16, depth=2, heads=2, hidden=32, patch=8, image=(16, 16), classes=3)
    torch.manual_seed(0)
    ours = vitrail.create(SMALL).eval()
    torch.nn.init.normal_(ours.head.weight)
    theirs = vitrail.load(plain, ours.state_dict(), source="vitrail")
    image = torch.randn(2, 3, 16, 16)
    assert torch.equal(ours(image), theirs(image))


def test_images_of_doubled_pixels_mean_the_same_at_the_doubled_patch():
    torch.manual_seed(0)
    model = vitrail.create(replace(SMALL, position="sincos")).double().eval()
    torch.nn.init.normal_(model.head.weight)
    image = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    large = torch.nn.functional.interpolate(
        image.unfold(2, 8, 8).unfold(3, 8, 8).flatten(0, 3)[:, None], (16, 16), mode="bilinear"
    )  # each patch by itself, as the kernel is resized
    large = large.view(2, 3, 2, 2, 16, 16).transpose(3, 4).reshape(2, 3, 32, 32)
    expected = model(image)
    model.embed.choose(16)
    assert torch.allclose(model(large), expected, rtol=0, atol=1e-10)


def test_names_of_the_authors_files(tmp_path):
    wide = vit.Config(dim=16, depth=2, heads=2, hidden=32, patch=8, image=(16, 16), classes=3)
    state = flax(wide, old=False)
    del state["Transformer/posembed_input/pos_embedding"]
    state["pos_embedding"] = np.random.default_rng(1).normal(size=(1, 4, 16))
    np.savez(tmp_path / "flexivit_s_i1k.npz", **state)
    model = vitrail.load(SMALL, tmp_path / "flexivit_s_i1k.npz", dtype=torch.float64)
    assert torch.equal(model.embed.position, torch.from_numpy(state["pos_embedding"]))
    kernel = torch.from_numpy(state["embedding/kernel"]).permute(3, 2, 0, 1)
    assert torch.equal(model.embed.proj.weight, kernel)


def test_a_published_file_is_told_by_its_name(tmp_path):
    path = tmp_path / "flexivit_small.1200ep_in1k.pth"
    state = vitrail.create("flexivit_small").state_dict()
    renames = {"embed.token": "cls_token", "embed.position": "pos_embed"}
    named = {
        renames.get(k, k.replace("embed.", "patch_embed."))
        .replace(".mixer.", ".attn.")
        .replace(".ffn.", ".mlp."): v
        for k, v in state.items()
    }
    torch.save(named, path)
    found = vitrail.identify(path)
    assert found.name == "flexivit_small" and not found.rivals
    assert vitrail.load("flexivit_small", path, source="timm").embed.patch == 16


def test_a_patch_that_does_not_divide_the_image_is_refused():
    with pytest.raises(ConfigError, match="240x240; flexivit needs multiples of its patch 7"):
        vitrail.create("flexivit_s", patch=7)


def test_kernels_are_made_once_for_each_size_and_follow_the_weights():
    model = vitrail.create(SMALL).eval()
    model.embed.choose(4)
    image = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        first = model.embed(image)
        kept = model.embed._kernel(model.embed.proj.weight, (4, 4))
        assert model.embed._kernel(model.embed.proj.weight, (4, 4)) is kept
        model.embed.proj.weight.mul_(2)
        assert not torch.equal(model.embed(image), first)
    model.embed(image).sum().backward()
    assert model.embed.proj.weight.grad.abs().sum() > 0
