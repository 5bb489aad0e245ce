"""CSWin for segmentation, stripes in plain lines, and what moves between image sizes."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support import golden
from support.scatter import scattered

import vitrail
from vitrail.checkpoint import assign, rename
from vitrail.errors import ConfigError
from vitrail.models import cswin
from vitrail.models.cswin import Config, Stripes

SMALL = Config(
    dim=8, depths=(1, 2, 1), heads=(2, 2, 2), stripes=(1, 3, 7), image=(64, 64), classes=3
)


def test_segmentation_golden():
    """Maps of the authors' segmentation backbone, whose norms at the four levels stand outside."""
    expected = golden.read(Path(__file__).parent / "goldens/blocks/cswin_seg_tiny_152x200.json")
    state = golden.state(expected)
    norms = [[state.pop(f"norm{i}.{leaf}") for leaf in ("weight", "bias")] for i in range(1, 5)]
    model = vitrail.create("cswin_tiny", image=(152, 200)).double().eval()
    tail = {k: v for k, v in model.state_dict().items() if k.startswith(("norm.", "head."))}
    (rows,) = cswin.NAMES.values()
    assign(model, rename(state, rows) | tail, dtype=torch.float64)
    with torch.no_grad():
        maps = model.features(golden.image(expected["input_shape"]))
    for i, (x, norm) in enumerate(zip(maps, norms, strict=True)):
        found = F.layer_norm(x, x.shape[-1:], *norm).permute(0, 3, 1, 2)
        assert golden.deviation(found, expected["outputs"][f"stage{i + 1}"]) <= 1e-6


def plain(m, qkv):
    """One map (h, w, 3, C), stripe by stripe, position by position of LePE."""
    h, w, _, c = qkv.shape
    tall, wide = (h, m.width) if m.vertical else (m.width, w)
    if m.width == 0:
        tall, wide = h, w
    above, left = (-h % tall) // 2, (-w % wide) // 2
    padded = torch.zeros(h + -h % tall, w + -w % wide, 3, c, dtype=qkv.dtype)
    padded[above : above + h, left : left + w] = qkv
    out = torch.zeros(*padded.shape[:2], c, dtype=qkv.dtype)
    d = c // m.heads
    for top in range(0, padded.shape[0], tall):
        for side in range(0, padded.shape[1], wide):
            stripe = padded[top : top + tall, side : side + wide]
            q, k, v = stripe.reshape(-1, 3, c).unbind(1)
            parts = [slice(n * d, (n + 1) * d) for n in range(m.heads)]
            heads = [(q[:, p] @ k[:, p].T / d**0.5).softmax(1) @ v[:, p] for p in parts]
            image = stripe[:, :, 2].permute(2, 0, 1)[None]
            lepe = F.conv2d(image, m.lepe.weight, m.lepe.bias, padding=1, groups=c)
            found = torch.cat(heads, 1).view(tall, wide, c) + lepe[0].permute(1, 2, 0)
            out[top : top + tall, side : side + wide] = found
    return out[above : above + h, left : left + w]


@pytest.mark.parametrize("vertical", [True, False])
@pytest.mark.parametrize("width", [0, 1, 2, 3])
def test_stripes_in_plain_lines(width, vertical):
    m = scattered(Stripes(4, 2, width=width, vertical=vertical and width > 0))
    qkv = torch.randn(2, 5, 7, 3, 4, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([plain(m, one) for one in qkv])
        assert torch.allclose(m(qkv), expected, atol=1e-12)


def test_other_sizes_fit_levels():
    model = vitrail.create(SMALL).eval()
    with torch.no_grad():
        for h, w in ((200, 333), (57, 90), (16, 16)):
            for x, level in zip(model.features(torch.randn(1, 3, h, w)), model.levels, strict=True):
                assert x.shape[1:3] == (-(-h // level.stride), -(-w // level.stride))


def test_moved_to_an_image_with_other_branches():
    """At 24x24 the second stage's map is as large as a stripe is wide: LePE is joined, and back."""
    model = scattered(vitrail.create(SMALL))
    small = vitrail.load(SMALL, model.state_dict(), image=(24, 24), dtype=torch.float64)
    assert [len(s.blocks[0].mixer.branches) for s in small.stages] == [2, 1, 1]
    again = vitrail.load(small.config, small.state_dict(), image=(64, 64), dtype=torch.float64)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_what_cannot_be_built():
    for changes, said in (
        ({"image": (8, 8)}, "image is 8x8"),
        ({"heads": (2, 3, 2)}, "multiple of 2 heads"),
        ({"heads": (2, 2)}, "expected as many values"),
    ):
        with pytest.raises(ConfigError, match=said):
            vitrail.create(SMALL, **changes)
