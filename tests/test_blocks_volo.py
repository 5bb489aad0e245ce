"""Outlook attention in plain lines, what class blocks leave alone, and images of any size."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support import golden
from support.scatter import scattered
from torch import nn

import vitrail
from vitrail.errors import ConfigError
from vitrail.layers.fold import deploy
from vitrail.models import volo
from vitrail.models.trunk.fitting import fitted
from vitrail.models.volo import Config, OutlookAttention

BLOCKS = Path(__file__).parent / "goldens/blocks"
SMALL = Config(
    dims=(8, 16),
    heads=(2, 2),
    depths=(2, 1, 1),
    stem=4,
    patch=4,
    drop_path=0.3,
    image=(48, 40),
    classes=3,
)


def test_outlook_golden():
    """The authors' layer on a map of odd height; the file's tensors are channels first."""
    expected = golden.read(BLOCKS / "volo_outlook_attention_13x10.json")
    layer = OutlookAttention(24, 3).double()
    state = golden.state(expected)
    layer.load_state_dict({n.replace("attn.", "logits."): v for n, v in state.items()})
    with torch.no_grad():
        found = layer(golden.image(expected["input_shape"]).permute(0, 2, 3, 1))
    assert golden.deviation(found.permute(0, 3, 1, 2), expected["outputs"]["logits"]) <= 1e-6


def plain(m, x):
    """One map (h, w, C), centre by centre and head by head."""
    h, w, c = x.shape
    d, k, v, out = c // m.heads, m.kernel, m.v(x), torch.zeros_like(x)
    for top in range(0, h, m.stride):
        for left in range(0, w, m.stride):
            cell = x[top : top + m.stride, left : left + m.stride].reshape(-1, c).mean(0)
            maps = (m.logits(cell).view(m.heads, k * k, k * k) / d**0.5).softmax(-1)
            places = [(top + i - k // 2, left + j - k // 2) for i in range(k) for j in range(k)]
            inside = [0 <= y < h and 0 <= z < w for y, z in places]
            seen = torch.stack(
                [
                    v[at] if ok else torch.zeros(c).to(v)
                    for at, ok in zip(places, inside, strict=True)
                ]
            )
            for n in range(m.heads):
                part = slice(n * d, (n + 1) * d)
                for at, ok, row in zip(places, inside, maps[n] @ seen[:, part], strict=True):
                    if ok:
                        out[at][part] += row
    return m.proj(out)


@pytest.mark.parametrize("size", [(6, 4), (5, 7), (1, 2), (1, 1)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (3, 1), (5, 1), (5, 2), (5, 3), (1, 1)])
def test_outlook_in_plain_lines(kernel, stride, size):
    m = scattered(OutlookAttention(6, 2, kernel=kernel, stride=stride), 0.3)
    x = torch.randn(2, *size, 6, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([plain(m, one) for one in x])
        assert torch.allclose(m(x), expected, atol=1e-12)
        rows = m.weights(x)
    centres = -(-size[0] // stride) * -(-size[1] // stride)
    assert rows.shape == (2, 2, centres * kernel**2, kernel**2)
    assert torch.allclose(rows.sum(-1), torch.ones(()).double())


def test_outlook_is_differentiable():
    m = scattered(OutlookAttention(4, 2), 0.3)
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(m, x)


def test_patches_pass_the_class_blocks():
    """They are read and stay as they are; only the last norm is theirs, too."""
    model = scattered(vitrail.create(SMALL), 0.3)
    x = torch.randn(2, 3, 48, 40, dtype=torch.float64)
    with torch.no_grad():
        tokens, maps = model.tokens(x), model.features(x)
        assert torch.allclose(tokens[:, 1:], model.pool.norm(maps[-1]).flatten(1, 2))
        assert torch.equal(tokens[:, 0], model.embedding(x))


def test_two_heads_answer_and_another_may_take_their_place():
    model = scattered(vitrail.create(SMALL), 0.3)
    x = torch.randn(2, 3, 48, 40, dtype=torch.float64)
    with torch.no_grad():
        whole, patches = model.dense(x)
        assert whole.shape == (2, 3) and patches.shape == (2, 6 * 5, 3)
        assert torch.allclose(model(x), whole + patches.max(1).values / 2)
        model.head = nn.Linear(16, 5).double()
        assert torch.allclose(model(x), model.head(model.embedding(x)))


def test_the_mean_is_of_all_tokens():
    model = scattered(vitrail.create(SMALL, answer="mean"), 0.3)
    x = torch.randn(2, 3, 48, 40, dtype=torch.float64)
    with torch.no_grad():
        expected = model.tokens(x).sum(1) / 31
        assert torch.allclose(model.embedding(x), expected)
        assert torch.allclose(model(x), model.head(expected))
    assert not any("patches" in name for name in model.state_dict())


def test_outlookers_are_never_dropped():
    model = vitrail.create(SMALL)
    rates = [[b.drop_path.rate for b in stage.blocks] for stage in model.stages]
    assert rates[0] == [0, 0] and rates[1] == pytest.approx([0.2, 0.3])


def test_other_sizes_round_up():
    model = vitrail.create(SMALL).eval()
    with torch.no_grad():
        for h, w in ((200, 333), (9, 57), (8, 8)):
            for x, level in zip(model.features(torch.randn(1, 3, h, w)), model.levels, strict=True):
                assert x.shape[1:3] == (-(-h // level.stride), -(-w // level.stride))


def test_positions_move_and_tell_the_image():
    model = scattered(vitrail.create(SMALL), 0.3)
    moved = vitrail.load(SMALL, model.state_dict(), image=(64, 96), dtype=torch.float64)
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(moved(x), model(x))
    assert fitted(SMALL, moved.state_dict(), volo).image == (64, 96)
    assert fitted(SMALL, model.state_dict(), volo).image == SMALL.image


def test_odd_maps_are_exported(tmp_path):
    """The cells of the last centres are smaller: a mean that runtimes differ in."""
    import onnxruntime

    model = deploy(vitrail.create(SMALL, image=(37, 50)))
    x = torch.randn(2, 3, 37, 50)
    torch.onnx.export(model, (x,), tmp_path / "m.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        assert np.abs(found - model(x).numpy()).max() <= 1e-5


def test_what_cannot_be_built():
    for changes, said in (
        ({"answer": "max"}, "answer is 'max': expected dense, token or mean"),
        ({"kernel": 4}, "kernel is 4, stride 2: expected an odd kernel"),
        ({"stride": 3}, "kernel is 3, stride 3"),
        ({"patch": 3}, "patch is 3"),
        ({"image": (48, 7)}, "image is 48x7; volo with a patch of 4 needs 8 pixels"),
        ({"heads": (3, 2)}, "does not divide into 3 heads"),
        ({"heads": (2, 3)}, "does not divide into 3 heads"),
        ({"depths": (2,)}, "of depths two or more"),
        ({"dims": (8, 16, 32)}, "two entries are expected"),
    ):
        with pytest.raises(ConfigError, match=said):
            vitrail.create(SMALL, **changes)


def test_images_that_do_not_fit():
    model = vitrail.create(SMALL)
    with pytest.raises(ValueError, match="image is 7x40; volo with a patch of 4 needs 8 pixels"):
        model(torch.zeros(1, 3, 7, 40))
    with pytest.raises(ValueError, match=r"this volo takes \(B, 3, H, W\)"):
        model(torch.zeros(1, 1, 48, 40))
