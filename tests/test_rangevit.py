"""RangeViT's parts: refinement of points, the decoder's order, and a start from image ViTs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support import golden

import vitrail
from vitrail import models
from vitrail.engines.kpconv import Refined, sampled
from vitrail.errors import CheckpointError, ConfigError
from vitrail.layers.points import Points
from vitrail.models import deit, rangevit
from vitrail.models.parts.kpconv import KPConv, kernel_points
from vitrail.models.parts.range_stem import UpConv
from vitrail.recipes.pretrained import start

SMALL = rangevit.Config(
    dim=32, depth=2, heads=2, hidden=64, stem=rangevit.ConvStem(16, 8),
    decoder=rangevit.UpDecoder(16), image=(8, 32), classes=3, drop_path=0.0,
)  # fmt: skip


def by_loop(conv: KPConv, xyz, x, near):
    """KPConv in plain lines: every point, kernel point and neighbour by itself."""
    out = torch.zeros(len(xyz), conv.weights.shape[2], dtype=x.dtype)
    for i in range(len(xyz)):
        for m, kernel in enumerate(conv.kernel_points):
            total = torch.zeros(x.shape[1], dtype=x.dtype)
            for j in near[i]:
                far = (xyz[j] - xyz[i] - kernel).norm()
                total += max(0.0, 1 - float(far) / conv.extent) * x[j]
            out[i] += total @ conv.weights[m]
    return out


@pytest.mark.parametrize(("n", "k", "dims"), [(1, 1, (3, 2)), (9, 4, (2, 5)), (20, 7, (4, 4))])
def test_kpconv_does_as_the_loop_does(n, k, dims):
    torch.manual_seed(n)
    conv = KPConv(*dims).double()
    xyz, x = torch.randn(n, 3).double(), torch.randn(n, dims[0]).double()
    near = torch.randint(0, n, (n, k))
    expected = by_loop(conv, xyz, x, near)
    assert torch.allclose(conv(xyz, x, near), expected, atol=1e-12)
    with torch.no_grad():  # which computes in pieces
        assert torch.allclose(conv(xyz, x, near), expected, atol=1e-12)


def test_kernel_points_keep_their_distances_and_never_learn():
    points = kernel_points()
    assert torch.allclose(points[0], torch.zeros(3))
    assert torch.allclose(points[1:].norm(dim=1), torch.tensor(0.6))
    conv = KPConv(2, 2)
    assert "kernel_points" in conv.state_dict()
    assert "kernel_points" not in dict(conv.named_parameters())


def points_of(n, images, classes_seed=0):
    torch.manual_seed(classes_seed)
    places, xyz = torch.rand(n * images, 2) * 2 - 1, torch.randn(n * images, 3)
    near = torch.cat([torch.randint(0, n, (n, 7)) + n * at for at in range(images)])
    return Points(places, xyz, near, (n,) * images)


def test_numpy_refines_as_torch_does():
    torch.manual_seed(0)
    model = vitrail.create(SMALL).eval()
    for norm in (model.refiner.norm,):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    points = points_of(40, 1)
    points = points._replace(places=points.places * 1.2)  # some beyond the border
    with torch.no_grad():
        maps = model.maps(torch.randn(1, 5, 8, 32))
        expected = model.head(model.refiner(maps, points)).numpy()
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    refined = Refined.of(state)
    found = refined(maps[0].numpy(), *(one.numpy() for one in points[:3]))
    assert np.abs(found - expected).max() < 1e-5
    assert Refined.of({"head.weight": state["head.weight"]}) is None


def test_a_place_between_pixels_is_their_mean():
    ramp = np.arange(8, dtype=np.float32).reshape(1, 2, 4)
    middle_of_first_two = np.array([[-1 + 2 / 4, -1 + 1 / 2]], np.float32)
    assert sampled(ramp, middle_of_first_two) == pytest.approx(0.5)
    assert sampled(ramp, np.array([[-1.0, -1.0]], np.float32)) == 0


def test_a_token_becomes_the_pixels_of_its_patch_row_by_row():
    up = UpConv(1, 1, 0, (2, 4)).eval()
    with torch.no_grad():
        up.up.weight.copy_(torch.arange(8.0)[:, None])
        up.up.bias.zero_()
    seen = []
    up.join.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    up(torch.ones(1, 1, 1, 1), None)
    assert torch.equal(seen[0][0, 0], torch.arange(8.0).view(2, 4))


def test_images_of_any_size_are_padded_and_cut():
    model = vitrail.create(replace(SMALL, points=rangevit.PixelHead())).eval()
    with torch.no_grad():
        assert model(torch.zeros(2, 5, 7, 45)).shape == (2, 3, 7, 45)


def test_gradients_reach_every_parameter():
    model = vitrail.create(SMALL)
    points = points_of(30, 2)
    model(torch.randn(2, 5, 8, 32), points).square().sum().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patch": (3, 8)}, "patch is 3x8"),
        ({"stem": rangevit.PatchStem()}, "decoder.skip needs the map"),
        ({"decoder": rangevit.LinearDecoder()}, "give points=pixel_head"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        vitrail.create(replace(SMALL, **changes))


def test_points_must_come_beside_the_image():
    with pytest.raises(ValueError, match="give them beside the range image"):
        vitrail.create(SMALL)(torch.zeros(1, 5, 8, 32))


@pytest.mark.parametrize("name", list(models.scans()))
def test_published_counts(name):
    variant = models.scans()[name]
    with torch.device("meta"):
        model = vitrail.create(name)
    params = sum(p.numel() for p in model.parameters()) / 1e6
    if variant.params_m is not None:
        assert abs(params - variant.params_m) <= 0.01 * variant.params_m


IMAGES = deit.Config(dim=32, depth=2, heads=2, hidden=64, patch=4, image=(16, 16), classes=5)


@pytest.fixture(scope="module")
def vit_file(tmp_path_factory):
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("vit") / "deit.safetensors"
    vitrail.checkpoint.save(
        path, vitrail.create(IMAGES).state_dict(), metadata={"config": models.config_json(IMAGES)}
    )
    return path


def test_a_vit_of_images_fills_blocks_positions_and_kernel(vit_file):
    donor = vitrail.load(IMAGES, vit_file)
    linear = replace(
        SMALL, stem=rangevit.PatchStem(), decoder=rangevit.LinearDecoder(),
        points=rangevit.PixelHead(),
    )  # fmt: skip
    made = start(linear, str(vit_file))
    assert torch.equal(made.blocks[1].ffn.fc1.weight, donor.blocks[1].ffn.fc1.weight)
    assert torch.equal(made.embed.token, donor.embed.token)
    square = donor.embed.position.view(1, 4, 4, 32).movedim(-1, 1)
    moved = torch.nn.functional.interpolate(square, (4, 4), mode="bilinear")
    assert torch.allclose(made.embed.position, moved.flatten(2).mT)
    kernel = donor.embed.proj.weight
    repeated = torch.cat([kernel, kernel[:, :2]], 1) * 3 / 5
    expected = torch.nn.functional.interpolate(repeated, (2, 8), mode="bilinear")
    assert torch.allclose(made.stem.proj.weight, expected, atol=1e-6)
    stemmed = start(SMALL, str(vit_file))
    assert torch.equal(stemmed.blocks[0].mixer.qkv.weight, donor.blocks[0].mixer.qkv.weight)


def test_a_vit_of_another_width_or_depth_is_refused(vit_file):
    with pytest.raises(CheckpointError, match="the ViT is 32 wide and the model 48"):
        start(replace(SMALL, dim=48, hidden=96), str(vit_file))
    with pytest.raises(CheckpointError, match="give both one depth"):
        start(replace(SMALL, depth=3), str(vit_file))


def test_a_published_file_is_read_under_its_authors_names_alone():
    expected = golden.read(golden.FOLDER / "rangevit_linear.json")
    state = golden.state(expected)
    state.pop("rangevit.encoder.norm.bias")
    with pytest.raises(CheckpointError, match="norm"):
        vitrail.load("rangevit_s_linear", state)
