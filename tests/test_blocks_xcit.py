"""XCiT's parts against plain lines: channel attention, the class blocks' quirks, positions."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vitrail
from vitrail.errors import ConfigError
from vitrail.layers.fold import deploy
from vitrail.layers.position import FourierPosition
from vitrail.models.trunk.sizes import Widths
from vitrail.models.xcit import ClassBlock, Config, CrossCovariance, LocalPatches

SMALL = Config(dim=24, depth=2, heads=3, strides=(2, 2), image=(20, 28), classes=5)


def scattered(module):
    torch.manual_seed(0)
    with torch.no_grad():
        for p in module.double().eval().parameters():
            p.add_(torch.randn_like(p) * 0.3)
        for m in module.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean.normal_()
                m.running_var.uniform_(0.5, 1.5)
    return module


def tokens(*shape):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def plain_attention(part, x):
    """The paper's lines: heads of channels as rows, normed along the tokens before the product."""
    b, n, c = x.shape
    heads = len(part.temperature)
    q, k, v = part.qkv(x).view(b, n, 3, heads, c // heads).permute(2, 0, 3, 4, 1)
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    maps = (q @ k.transpose(-2, -1) * part.temperature).softmax(-1)
    return maps, part.proj((maps @ v).permute(0, 3, 1, 2).reshape(b, n, c))


@pytest.mark.parametrize("silent", [False, True])
def test_attention_between_channels_is_the_papers(silent):
    part = scattered(CrossCovariance(24, 3))
    if silent:  # channels that are zero at every token divide by the least length
        with torch.no_grad():
            part.qkv.weight[:3], part.qkv.bias[:3] = 0, 0
    x = tokens(2, 35, 24)
    maps, out = plain_attention(part, x)
    assert torch.allclose(part.weights(x), maps, atol=1e-12)
    assert torch.allclose(part(x), out, atol=1e-12)
    assert torch.allclose(part(x.view(2, 5, 7, 24)), out.view(2, 5, 7, 24), atol=1e-12)
    assert part.weights(x).shape == (2, 3, 8, 8)


def test_attention_does_not_depend_on_the_order_of_tokens():
    part, x = scattered(CrossCovariance(24, 3)), tokens(2, 35, 24)
    order = torch.randperm(35, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(part(x[:, order]), part(x)[:, order], atol=1e-12)


def test_gradients_of_attention_are_the_papers():
    part = scattered(CrossCovariance(24, 3))
    found = []
    for run in (lambda x: plain_attention(part, x)[1], part):
        x = tokens(2, 35, 24).requires_grad_()
        inputs = [x, *part.parameters()]
        found.append(torch.autograd.grad(run(x).square().sum(), inputs))
    for expected, got in zip(*found, strict=True):
        assert torch.allclose(got, expected, atol=1e-10 * float(expected.abs().max()))


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (2, 2), (5, 7)])
def test_local_patches_deploy_exactly_at_the_borders(shape):
    part, x = scattered(LocalPatches(6)), tokens(2, *shape, 6)
    with torch.no_grad():
        expected, made = part(x), deploy(part)
        assert torch.allclose(made(x), expected, atol=1e-12)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in made.modules())


@pytest.mark.parametrize("tokens_norm", [True, False])
def test_class_block_has_the_authors_quirks(tokens_norm):
    block = scattered(ClassBlock(Config(dim=24, tokens_norm=tokens_norm), Widths(3, 24, 96)))
    x = tokens(2, 1 + 12, 24)
    normed = block.norm1(x)
    y = x + block.scale1.gamma * torch.cat([block.mixer(normed), normed[:, 1:]], 1)
    y = block.norm2(y) if tokens_norm else torch.cat([block.norm2(y[:, :1]), y[:, 1:]], 1)
    second = torch.cat([block.scale2.gamma * block.ffn(y[:, :1]), y[:, 1:]], 1)
    assert torch.allclose(block(x), y + second, atol=1e-12)
    assert torch.allclose(block.read(x), block(x)[:, :1], atol=1e-12)


def test_weights_of_the_class_token_are_its_row():
    model, seen = scattered(vitrail.create(SMALL)), []
    for block in model.pool.blocks:
        block.mixer.register_forward_pre_hook(lambda m, args: seen.append(m.weights(*args)))
    model(tokens(2, 3, 20, 28))
    assert [tuple(w.shape) for w in seen] == [(2, 3, 1, 1 + 5 * 7)] * SMALL.reading


def plain_position(part, h, w):
    table = torch.zeros(h, w, 64, dtype=torch.float64)
    for y in range(h):
        for x in range(w):
            for axis, at, side in ((0, y, h), (1, x, w)):
                for i in range(32):
                    angle = (at + 1) / (side + 1e-6) * 2 * math.pi / 10000 ** (i // 2 * 2 / 32)
                    wave = math.cos(angle) if i % 2 else math.sin(angle)
                    table[y, x, 32 * axis + i] = wave
    return table @ part.weight.mT + part.bias


def test_positions_are_fourier_features_of_the_map():
    part = scattered(FourierPosition(10))
    for grid in ((3, 5), (1, 1), (5, 3)):
        expected = plain_position(part, *grid)
        assert torch.allclose(part(grid)[0], expected, atol=1e-12)


def test_kept_positions_follow_grid_and_weights():
    part = FourierPosition(10).eval()
    for _ in range(2):
        for grid in ((3, 5), (5, 3)):
            fresh = part(grid).detach()  # with gradients nothing is kept
            with torch.no_grad():
                for _ in range(2):
                    assert torch.equal(part(grid), fresh)
        with torch.no_grad():
            part.weight.add_(1.0)
            part.bias.add_(1.0)


@pytest.mark.parametrize("strides", [(2, 2), (1, 1, 2, 2), (2, 2, 2, 2)])
@pytest.mark.parametrize("size", [(20, 28), (17, 33), (1, 5)])
def test_the_stem_rounds_up(strides, size):
    model = vitrail.create(Config(dim=24, depth=1, heads=3, strides=strides, classes=5)).eval()
    stride = math.prod(strides)
    with torch.no_grad():
        (found,) = model.features(torch.zeros(1, 3, *size))
    assert found.shape[1:3] == model.embed.grid(*size)
    assert found.shape[1:3] == tuple(math.ceil(s / stride) for s in size)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "dim 24 does not divide into 5 heads: choose a divisor"),
        ({"dim": 36, "strides": (2,) * 4}, "dim is 36; .* expected a multiple of 8"),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        vitrail.create(SMALL, **changes)
