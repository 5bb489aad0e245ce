"""Self-attention as convolution: the theorem, the encodings by plain lines, moved offsets."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import vitrail
from vitrail.errors import CheckpointError, ConfigError
from vitrail.layers.offsets import Learned, Quadratic, offsets
from vitrail.models.attention_cnn import Config, convolution_as_attention

SMALL = Config(dim=12, depth=2, heads=4, hidden=16, image=(12, 16), classes=3)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([1, 2, 3, 5, (1, 3), (3, 5)]),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(0, 4),
    st.sampled_from([1, 2]),
    st.booleans(),
)
def test_the_theorem(kernel, stride, dilation, padding, groups, bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(
        4, 6, kernel, stride, padding, dilation=dilation, groups=groups, bias=bias
    ).double()
    x = torch.randn(2, 4, 11, 12, dtype=torch.float64)
    layer = convolution_as_attention(conv)
    assert (layer(x) - conv(x)).abs().max() <= 1e-10


def test_the_softer_the_further():
    """With a low precision heads look around their shift, and the layer is no convolution."""
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, 3, padding=1).double()
    x = torch.randn(1, 5, 9, 9, dtype=torch.float64)
    gaps = [
        float((convolution_as_attention(conv, a)(x) - conv(x)).abs().max()) for a in (5, 10, 20)
    ]
    assert gaps[0] > 50 * gaps[1] and gaps[1] > 1000 * gaps[2] > 0


def test_what_the_theorem_does_not_say():
    with pytest.raises(ValueError, match="'same' of mode 'zeros'"):
        convolution_as_attention(nn.Conv2d(2, 2, 3, padding="same"))
    with pytest.raises(ValueError, match="mode 'reflect'"):
        convolution_as_attention(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"))


@pytest.mark.parametrize("general", [False, True])
def test_quadratic_scores_are_a_gaussian(general):
    """Up to a constant for each query, minus half the squared distance under the precision."""
    torch.manual_seed(0)
    spreads = torch.randn(3, 2, 2).double() if general else torch.randn(3).double()
    centers = torch.randn(3, 2).double()
    rows, columns = offsets(4, centers), offsets(5, centers)
    got = Quadratic(centers, spreads)(rows, columns).flatten(3).softmax(-1)
    for head in range(3):
        precision = (
            spreads[head] @ spreads[head].T if general else torch.eye(2) * spreads[head] ** 2
        )
        for y in range(4):
            for x in range(5):
                scores = []
                for ky in range(4):
                    for kx in range(5):
                        d = torch.tensor([ky - y, kx - x]).double() - centers[head]
                        scores.append(-0.5 * d @ precision.double() @ d)
                assert torch.allclose(got[head, y, x], torch.stack(scores).softmax(0), atol=1e-12)


def test_learned_scores_are_those_of_the_offsets():
    torch.manual_seed(0)
    position = Learned(6, 2, (3, 4)).double()
    got = position(offsets(3, position.rows), offsets(4, position.rows))
    for y, x, ky, kx in ((0, 0, 2, 3), (2, 3, 0, 0), (1, 2, 1, 0)):
        row, column = position.rows[ky - y + 2], position.columns[kx - x + 3]
        expected = position.row_keys @ row + position.column_keys @ column
        assert torch.allclose(got[:, y, x, ky, kx], expected)


@pytest.mark.parametrize("encoding", ["learned", "content", "general"])
def test_a_smaller_image_keeps_the_inner_offsets(encoding):
    torch.manual_seed(0)
    config = replace(SMALL, encoding=encoding)
    model = vitrail.create(config).double().eval()
    x = torch.randn(1, 3, 8, 12, dtype=torch.float64)
    moved = vitrail.load(config, model.state_dict(), image=(8, 12), dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(moved(x), model(x), atol=1e-12)
    if encoding != "general":
        with pytest.raises(CheckpointError, match=r"image is 16x16; .* offsets of up to 5 tokens"):
            vitrail.load(config, model.state_dict(), image=(16, 16))


def test_bad_sizes():
    with pytest.raises(ConfigError, match="image is 13x16"):
        vitrail.create(replace(SMALL, image=(13, 16)))
    with pytest.raises(ConfigError, match="encoding is 'cubic'"):
        vitrail.create(replace(SMALL, encoding="cubic"))
