"""MaxViT: sets by positions, maps that windows do not divide, and what cannot be built."""

import pytest
import torch

import vitrail
from vitrail.errors import ConfigError
from vitrail.layers.windows import partition
from vitrail.models.maxvit import Config, GridAttention, WindowAttention, gather, spread

SMALL = Config(
    stem=16, dims=(16, 32), depths=(1, 1), channels_per_head=8, window=4, image=(32, 32), classes=3
)


def test_a_set_is_spread_evenly_over_the_map():
    at = torch.arange(6 * 9).view(1, 6, 9, 1)
    sets = spread(at, 3)
    for n, (row, column) in enumerate((r, c) for r in range(2) for c in range(3)):
        expected = at[0, row::2, column::3, 0].flatten()
        assert torch.equal(sets[n, :, 0], expected)
    assert torch.equal(gather(sets.float(), 3, (6, 9)).long(), at)


@pytest.mark.parametrize("kind", [WindowAttention, GridAttention])
def test_nothing_attends_to_padding(kind):
    torch.manual_seed(0)
    module = kind(16, 2, 4).double().eval()
    x = torch.randn(2, 6, 9, 16, dtype=torch.float64)
    seen = torch.ones(1, 6, 9, 1)
    seen = torch.nn.functional.pad(seen, (0, 0, 0, 3, 0, 2))
    inside = (partition if kind is WindowAttention else spread)(seen, 4)[..., 0].bool().repeat(2, 1)
    with torch.no_grad():
        weights = module.weights(x)
        assert weights.masked_select(~inside[:, None, None]).eq(0).all()
        expected = torch.ones(len(weights), 2, 16, dtype=torch.float64)
        assert torch.allclose(weights.sum(-1), expected)


def test_biases_belong_to_key_minus_query():
    module = WindowAttention(8, 1, 3)
    with torch.no_grad():
        module.bias.table.copy_(torch.arange(25.0)[:, None])
    found = module.bias()[0, 0]
    for query in range(9):
        for key in range(9):
            down, across = key // 3 - query // 3, key % 3 - query % 3
            assert found[query, key] == (down + 2) * 5 + across + 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": (4, 32)}, "image is 4x32, window 4; expected sides from 8"),
        ({"window": 1}, "window from 2"),
        ({"channels_per_head": 5}, "dim 16 does not divide into heads of 5"),
        ({"depths": (1,)}, "expected as many values"),
        ({"dialect": "jax"}, "expected tensorflow or torchvision"),
    ],
)
def test_what_cannot_be_built(changes, said):
    with pytest.raises(ConfigError, match=said):
        vitrail.create(SMALL, **changes)
