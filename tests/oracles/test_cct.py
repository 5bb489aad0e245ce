"""CCT against its paper in plain lines, since no peer has it."""

import pytest
import torch
import torch.nn.functional as F

import vitrail
from vitrail.layers.position import sine_1d
from vitrail.layers.tokens import SequencePool
from vitrail.models import resolve
from vitrail.models.cct import Config, ConvPool

SMALL = Config(dim=12, depth=2, heads=3, hidden=20, inner=5, image=(16, 12), classes=4)


def build(config, **changes):
    torch.manual_seed(0)
    model = vitrail.create(config, **changes).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return model


def normed(x, norm):
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias
    )


def test_encoder_layer():
    block = build(SMALL).blocks[0]
    x = torch.randn(7, 12, dtype=torch.float64)
    with torch.no_grad():
        assert block.mixer.qkv.bias is None
        q, k, v = (normed(x, block.norm1) @ block.mixer.qkv.weight.T).split(12, 1)
        heads = [slice(0, 4), slice(4, 8), slice(8, 12)]
        seen = [torch.softmax(q[:, s] @ k[:, s].T / 2, 1) @ v[:, s] for s in heads]
        y = x + torch.cat(seen, 1) @ block.mixer.proj.weight.T + block.mixer.proj.bias
        y = normed(y, block.norm2)  # the stream itself, not a branch of it
        hidden = y @ block.ffn.fc1.weight.T + block.ffn.fc1.bias
        hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
        expected = y + hidden @ block.ffn.fc2.weight.T + block.ffn.fc2.bias
        assert (block(x[None])[0] - expected).abs().max() <= 1e-12


def test_sequence_pooling():
    pool = SequencePool(12).double()
    x = torch.randn(3, 7, 12, dtype=torch.float64)
    with torch.no_grad():
        for row, found in zip(x, pool(x), strict=True):
            scores = [torch.exp(pool.score.weight[0] @ token + pool.score.bias[0]) for token in row]
            expected = sum(s * token for s, token in zip(scores, row, strict=True)) / sum(scores)
            assert (found - expected).abs().max() <= 1e-12


def test_pooling_before_relu():
    conv = ConvPool(3, 8, 3).double()
    x = torch.randn(2, 3, 9, 12, dtype=torch.float64)
    with torch.no_grad():
        expected = F.max_pool2d(F.relu(F.conv2d(x, conv.weight, padding=1)), 3, 2, 1)
        assert torch.equal(conv(x), expected)


@pytest.mark.parametrize("pool", ["sequence", "token"])
@pytest.mark.parametrize("position", ["learned", "sine", "none"])
def test_another_size(position, pool):
    """A model moved to another size when loaded computes what the unmoved one resamples."""
    config = resolve(SMALL, position=position, pool=pool)
    model = build(config)
    moved = vitrail.load(config, model.state_dict(), image=(21, 30), dtype=torch.float64)
    x = torch.randn(2, 3, 21, 30, dtype=torch.float64)
    with torch.no_grad():
        assert (model(x) - moved(x)).abs().max() <= 1e-12
        assert moved.features(x)[0].shape == (2, 6, 8, 12)
    if position == "sine":
        rows = 6 * 8 + (pool == "token")
        assert torch.equal(moved.embed.position, sine_1d(rows, 12).double())
        assert not moved.embed.position.requires_grad
    if position == "learned" and pool == "token":
        assert torch.equal(moved.embed.position[:, 0], model.embed.position[:, 0])


def test_refusals():
    with pytest.raises(vitrail.errors.ConfigError, match=r"30x32; cct .* multiples of its patch 4"):
        vitrail.create("cct_cvt_2_4_32", image=(30, 32))
    with pytest.raises(ValueError, match="32x33"):
        vitrail.create("cct_vit_lite_2_4_32").eval()(torch.zeros(1, 3, 32, 33))
    with pytest.raises(vitrail.errors.ConfigError, match="kernel is 4"):
        vitrail.create("cct_2_3x2_32", kernel=4)


@pytest.mark.parametrize("name", ["cct_7_3x1_32", "cct_vit_lite_6_4_32"])
def test_identified_at_another_size(name):
    """A grey checkpoint for larger images is told by its shapes."""
    model = vitrail.create(name, image=(48, 48), channels=1, classes=5)
    found = vitrail.identify(model.state_dict())
    assert (found.name, found.config.image, found.config.channels) == (name, (48, 48), 1)
