"""LESA in plain lines, the authors' layer of detectors, folding, image sizes, bad input."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support import golden
from support.scatter import scattered

import vitrail
from vitrail.checkpoint import rename
from vitrail.errors import ConfigError
from vitrail.layers.fold import deploy
from vitrail.models import lesa
from vitrail.models.lesa import LESA, Config, FlatPosition
from vitrail.models.names import lesa as names
from vitrail.models.parts.lesa_fusion import HiddenConvs
from vitrail.models.trunk.fitting import fitted

BLOCKS = Path(__file__).parent / "goldens/blocks"
SMALL = Config(
    dims=(8, 16, 32),
    depths=(1, 2, 2),
    strides=(2, 1),
    expansion=2,
    stem_stride=2,
    groups=2,
    image=(32, 32),
    classes=3,
)


def test_detection_golden():
    """The authors' layer alone, with the positions of their detectors."""
    expected = golden.read(BLOCKS / "lesa_block_detection_qr.json")
    rows = [(".mixer.", "")]
    named = {f".{k}": v for k, v in golden.state(expected).items()}
    state = {k.removeprefix("."): v for k, v in rename(named, [*names.layer(), *rows]).items()}
    m = LESA(64, 8, grid=(12, 12), position="axes").double().eval()
    missing = m.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert all(k.endswith("num_batches_tracked") for k in missing.missing_keys)
    x = golden.image(expected["input_shape"])
    with torch.no_grad():
        for layer in (m, deploy(m)):
            assert golden.deviation(layer(x), expected["outputs"]["logits"]) <= 1e-6


def plain(m, x):
    """One map (C, h, w): the binary term pair by pair, then the gate."""
    c, h, w = x.shape
    n, g, d = h * w, m.groups, m.key_width
    c = 2 * g * d
    tokens = x.flatten(1).T
    q, k, v = m.qkv(tokens).view(n, g, -1).split((d, d, 2 * d), 2)
    table = m.position.table
    norm, out = m.similarity.norm, torch.zeros(n, c, 2, dtype=x.dtype)
    for group in range(g):
        logits = torch.zeros(3, n, n, dtype=x.dtype)
        for i in range(n):
            for j in range(n):
                one, other = table[:, i - j + n - 1], table[:, j - i + n - 1]
                logits[0, i, j] = q[i, group] @ k[j, group]
                logits[1, i, j] = q[i, group] @ one[:d]
                logits[2, i, j] = k[j, group] @ other[d : 2 * d]
        at = [group + g * t for t in range(3)]
        scale = norm.weight[at] / (norm.running_var[at] + norm.eps).sqrt()
        centred = logits - norm.running_mean[at][:, None, None]
        normed = centred * scale[:, None, None] + norm.bias[at][:, None, None]
        a = normed.sum(0).softmax(1)
        channels = slice(group * 2 * d, (group + 1) * 2 * d)
        out[:, channels, 0] = a @ v[:, group]
        for i in range(n):
            for j in range(n):
                out[i, channels, 1] += a[i, j] * table[2 * d :, i - j + n - 1]
    binary = m.output.norm(out.flatten(1)).view(n, c, 2).sum(2)
    unary = m.unary(x[None])[0].flatten(1).T
    hidden = torch.cat([unary, binary], 1).relu()
    if isinstance(m.hidden, HiddenConvs):
        hidden = hidden.T.view(1, -1, h, w)
        for layer in m.hidden.convs:
            kernel = layer.conv.weight
            groups, side = layer.conv.groups, kernel.shape[2]
            hidden = F.conv2d(hidden, kernel, None, 1, side // 2, 1, groups)
            hidden = layer.norm(hidden).relu()
        hidden = hidden[0].flatten(1).T
    else:
        hidden = m.hidden(hidden).relu()
    return (unary + m.gate(hidden).sigmoid() * binary).T.view(c, h, w)


@pytest.mark.parametrize("grid", [(3, 4), (1, 2), (1, 1)], ids=str)
def test_flat_positions_in_plain_lines(grid):
    m = scattered(LESA(8, 2, grid=grid))
    x = torch.randn(2, 8, *grid, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([plain(m, one) for one in x])
        assert torch.allclose(m(x), expected, atol=1e-12)
        assert torch.allclose(deploy(m)(x), expected, atol=1e-12)


@pytest.mark.parametrize("dim_in", [4, 8, 12])
@pytest.mark.parametrize(
    "fusion", [((2, 1, 1),), ((2, 3, 2),), ((1, 1, 1), (4, 5, 2)), ()], ids=str
)
def test_other_widths_and_fusions_in_plain_lines(fusion, dim_in):
    m = scattered(LESA(8, 2, grid=(3, 4), dim_in=dim_in, fusion=fusion))
    x = torch.randn(2, dim_in, 3, 4, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([plain(m, one) for one in x])
        assert expected.shape == (2, 8, 3, 4)
        assert torch.allclose(m(x), expected, atol=1e-12)
        assert torch.allclose(deploy(m)(x), expected, atol=1e-12)


def test_names_of_other_fusions():
    """Hidden layers are counted with their activations, as the authors' modules are."""
    config = Config(**{**vars(SMALL), "fusion": ((2, 3, 2), (2, 1, 1))})
    state = scattered(vitrail.create(config)).state_dict()
    ours = "stages.1.blocks.1.mixer."
    theirs = {
        "reasoning.1.weight": "hidden.convs.0.conv.weight",
        "reasoning.2.weight": "hidden.convs.0.norm.weight",
        "reasoning.4.weight": "hidden.convs.1.conv.weight",
        "reasoning.5.running_var": "hidden.convs.1.norm.running_var",
    }
    given = {f"layer2.1.conv2.{n}": state[f"{ours}{own}"] for n, own in theirs.items()}
    named = rename(given, lesa.NAMES["Chenglin-Yang/LESA_classification"](config))
    assert named.keys() == {f"{ours}{own}" for own in theirs.values()}
    assert all(torch.equal(value, state[name]) for name, value in named.items())


def test_flat_positions_wrap_rows():
    """The last of a row and the first of the next are neighbours, as the paper's code has it."""
    position = FlatPosition((2, 3), 2, 4).double()
    q = torch.ones(1, 1, 6, 2, dtype=torch.float64)
    with torch.no_grad():
        asked, told = position.terms(q, q, (2, 3))
    assert torch.equal(asked[0, 0, 2, 3], asked[0, 0, 0, 1])
    assert torch.equal(told[0, 0, 2, 3], told[0, 0, 0, 1])


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("position", ["flat", "axes"])
@pytest.mark.parametrize("stride", [1, 2])
def test_deployed(position, stride, groups):
    m = scattered(LESA(16, groups, grid=(4, 4), position=position, stride=stride))
    folded = deploy(m)
    norms = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)
    assert not any(isinstance(x, norms) for x in folded.modules())
    with torch.no_grad():
        for size in ((4, 4), (3, 7)):
            x = torch.randn(2, 16, *size, dtype=torch.float64)
            found = m(x)
            assert found.shape[2:] == tuple(-(-s // stride) for s in size)
            assert torch.allclose(folded(x), found, atol=1e-12)
            assert torch.allclose(m.weights(x), folded.weights(x), atol=1e-12)


def test_where_it_stands():
    """In the last two stages but for the first block of the two, without a norm behind it."""
    model = vitrail.create(SMALL)
    blocks = [[isinstance(b.mixer, LESA) for b in stage.blocks] for stage in model.stages]
    assert blocks == [[False], [False, True], [True, True]]
    assert [level.stride for level in model.levels] == [2, 4, 4]
    for stage in model.stages:
        for block in stage.blocks:
            assert isinstance(block.norm, torch.nn.Identity) == isinstance(block.mixer, LESA)


@pytest.mark.parametrize("position", ["flat", "axes"])
def test_other_images(position):
    """Tables moved on loading compute what the model computes on the way."""
    model = scattered(vitrail.create(SMALL, position=position))
    moved = vitrail.load(model.config, model.state_dict(), image=(48, 32), dtype=torch.float64)
    x = torch.randn(1, 3, 48, 32, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(model(x), moved(x), atol=1e-12)
    assert fitted(model.config, model.state_dict(), lesa).image == (32, 32)
    square = vitrail.create(SMALL, position=position, image=(64, 64))
    assert fitted(model.config, square.state_dict(), lesa).image == (64, 64)


def test_what_cannot_be_built():
    for changes, said in (
        ({"fusion": ((2, 2, 1),)}, "fusion has kernel 2, width 16 of 32"),
        ({"fusion": ((2, 1, 3),)}, "groups 3: expected an odd kernel, and groups that divide"),
        ({"groups": 3}, "dim 16 does not divide into 3 groups"),
        ({"groups": 0}, "groups is 0: expected at least 1"),
        ({"position": "sine"}, "position is 'sine': expected flat or axes"),
        ({"strides": (2,)}, "differ in length"),
    ):
        with pytest.raises(ConfigError, match=said):
            vitrail.create(SMALL, **changes)
