"""CvT against transformers with the same random weights, and its shortcuts against plain code."""

from dataclasses import replace

import pytest
import torch
from agree import difference
from support.peers import transformers
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import vitrail
from vitrail.models.cvt import Config, ConvAttention

SMALL = Config(dims=(8, 16, 24), depths=(1, 2, 3), heads=(1, 2, 3), classes=7)


class Quick(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


def peer(ours: Config) -> nn.Module:
    """transformers' CvT computes the exact GELU; the authors' code, and ours, QuickGELU."""
    config = transformers.CvtConfig(
        embed_dim=ours.dims,
        depth=ours.depths,
        num_heads=ours.heads,
        num_labels=ours.classes,
    )
    model = transformers.CvtForImageClassification(config)
    exact = [m for m in model.modules() if hasattr(m, "activation")]
    assert len(exact) == sum(ours.depths)
    for m in exact:
        m.activation = Quick()
    return model


@pytest.mark.parametrize("image", [(64, 64), (57, 90)])
def test_transformers(image):
    assert difference(peer(SMALL), SMALL, "transformers", image, lambda y: y.logits) <= 1e-6


def test_last_map():
    """The map of the last stage holds all patches, though the logits need the token alone."""
    theirs = peer(SMALL).double().eval()
    ours = vitrail.load(SMALL, theirs.state_dict(), source="transformers", dtype=torch.float64)
    x = torch.randn(2, 3, 70, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs.cvt(x).last_hidden_state
        found = ours.features(x)[-1].permute(0, 3, 1, 2)
    assert (expected - found).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("projections", [("conv",) * 3, ("avg", "linear", "avg")])
def test_token_alone(projections):
    """Computing the class token's row only gives what computing all rows gives."""
    model = vitrail.create(replace(SMALL, projections=projections, drop_path=0.0)).double().eval()
    x = torch.randn(2, 3, 48, 64, dtype=torch.float64)
    with torch.no_grad():
        maps = model.features(x, at=[1])
        rows, grid = model.stages[-1].tokens(maps[0], False)
        assert rows.shape[1] == 1 + grid[0] * grid[1]
        expected = model.head(model.norm(rows)[:, 0])
        assert (expected - model(x)).abs().max() <= 1e-12


def test_attention_in_plain_lines():
    """One token and one head at a time, a convolution as nine products, batch statistics."""
    torch.manual_seed(0)
    mixer, (h, w) = ConvAttention(6, 2).double().eval(), (3, 4)
    x = torch.randn(1, 1 + h * w, 6, dtype=torch.float64)

    def seen(conv, stride):
        kernel, rows = conv.conv.weight[:, 0], [x[0, 0]]
        for i in range(0, h, stride):
            for j in range(0, w, stride):
                near = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
                near = [(a, b) for a, b in near if 0 <= i + a < h and 0 <= j + b < w]
                total = sum(
                    kernel[:, a + 1, b + 1] * x[0, 1 + (i + a) * w + j + b] for a, b in near
                )
                rows.append(total / (1 + 1e-5) ** 0.5)  # a fresh BatchNorm
        return torch.stack(rows)

    with torch.no_grad():
        q, k, v = (
            linear(seen(conv, stride))
            for linear, conv, stride in [
                (mixer.q, mixer.q_map, 1), (mixer.k, mixer.k_map, 2), (mixer.v, mixer.v_map, 2)
            ]
        )  # fmt: skip
        out = [
            torch.softmax(q[:, s] @ k[:, s].T / 6**0.5, 1) @ v[:, s]
            for s in (slice(0, 3), slice(3, 6))
        ]
        expected = mixer.proj(torch.cat(out, 1))
        assert (mixer(x, (h, w))[0] - expected).abs().max() <= 1e-12
        assert (mixer(x, (h, w), True)[0] - expected[:1]).abs().max() <= 1e-12
        assert mixer.weights(x, (h, w)).shape == (1, 2, 1 + h * w, 1 + 2 * 2)


@pytest.mark.parametrize(("name", "macs_g"), [("cvt_13", 4.57), ("cvt_21", 7.18)])
def test_operations_of_all_rows(name, macs_g):
    """The whole network costs what is published; only the logits cost less."""
    with torch.device("meta"):
        model, x = vitrail.create(name).eval(), torch.empty(1, 3, 224, 224)
    with torch.no_grad(), FlopCounterMode(display=False) as all_rows:
        model.features(x)
    with torch.no_grad(), FlopCounterMode(display=False) as logits:
        model(x)
    assert all_rows.get_total_flops() / 2e9 == pytest.approx(macs_g, rel=2e-3)
    assert 0.92 < logits.get_total_flops() / all_rows.get_total_flops() < 0.97
