"""Pooling attention in plain lines, its windows and positions, clips, and what cannot be built."""

from dataclasses import replace
from math import prod

import pytest
import torch
import torch.nn.functional as F
from support.scatter import scattered

import vitrail
from vitrail.checkpoint import rename, save
from vitrail.errors import ConfigError, RunError
from vitrail.measure.counts import counts
from vitrail.models import config_json, mvit
from vitrail.models.mvit import NAMES, VARIANTS, Config
from vitrail.models.parts.mvit_pooling import (
    Pool,
    PoolingAttention,
    PoolingBlock,
    WindowPoolingAttention,
)
from vitrail.models.parts.mvit_positions import ClipPosition, RelativePosition
from vitrail.models.trunk.backbone import input_shape
from vitrail.models.trunk.fitting import fitted
from vitrail.recipes.recipe import Data, Recipe
from vitrail.run.adopt import adopt
from vitrail.search.shelf import shelf
from vitrail.training.steps import Steps

SMALL = Config(dim=16, depths=(1, 2, 1), reduction=2, image=(64, 64), classes=5)
CLIP = replace(SMALL, frames=4, pool="token")


def attention(rank, *, position=True, kind=PoolingAttention, **more):
    """Two heads of 4 channels from 6, queries of stride 2, keys of stride 2."""
    axes = (1,) * (rank - 2)
    pools = [Pool(4, 2, (3,) * rank, (*axes, 2, 2)) for _ in "qkv"]
    table = (ClipPosition if axes else RelativePosition)(4, [5, 7, 9][-rank:])
    parts = {"pools": pools, "position": table if position else None, "residual": True}
    return scattered(kind(6, 8, 2, **parts, **more), 0.3)


def plain(m, x, grid):
    """One sample (prefix + n, C), one head, one query and one key at a time."""
    prefix = len(x) - prod(grid)
    made = []
    for linear, pool in ((m.q, m.pool_q), (m.k, m.pool_k), (m.v, m.pool_v)):
        y = linear(x).view(len(x), 2, 4)
        heads = []
        for head in range(2):
            image = y[prefix:, head].T.reshape(1, 4, *grid)
            convolve = F.conv2d if len(grid) == 2 else F.conv3d
            image = convolve(image, pool.weight, stride=pool.stride, padding=1, groups=4)
            heads.append(pool.norm(torch.cat([y[:prefix, head], image[0].flatten(1).T])))
        made.append(heads)
        small = image.shape[2:]
    q, k, v = made
    places = torch.cartesian_prod(*[torch.arange(s) for s in small])
    out = torch.zeros(len(q[0]), 2, 4, dtype=x.dtype)
    for head in range(2):
        for i in range(len(q[0])):
            logits = k[head] @ q[head][i] / 2
            for j in range(prefix, len(k[0]) if i >= prefix and m.position else 0):
                there = zip(m.position.axes, places[i - prefix], places[j - prefix], strict=True)
                for axis, at, of in there:
                    table = m.position.get_parameter(axis)
                    side = small[m.position.axes.index(axis)]
                    length = 2 * side - 1
                    if len(table) != length:
                        table = F.interpolate(table.T[None], length, mode="linear")[0].T
                    logits[j] += table[at - of + side - 1] @ q[head][i]
            out[i, head] = logits.softmax(0) @ v[head] + (q[head][i] if i >= prefix else 0)
    return m.proj(out.flatten(1))


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("position", [True, False])
@pytest.mark.parametrize("grid", [(5, 8), (3, 6, 9), (3, 4, 5)])
def test_attention_in_plain_lines(grid, position, prefix):
    m = attention(len(grid), position=position)
    x = torch.randn(2, prefix + prod(grid), 6, dtype=torch.float64)
    with torch.no_grad():
        found, asked = m(x, grid)
        assert asked == (*grid[:-2], *(-(-s // 2) for s in grid[-2:]))
        assert torch.allclose(found, torch.stack([plain(m, one, grid) for one in x]), atol=1e-12)
        assert m.weights(x, grid).shape == (2, 2, found.shape[1], prefix + prod(asked))


def test_distance_where_queries_outnumber_keys():
    """idx = trunc(i max(k/q, 1) - j max(q/k, 1) + (k - 1) max(q/k, 1)), also between whole rows."""
    position = RelativePosition(2, [27, 13]).double()
    rows = position._rows((14, 3), (4, 7))
    for axis, table, q, k in zip("hw", rows, (14, 3), (4, 7), strict=True):
        own = position.get_parameter(axis)
        for i in range(q):
            for j in range(k):
                far = i * max(k / q, 1) - j * max(q / k, 1) + (k - 1) * max(q / k, 1)
                assert torch.equal(table[i, j], own[int(far + 1e-6)])


@pytest.mark.parametrize("grid", [(8, 8), (7, 10), (3, 12)])
def test_windows_in_plain_lines(grid):
    """Windows of 8: queries 4, keys 4; what pads the last windows is attended to, as zeros."""
    m = attention(2, kind=WindowPoolingAttention, sides=(4, 4))
    x = torch.randn(1, prod(grid), 6, dtype=torch.float64)
    with torch.no_grad():
        found, (h, w) = m(x, grid)
        q, k, v = (
            p(n(x), grid)[0][0] for n, p in ((m.q, m.pool_q), (m.k, m.pool_k), (m.v, m.pool_v))
        )
        whole = [F.pad(y.view(h, w, 2, 4), (0, 0, 0, 0, 0, -w % 4, 0, -h % 4)) for y in (q, k, v)]
        out = torch.zeros_like(whole[0])
        for top in range(0, out.shape[0], 4):
            for left in range(0, out.shape[1], 4):
                part = (slice(top, top + 4), slice(left, left + 4))
                a, b, c = (y[part].flatten(0, 1)[None] for y in whole)
                one, two, bias, scale = m.position.logits(a, b, (4, 4), (4, 4))
                shares = (one @ two.mT * scale + bias).softmax(-1)
                out[part] = (shares @ c.transpose(1, 2)).transpose(1, 2).view(4, 4, 2, 4)
        expected = m.proj((out[:h, :w].flatten(0, 1) + q).flatten(1))
    assert torch.allclose(found[0], expected, atol=1e-12)
    assert torch.allclose(m.weights(x, grid).sum(-1), torch.ones((), dtype=torch.float64))


def test_shortcuts_start_at_the_normed_input():
    """Widening in attention, and in the MLP; the largest of 3x3, the class token as it is."""
    x = torch.randn(1, 1 + 36, 6, dtype=torch.float64)

    class Nothing(torch.nn.Module):
        def forward(self, y, grid):
            return torch.zeros(1, 1 + 9, 8, dtype=y.dtype), (3, 3)

    block = scattered(PoolingBlock((6, 8, 10), Nothing(), 2, 0.0), 0.3)
    with torch.no_grad():
        y = block.widen1(block.norm1(x))
        image = F.max_pool2d(y[:, 1:].mT.view(1, 8, 6, 6), 3, 2, 1).flatten(2).mT
        y = block.norm2(torch.cat([y[:, :1], image], 1))
        found, grid = block(x, (6, 6))
        assert torch.allclose(found, block.widen2(y) + block.ffn(y)) and grid == (3, 3)


@pytest.mark.parametrize("name", ["mvitv2_s_16x4", "mvitv2_b_32x3", "mvitv2_l_40x3"])
def test_operations_of_clips(name):
    """Without the channels that carry positions, a clip costs what is published."""
    variant = VARIANTS[name]
    c = variant.config
    with torch.device("meta"):
        model = vitrail.create(c)
    total = counts(model, input_shape(c)[1:], 3).macs
    frames, side = c.frames // 2, c.image[0] // 4
    for i, depth in enumerate(c.depths):
        for j in range(depth):
            # Keys of a stage's first block come from the larger map, by the new stride.
            kept = -(-side // max(8 >> i, 1))
            side = -(-side // 2) if i and not j else side
            q, k = frames * side**2, frames * kept**2
            total -= c.heads * 2**i * 2 * (1 + q) * (1 + k) * (frames + 2 * kept)
    assert total / 1e9 == pytest.approx(variant.flops_g, rel=0.02)


def test_images_and_clips_are_told_apart():
    clips, images = vitrail.create(CLIP), vitrail.create(SMALL)
    with pytest.raises(ValueError, match=r"takes \(B, 3, T, H, W\): that is an image"):
        clips(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"takes \(B, 3, H, W\): that is a clip"):
        images(torch.zeros(1, 3, 4, 64, 64))
    with pytest.raises(ValueError, match="build it with channels=1"):
        clips(torch.zeros(1, 1, 4, 64, 64))


def test_nothing_that_fits_images_takes_clips(tmp_path):
    video = vitrail.create(CLIP)
    save(tmp_path / "clips.safetensors", video.state_dict(), metadata={"config": config_json(CLIP)})
    images = vitrail.create(SMALL)
    save(tmp_path / "one.safetensors", images.state_dict(), metadata={"config": config_json(SMALL)})
    found, left_out = shelf(tmp_path, image_size=(64, 64), classes=3)
    assert found and "clips.safetensors is mvit" in left_out[0] and "of clips" in left_out[0]
    with pytest.raises(RunError, match="takes clips: a run folder"):
        adopt(tmp_path / "run", video, source="clips.safetensors")
    with pytest.raises(RunError, match="has no classes"):
        adopt(tmp_path / "run", vitrail.create(SMALL, classes=0), source="maps.safetensors")
    with pytest.raises(ConfigError, match="takes 4x64x64 clips, a recipe trains on images"):
        Recipe(config_json(CLIP), Data("photos/"), Steps(1, 1)).config  # noqa: B018


def test_both_positions_under_the_detectors_names():
    """Absolute positions behind the stem, whose first row nothing reads, and relative ones; at
    another size the former move bicubically."""
    config = replace(SMALL, window=8, position="both", classes=0)
    model = scattered(vitrail.create(config))
    relative = vitrail.create(replace(config, position="relative")).double().eval()
    state = model.state_dict()
    relative.load_state_dict({n: v for n, v in state.items() if n != "stem.space"})
    table = state["stem.space"].view(1, 16, 16, 16)
    rows = NAMES["facebookresearch/detectron2"](config)
    theirs = {"pos_embed": torch.cat([torch.zeros(1, 1, 16).double(), state["stem.space"]], 1)}
    assert torch.equal(rename(theirs, rows)["stem.space"], state["stem.space"])

    def added(module, args, found):
        grid = found.shape[2:]
        moved = F.interpolate(table.permute(0, 3, 1, 2), grid, mode="bicubic")
        return found + (moved if grid != (16, 16) else table.permute(0, 3, 1, 2))

    relative.stem.proj.register_forward_hook(added)
    for size in ((64, 64), (96, 80)):
        x = torch.randn(1, 3, *size, dtype=torch.float64)
        moved = vitrail.load(config, state, image=size, dtype=torch.float64)
        same = [n for n, v in moved.state_dict().items() if v.shape != state[n].shape]
        assert ("stem.space" in same) == (size != (64, 64))
        with torch.no_grad():
            for one, two in zip(model.features(x), relative.features(x), strict=True):
                assert torch.allclose(one, two, atol=1e-10)
            assert torch.allclose(model.stem(x)[0], moved.stem(x)[0], atol=1e-12)


@pytest.mark.parametrize("position", ["relative", "absolute"])
@pytest.mark.parametrize("size", [(1, 64, 64), (4, 50, 75), (7, 33, 130)])
def test_clips_of_other_sizes_fit_levels(size, position):
    model = vitrail.create(CLIP, position=position).eval()
    assert [level.time for level in model.levels] == [2, 2, 2]
    with torch.no_grad():
        for x, level in zip(model.features(torch.randn(2, 3, *size)), model.levels, strict=True):
            strides = (level.time, level.stride, level.stride)
            grid = [-(-s // stride) for s, stride in zip(size, strides, strict=True)]
            assert list(x.shape) == [2, *grid, level.channels]


@pytest.mark.parametrize("position", ["relative", "absolute"])
def test_moving_to_another_image_is_what_the_model_does_itself(position):
    """Tables resampled beforehand give what tables resampled on the way give."""
    model = scattered(vitrail.create(SMALL, position=position), 0.3)
    x = torch.randn(1, 3, 96, 128, dtype=torch.float64)
    moved = vitrail.load(model.config, model.state_dict(), image=(96, 128), dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(moved(x), model(x), atol=1e-10)


def test_detection_has_a_norm_for_each_level_and_no_head():
    model = vitrail.create(SMALL, window=16, classes=0).eval()
    windows = [isinstance(b.mixer, WindowPoolingAttention) for s in model.stages for b in s.blocks]
    assert windows == [True, True, False, False]
    assert [b.mixer.pool_k.stride[0] for b in model.stages[1].blocks] == [1, 2]
    with torch.no_grad():
        x = torch.randn(1, 3, 100, 84)
        for y in model.features(x):
            assert torch.allclose(y.mean(-1), torch.zeros(()), atol=1e-5)
        assert model(x).shape == (1, model.width)


def test_what_cannot_be_built():
    for changes, said in (
        ({"image": (8, 64)}, "image is 8x64; 3 stages of mvit need 16 pixels"),
        ({"heads": 3}, "does not divide into 3 heads"),
        ({"widen": "both"}, "widen is 'both': expected attention or mlp"),
        ({"window": 9}, "window is 9, in stage 0 9: expected multiples of 1 and 2"),
        ({"window": 16, "pool": "token"}, "without a class token"),
        ({"window": 16, "frames": 4}, "windows are of images"),
    ):
        with pytest.raises(ConfigError, match=said):
            vitrail.create(SMALL, **changes)


@pytest.mark.parametrize("position", ["relative", "absolute", "both"])
@pytest.mark.parametrize("base", [SMALL, CLIP])
def test_tables_tell_image_and_frames(base, position):
    config = replace(base, position=position)
    other = replace(
        config, image=(96, 64), classes=7, frames=2 * base.frames if base.frames > 1 else 1
    )
    with torch.device("meta"):
        state = vitrail.create(other).state_dict()
    found = fitted(config, state, mvit)
    assert (found.classes, found.frames, sorted(found.image)) == (7, other.frames, [64, 96])
    if position != "absolute":  # the tables of each axis by itself
        assert found == other
