"""Self-attention as convolution: the theorem, the encodings by plain lines, moved offsets."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import vitrail
from vitrail.checkpoint import rename
from vitrail.errors import CheckpointError, ConfigError
from vitrail.layers.offsets import General, Learned, Offsets, Quadratic, between
from vitrail.models.attention_cnn import NAMES, Config, convolution_as_attention

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
    weights = layer.weights(x)
    assert weights.shape[:2] == (2, conv.weight[0, 0].numel())
    assert torch.allclose(weights.sum(-1), torch.ones_like(weights[..., 0]))
    assert torch.allclose(weights.amax(-1), torch.ones_like(weights[..., 0]))


def test_the_softer_the_further():
    """With a low precision heads look around their shift, and the layer is not a convolution."""
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, 3, padding=1).double()
    x = torch.randn(1, 5, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        layers = [convolution_as_attention(conv, alpha) for alpha in (5.0, 10.0, 20.0)]
        gaps = [float((layer(x) - conv(x)).abs().max()) for layer in layers]
    assert gaps[0] > 50 * gaps[1] and gaps[1] > 1000 * gaps[2] > 0


def test_what_the_theorem_does_not_say():
    with pytest.raises(ValueError, match="'same' of mode 'zeros'"):
        convolution_as_attention(nn.Conv2d(2, 2, 3, padding="same"))
    with pytest.raises(ValueError, match="mode 'reflect'"):
        convolution_as_attention(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"))
    with pytest.raises(ValueError, match=r"is a Conv1d; .* give an nn.Conv2d"):
        convolution_as_attention(nn.Conv1d(2, 2, 3))
    with pytest.raises(ValueError, match="input has 2 pixels along an axis, padded by 0"):
        convolution_as_attention(nn.Conv2d(2, 2, 3))(torch.zeros(1, 2, 2, 5))


@pytest.mark.parametrize("general", [False, True])
def test_quadratic_scores_are_a_gaussian(general):
    """Up to a constant for each query, minus half the squared distance under the precision."""
    torch.manual_seed(0)
    spreads = torch.randn(3, 2, 2).double() if general else torch.randn(3).double()
    centers = torch.randn(3, 2).double()
    position = (General if general else Quadratic)(centers, spreads)
    got = position.table(4, 5)[0].unflatten(1, (4, 5))
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
    got = position.scores(between(3, position.rows), between(4, position.rows))
    for y, x, ky, kx in ((0, 0, 2, 3), (2, 3, 0, 0), (1, 2, 1, 0)):
        row, column = position.rows[ky - y + 2], position.columns[kx - x + 3]
        expected = position.row_keys @ row + position.column_keys @ column
        assert torch.allclose(got[:, y, x, ky, kx], expected)


@pytest.mark.parametrize("encoding", ["learned", "content"])
def test_embeddings_of_their_own_width(encoding):
    """Narrow offsets, under the authors' names, give the logits that their product gives."""
    model = vitrail.create(replace(SMALL, encoding=encoding, offset_dim=5)).double().eval()
    position = model.blocks[0].mixer.position
    assert position.rows.shape == (11, 5) and position.columns.shape == (15, 5)
    assert position.row_keys.shape == position.column_keys.shape == (4, 5)
    x = torch.randn(1, 3, 12, 16, dtype=torch.float64)
    wide = vitrail.create(replace(SMALL, encoding=encoding)).double().eval()
    with torch.no_grad():  # padded by zeros to the tokens' width they are the usual ones
        state = {
            name: nn.functional.pad(value, (0, 7)) if ".position." in name else value
            for name, value in model.state_dict().items()
        }
        wide.load_state_dict(state)
        assert torch.allclose(model(x), wide(x), atol=1e-12)
    prefix = "encoder.layer.0.attention.self."
    theirs = {
        f"{prefix}row_embeddings.weight": "columns",
        f"{prefix}col_embeddings.weight": "rows",
        f"{prefix}head_keys_row.weight": "column_keys",
        f"{prefix}head_keys_col.weight": "row_keys",
    }
    named = rename(
        {name: position.get_parameter(ours) for name, ours in theirs.items()},
        NAMES["epfml/attention-cnn"](model.config),
    )
    assert all(torch.equal(v, model.state_dict()[n]) for n, v in named.items())


@pytest.mark.parametrize("kind", ["quadratic", "general", "learned"])
def test_passes_are_what_the_weights_say(kind):
    """Two passes, a kept table and a plain average by all weights are the same."""
    torch.manual_seed(0)
    centers = torch.randn(3, 2)
    position = {
        "quadratic": lambda: Quadratic(centers, torch.rand(3)),
        "general": lambda: General(centers, torch.randn(3, 2, 2)),
        "learned": lambda: Learned(6, 3, (4, 5)),
    }[kind]().double()
    x = torch.randn(2, 4, 5, 7, dtype=torch.float64)
    slow = torch.einsum("nts,bsc->btnc", position.table(4, 5)[0], x.flatten(1, 2))
    assert torch.allclose(position(x).flatten(1, 2), slow, atol=1e-12)
    assert torch.allclose(Offsets.forward(position, x).flatten(1, 2), slow, atol=1e-12)
    with torch.no_grad():
        before = position(x)
        assert torch.equal(position(x), before) and torch.allclose(before.flatten(1, 2), slow)
        next(position.parameters()).mul_(1.5)
        assert not torch.allclose(position(x), before)


def test_dropout_acts_on_pairs_of_pixels():
    """Dropped weights are gone and the others grow: their mean stays, with two passes or not."""
    torch.manual_seed(0)
    position = Quadratic(torch.randn(2, 2), torch.rand(2)).double()
    x = torch.rand(1, 3, 4, 5, dtype=torch.float64)
    many = torch.stack([position(x, 0.5) for _ in range(2000)])
    assert many.std(0).min() > 0 and (many.mean(0) - position(x)).abs().max() < 0.1


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
        with pytest.raises(
            CheckpointError, match=r"image is 16x16, .* for 12x16: .* offsets of up to 5 places"
        ):
            vitrail.load(config, model.state_dict(), image=(16, 16))


def test_bad_sizes():
    with pytest.raises(ConfigError, match="image is 13x16"):
        vitrail.create(replace(SMALL, image=(13, 16)))
    with pytest.raises(ConfigError, match="encoding is 'cubic'"):
        vitrail.create(replace(SMALL, encoding="cubic"))
    with pytest.raises(ConfigError, match="offset_dim is -1: expected at least 0"):
        vitrail.create(replace(SMALL, encoding="learned", offset_dim=-1))
