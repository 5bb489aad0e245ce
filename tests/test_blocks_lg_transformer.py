"""LG-Transformer: no outputs of the authors' code are known, so plain lines stand for it."""

import pytest
import torch

import vitrail
from vitrail.layers.windows import WindowAttention
from vitrail.models import resolve, swin
from vitrail.models.lg_transformer import Config, LocalToGlobal

SMALL = Config(
    dim=8, depths=(2, 2), heads=(2, 2), paths=(3, 1), window=4, image=(64, 64), classes=4
)


def scattered(module):
    torch.manual_seed(0)
    module.double().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    return module


def pooled(x):
    """Means of 2x2 positions, of those that there are at the last row and column."""
    h, w = x.shape[:2]
    rows = [
        torch.stack([x[i : i + 2, j : j + 2].mean((0, 1)) for j in range(0, w, 2)])
        for i in range(0, h, 2)
    ]
    return torch.stack(rows)


def spread(small, size):
    """Bilinear up-sampling of (h, w, C), pixels' centres half a pixel from their corners."""

    def weights(new, old):
        at = ((torch.arange(new).double() + 0.5) * old / new - 0.5).clamp(min=0)
        low = at.long().clamp(max=old - 1)
        high, part, lines = (low + 1).clamp(max=old - 1), at - low, torch.arange(new)
        matrix = torch.zeros(new, old, dtype=torch.float64)
        matrix[lines, low] += 1 - part
        matrix[lines, high] += part
        return matrix

    rows, columns = weights(size[0], small.shape[0]), weights(size[1], small.shape[1])
    return torch.einsum("ih,jw,hwc->ijc", rows, columns, small)


def attended(m: WindowAttention, x: torch.Tensor) -> torch.Tensor:
    """Window attention of one map (h, w, C) that unshifted windows cut without rest."""
    h, w, c = x.shape
    out, t, width = torch.empty_like(x), m.window, c // m.heads
    for top in range(0, h, t):
        for left in range(0, w, t):
            tokens = x[top : top + t, left : left + t].reshape(-1, c)
            q, k, v = (tokens @ m.qkv.weight.T + m.qkv.bias).split(c, 1)
            found = []
            for head in range(m.heads):
                s = slice(head * width, (head + 1) * width)
                logits = q[:, s] @ k[:, s].T * width**-0.5
                for a in range(t * t):
                    for b in range(t * t):
                        dy, dx = a // t - b // t + t - 1, a % t - b % t + t - 1
                        logits[a, b] += m.bias.table[dy * (2 * t - 1) + dx, head]
                found.append(torch.softmax(logits, 1) @ v[:, s])
            rows = torch.cat(found, 1) @ m.proj.weight.T + m.proj.bias
            out[top : top + t, left : left + t] = rows.view(t, t, c)
    return out


@pytest.mark.parametrize("size", [(8, 8), (16, 8)])
def test_paths_in_plain_lines(size):
    grids = [(size[0] // 2**p, size[1] // 2**p) for p in range(3)]
    module = scattered(
        LocalToGlobal([WindowAttention(6, 2, window=g[1], shifted=False, grid=g) for g in grids])
    )
    x = torch.randn(2, *size, 6, dtype=torch.float64)
    with torch.no_grad():
        for image, found in zip(x, module(x), strict=True):
            half = pooled(image)
            expected = attended(module.paths[0], image)
            expected = expected + spread(attended(module.paths[1], half), size)
            expected = expected + spread(attended(module.paths[2], pooled(half)), size)
            assert (found - expected).abs().max() <= 1e-12


def test_odd_maps():
    """Copies of an odd map have its mean at the border of the positions that there are."""
    seen = []

    class Path(torch.nn.Module):
        def forward(self, x):
            seen.append(x)
            return x

    x = torch.randn(1, 7, 5, 3, dtype=torch.float64)
    found = LocalToGlobal([Path(), Path(), Path()])(x)[0]
    assert [tuple(s.shape[1:3]) for s in seen] == [(7, 5), (4, 3), (2, 2)]
    half = pooled(x[0])
    assert (seen[2][0] - pooled(half)).abs().max() <= 1e-12
    expected = x[0] + spread(half, (7, 5)) + spread(pooled(half), (7, 5))
    assert (found - expected).abs().max() <= 1e-12


def test_without_its_coarse_paths_it_is_swin():
    model = scattered(vitrail.create(SMALL))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".proj." in name and "paths." in name and "paths.0." not in name:
                p.zero_()
    state = {
        name.replace(".paths.0", ""): value
        for name, value in model.state_dict().items()
        if "paths." not in name or "paths.0." in name
    }
    plain = {n: getattr(SMALL, n) for n in swin.Config.__dataclass_fields__}
    twin = vitrail.load(swin.Config(**plain), state, dtype=torch.float64)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        assert (model(x) - twin(x)).abs().max() <= 1e-12


def test_every_stage_ends_in_one_window():
    """At 224 pixels the coarsest path of every stage is global, and is never shifted."""
    with torch.device("meta"):
        model = vitrail.create("lg_transformer_tiny")
    for stage, paths in zip(model.stages, (4, 3, 2, 1), strict=True):
        for j, block in enumerate(stage.blocks):
            own = block.mixer.paths
            assert len(own) == paths and own[-1].unshifted == (7, 7)
            assert [p.shift for p in own] == [3 * (j % 2)] * paths
    assert model.state_dict()["stages.0.blocks.1.mixer.paths.3.bias.table"].shape == (169, 3)


def test_another_size():
    """Bias tables are resampled where a path's window changes with the image."""
    model = scattered(vitrail.create(SMALL))
    moved = vitrail.load(SMALL, model.state_dict(), image=(40, 32), dtype=torch.float64)
    tables = [p.bias.table for p in moved.stages[0].blocks[0].mixer.paths]
    assert [len(t) for t in tables] == [49, 49, 9]
    assert torch.equal(tables[0], model.stages[0].blocks[0].mixer.paths[0].bias.table)
    with torch.no_grad():
        assert moved(torch.randn(1, 3, 40, 32, dtype=torch.float64)).isfinite().all()


def test_refusals():
    with pytest.raises(vitrail.errors.ConfigError, match="16x16; the last of 3 paths"):
        vitrail.create(SMALL, image=(16, 16))
    with pytest.raises(vitrail.errors.ConfigError, match="expected as many values"):
        vitrail.create(resolve(SMALL, paths=(2, 1, 1)))
