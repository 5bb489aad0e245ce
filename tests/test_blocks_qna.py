"""QnA against a slow twin that gathers, its limits, windows of attention, and Flax files."""

import msgpack
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import golden

import vitrail
from vitrail.checkpoint import rename
from vitrail.errors import ConfigError
from vitrail.layers.fold import deploy
from vitrail.models.parts.learned_queries import FLOOR, PooledConv, QnA, Reader
from vitrail.models.qna import NAMES, Config, EqualWindows, LocalAttention
from vitrail.models.trunk.fitting import fitted

SMALL = Config(
    dim=16, qna=(1, 2, 0), lsa=(0, 1, 2), qna_heads=(2, 4, 8), lsa_heads=(1, 2, 4),
    windows=(3, 4, 3), image=(64, 64), classes=3,
)  # fmt: skip


def random(module, dtype=torch.float64):
    torch.manual_seed(0)
    module.to(dtype).eval()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return module


def gathered(m, x):
    """Position by position: keys, softmax over those inside of the map, weights, values."""
    height, width = x.shape[1:3]
    heads, side, margin = m.heads, m.kernel, m.kernel // 2
    q = m.query.unflatten(1, (heads, -1))
    q = q / (q.norm(dim=2, keepdim=True) + 1e-6)
    keys = (x @ m.key.mT).unflatten(3, (heads, -1))
    values = m.value(x).unflatten(3, (heads, -1))
    position, share = (p.view(side**2, m.queries, heads) for p in (m.position, m.share))
    rows = []
    for y in range(0, height, m.stride):
        for z in range(0, width, m.stride):
            near = [
                (u, y + u // side - margin, z + u % side - margin)
                for u in range(side**2)
                if 0 <= y + u // side - margin < height and 0 <= z + u % side - margin < width
            ]
            k, v = (torch.stack([a[:, i, j] for _, i, j in near], 1) for a in (keys, values))
            own = [u for u, _, _ in near]
            logits = torch.einsum("nhd,bshd->bsnh", q, k) / q.shape[2] ** 0.5 + position[own]
            weights = logits.softmax(1) * share[own]
            rows.append(torch.einsum("bsnh,bshd->bhd", weights, v).flatten(1))
    grid = (len(range(0, height, m.stride)), len(range(0, width, m.stride)))
    return m.proj(torch.stack(rows, 1).unflatten(1, grid))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("queries", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_equals_gathering(kernel, queries, stride):
    m = random(QnA(6, 8, 2, kernel=kernel, queries=queries, stride=stride))
    for grid in ((5, 8), (1, 2), (6, 3)):
        x = torch.randn(2, *grid, 6, dtype=torch.float64)
        with torch.no_grad():
            expected = gathered(m, x)
            assert torch.allclose(m(x), expected, atol=1e-12)
            assert torch.allclose(deploy(m)(x), expected, atol=1e-12)


def test_gradients_equal_gathering():
    m = random(QnA(6, 8, 2, kernel=3, stride=2))
    x = torch.randn(2, 5, 4, 6, dtype=torch.float64, requires_grad=True)
    wanted = [x, *m.parameters()]
    found, expected = (
        torch.autograd.grad(f(x).square().sum(), wanted) for f in (m, lambda x: gathered(m, x))
    )
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-10)


def test_whole_map_is_ordinary_attention_of_fixed_queries():
    """The centre of a window as large as the map sees all of it."""
    m = random(QnA(6, 8, 2, kernel=5, queries=2))
    with torch.no_grad():
        m.share.fill_(1.0)
        m.position.zero_()
        x = torch.randn(2, 5, 5, 6, dtype=torch.float64)
        q = F.normalize(m.query.view(2, 2, 4), dim=2).transpose(0, 1)  # head, query, channel
        tokens = x.flatten(1, 2)
        k, v = (
            t.unflatten(2, (2, 4)).transpose(1, 2) for t in (tokens @ m.key.mT, m.value(tokens))
        )
        read = F.scaled_dot_product_attention(q.expand(2, -1, -1, -1), k, v)
        expected = m.proj(read.sum(2).flatten(1))
        assert torch.allclose(m(x)[:, 2, 2], expected, atol=1e-5)


def test_plain_shares_make_means():
    """With shares of one and no positions a query reads a mean of values: constant stays so."""
    m = random(QnA(4, 4, 2, kernel=3, queries=1))
    with torch.no_grad():
        m.share.fill_(1.0)
        for layer in (m.value, m.proj):
            layer.weight.copy_(torch.eye(4))
        x = torch.rand(1, 6, 6, 4, dtype=torch.float64)
        assert (m(x) <= x.amax((1, 2)) + 1e-12).all() and (m(x) >= x.amin((1, 2)) - 1e-12).all()
        assert torch.allclose(m(torch.full_like(x, 0.3)), torch.full_like(x, 0.3))


def test_weights_are_what_is_applied():
    m = random(QnA(6, 8, 2, kernel=3, queries=2, stride=2))
    x = torch.randn(2, 5, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        weights = m.weights(x)
        assert weights.shape == (2, 4, 9, 9)
        assert torch.allclose(weights.sum(-1), torch.ones((), dtype=torch.float64))
        assert (weights[:, :, 0, [0, 1, 2, 3, 6]] == 0).all()  # beyond the corner
        values = F.unfold(m.value(x).permute(0, 3, 1, 2), 3, padding=1, stride=2)
        values = values.view(2, 1, 2, 4, 9, 9)  # batch, query, head, channel, offset, place
        applied = (weights * m.share.mT[:, None]).unflatten(1, (2, 2)).transpose(3, 4)
        out = (values * applied[:, :, :, None]).sum((1, 4)).flatten(1, 2).mT
        assert torch.allclose(m.proj(out).view(2, 3, 3, 8), m(x), atol=1e-12)


def sharp(m, size):
    """Make the scores of `m` span about `size`: as they are, such would overflow or vanish."""
    with torch.no_grad():
        m.key.mul_(size)
        m.share.add_(1.0)
    return m


@pytest.mark.parametrize("size", [1.0, 10.0, 1e3, 1e5])
def test_scores_of_any_size_are_finite(size):
    m = sharp(random(QnA(6, 8, 2, kernel=3), torch.float32), size)
    x = torch.randn(2, 7, 9, 6, requires_grad=True)
    out = m(x)
    out.square().sum().backward()
    assert out.isfinite().all() and x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in m.parameters())
    with torch.no_grad():
        m.position.mul_(size)
        assert m(x).isfinite().all() and deploy(m)(x).isfinite().all()
    assert m.bfloat16()(x.bfloat16()).isfinite().all()


def test_scores_beyond_what_exp_can_take():
    """A common offset of all scores, on which softmax does not depend, overflows a bare exp."""
    m = random(QnA(3, 4, 1, kernel=3, queries=1), torch.float32)
    x = torch.randn(1, 6, 6, 3)
    x[..., 2] = 1.0
    with torch.no_grad():
        m.key[:, 2] = 400.0 * m.query[0]
        assert F.linear(x, m._scores()).amin() > 100
        expected = gathered(m.double(), x.double())
        found = m.float()(x)
    assert torch.allclose(found.double(), expected, atol=1e-3)


def test_floor_is_below_what_float32_sees():
    assert np.exp(FLOOR) < 0.01 * np.finfo(np.float32).eps


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 2)])
def test_pooled_skip_in_plain_lines(size, kernel):
    """Flax's SAME: of an odd number of zeros the larger half is behind; all are counted."""
    m = random(PooledConv(4, 6, kernel))
    x = torch.randn(2, *size, 4, dtype=torch.float64)
    with torch.no_grad():
        found = m(x)
    grid = [-(-n // 2) for n in size]
    before = [max((g - 1) * 2 + kernel - n, 0) // 2 for g, n in zip(grid, size, strict=True)]
    assert list(found.shape[1:3]) == grid
    for y in range(grid[0]):
        for z in range(grid[1]):
            top, left = 2 * y - before[0], 2 * z - before[1]
            inside = x[:, max(top, 0) : top + kernel, max(left, 0) : left + kernel]
            mean = inside.sum((1, 2)) / kernel**2
            assert torch.allclose(found[:, y, z], mean @ m.weight.flatten(1).mT, atol=1e-12)


@pytest.mark.parametrize("added", [True, False])
def test_reading_a_whole_map_is_the_layer_at_its_centre(added):
    """The authors' head is their layer with a kernel of the map, without padding."""
    layer = random(QnA(8, 8, 2, kernel=5, queries=2))
    m = Reader(8, 2, 5, added=added).double()
    m.load_state_dict(layer.state_dict())
    x = torch.randn(2, 5, 5, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = gathered(layer, x)[:, 2, 2] + (x.mean((1, 2)) if added else 0)
        assert torch.allclose(m(x), expected, atol=1e-12)
        assert torch.allclose(m.weights(x).sum(-1), torch.ones(()).double())


@pytest.mark.parametrize("pool", ["qna", "both"])
def test_a_network_that_reads_its_last_map(pool):
    """Other skips and heads under Flax's names; tables move and tell the image."""
    model = random(vitrail.create(SMALL, skip="pool", pool=pool))
    state, config = model.state_dict(), model.config
    theirs = {
        "params/QnAStage_0/QnA_Block_2_stride_2/AvgPool1x1Conv_0/Conv_0/kernel": (
            "stages.1.down.skip.weight"
        ),
        "params/ClassificationHead_0/FusedKQnA_0/query": "pool.query",
        "params/ClassificationHead_0/FusedKQnA_0/Wk": "pool.key",
        "params/ClassificationHead_0/FusedKQnA_0/rpe_bias": "pool.position",
        "params/ClassificationHead_0/FusedKQnA_0/attn_scale_weights": "pool.share",
        "params/ClassificationHead_0/FusedKQnA_0/to_v/kernel": "pool.value.weight",
        "params/ClassificationHead_0/FusedKQnA_0/to_out/kernel": "pool.proj.weight",
    }

    def flax(ours):
        value = state[ours]
        if ours == "pool.share":
            return value[None, None]
        if ours == "pool.key":
            return value.mT
        return value.movedim((0, 1), (-1, -2)) if ours.endswith("weight") else value

    named = rename(
        {name: flax(ours) for name, ours in theirs.items()}, NAMES["moabarar/qna"](config)
    )
    assert named.keys() == set(theirs.values())
    assert all(torch.equal(value, state[name]) for name, value in named.items())
    x = torch.randn(1, 3, 96, 96, dtype=torch.float64)
    moved = vitrail.load(config, state, image=(96, 96), dtype=torch.float64)
    assert moved.state_dict()["pool.position"].shape[0] == 36
    with torch.no_grad():
        assert torch.allclose(model(x), moved(x), atol=1e-10)
        assert torch.allclose(deploy(model)(x), model(x), atol=1e-10)
    assert fitted(config, moved.state_dict(), vitrail.models.qna).image == (96, 96)
    assert {"pool.position", "pool.share"} <= model.no_decay()


def kept_bytes(kernel):
    """Bytes that a forward pass keeps for the backward pass, each storage once."""
    m, found = QnA(16, 16, 4, kernel=kernel), {}

    def pack(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = m(torch.randn(1, 32, 32, 16))
    assert out.shape == (1, 32, 32, 16)
    return sum(found.values())


def test_memory_does_not_grow_with_the_window():
    assert kept_bytes(9) <= 1.1 * kept_bytes(3)


def plain_windows(m, x):
    """One map (h, w, C), window by window, none of which reaches beyond the map."""
    height, width, c = x.shape
    (_, h), (_, w) = m.bias.sides((height, width))
    side, d, out = m.bias.window, c // m.heads, torch.zeros_like(x)
    for top in range(0, height, h):
        for left in range(0, width, w):
            at = [
                (y, z)
                for y in range(top, min(top + h, height))
                for z in range(left, min(left + w, width))
            ]
            qkv = torch.stack([m.qkv(x[y, z]) for y, z in at]).view(len(at), m.heads, 3, d)
            found = []
            for n in range(m.heads):
                q, k, v = qkv[:, n].unbind(1)
                bias = [
                    [m.bias.table[(a - e + side - 1) * (2 * side - 1) + b - f + side - 1, n]
                     for e, f in at] for a, b in at
                ]  # fmt: skip
                found.append((q @ k.mT / d**0.5 + torch.tensor(bias)).softmax(1) @ v)
            for (y, z), row in zip(at, torch.cat(found, 1), strict=True):
                out[y, z] = m.proj(row)
    return out


@pytest.mark.parametrize("grid", [(4, 4), (8, 4), (3, 2), (5, 6), (7, 9), (1, 4)], ids=str)
def test_windows_in_plain_lines(grid):
    """Whole, several, smaller than the window, and such as reach beyond the map."""
    m = random(LocalAttention(6, 2, 4))
    x = torch.randn(2, *grid, 6, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([plain_windows(m, one) for one in x])
        assert torch.allclose(m(x), expected, atol=1e-12)
        weights = m.weights(x)
    assert torch.allclose(weights.sum(-1), torch.ones((), dtype=torch.float64))


def test_windows_are_equal_and_few():
    cut = EqualWindows(14, 2).sides
    assert cut((14, 28)) == [(1, 14), (2, 14)]
    assert cut((24, 9)) == [(2, 12), (1, 9)]
    for side in range(1, 60):
        for window in range(1, 15):
            ((n, s), _) = EqualWindows(window, 1).sides((side, side))
            assert s <= window and (n - 1) * s < side <= n * s, "a window without a position"


def test_other_sizes_fit_levels():
    """Without resampling: moved to another image the state stays as it is."""
    model = vitrail.create(SMALL).eval()
    moved = vitrail.load(SMALL, model.state_dict(), image=(96, 80))
    assert all(torch.equal(v, moved.state_dict()[k]) for k, v in model.state_dict().items())
    with torch.no_grad():
        for h, w in ((200, 333), (57, 90), (16, 16)):
            for x, level in zip(model.features(torch.randn(1, 3, h, w)), model.levels, strict=True):
                assert x.shape[1:3] == (-(-h // level.stride), -(-w // level.stride))


def test_stem_pads_like_same():
    """57 pixels are 15 patches of 4: one zero above and left, two below and right."""
    model = vitrail.create(SMALL).double().eval()
    x = torch.randn(1, 3, 57, 58, dtype=torch.float64)
    with torch.no_grad():
        expected = F.conv2d(F.pad(x, (1, 1, 1, 2)), model.stem.proj.weight, stride=4)
        assert torch.allclose(model.stem(x).permute(0, 3, 1, 2), expected)


def test_stochastic_depth_rises_in_the_order_of_execution():
    model = vitrail.create(SMALL, drop_path=0.7)
    rates = [
        block.drop_path.rate
        for stage in model.stages
        for block in (*([stage.down] if hasattr(stage.down, "skip") else []), *stage.blocks)
    ]
    assert np.allclose(rates, np.linspace(0, 0.7, 8))


def packed(flat):
    """Nested maps as Flax packs them: an array is an extension of shape, dtype and bytes."""
    tree = {}
    for name, value in flat.items():
        *folders, leaf = name.split("/")
        inside = tree
        for folder in folders:
            inside = inside.setdefault(folder, {})
        parts = msgpack.packb((value.shape, value.dtype.name, value.tobytes()), use_bin_type=True)
        inside[leaf] = msgpack.ExtType(1, parts)
    return msgpack.packb(tree, use_bin_type=True)


@pytest.mark.parametrize("file", ["state.npz", "state.msgpack", "checkpoint_300"])
def test_flax_training_state(tmp_path, file):
    """The authors' files: kernels (in, out), all under `params`, an optimizer's state beside."""
    state = golden.state(golden.read(golden.FOLDER / "qna_vit_tiny.json"))
    flax = {"step": np.zeros(()), "opt_state/0/mu/params/query": np.zeros(3)}
    for name, value in state.items():
        if name.endswith("/kernel"):
            value = value.movedim((0, 1), (-1, -2))
        flax[f"params/{name.removesuffix('/weight')}"] = value.numpy().astype(np.float32)
    if file.endswith(".npz"):
        np.savez(tmp_path / file, **flax)
    else:
        (tmp_path / file).write_bytes(packed(flax))
    loaded = vitrail.load("qna_vit_tiny", tmp_path / file)
    expected = vitrail.load("qna_vit_tiny", state, source="PyTorch layout")
    for name, value in expected.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    told = vitrail.identify(tmp_path / file)
    assert (told.name, told.source) == ("qna_vit_tiny", "moabarar/qna")


def test_beginning():
    """Queries within two deviations of d**-0.5, positions zero, shares small."""
    torch.manual_seed(0)
    m = QnA(64, 64, 8)
    assert m.query.abs().max() <= 2 * 8**-0.5 and m.query.std() > 0.25
    assert not m.position.any() and 0.01 < m.share.std() < 0.03
    assert (m.key.std() - 64**-0.5).abs() < 0.01
    model = vitrail.create(SMALL)
    kept = model.no_decay()
    assert {n.rsplit(".", 1)[1] for n in kept} == {"position", "share", "table"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kernel": 4}, "kernel is 4: expected an odd number"),
        ({"kernel": 0}, "kernel is 0"),
        ({"queries": 0}, "queries is 0: expected at least 1"),
        ({"image": (64, 15)}, "image is 64x15; this qna has a stride of 16"),
        ({"qna_heads": (3, 4, 8)}, "dim 16 does not divide into 3 heads"),
        ({"lsa_heads": (1, 3, 4)}, "dim 32 does not divide into 3 heads"),
        ({"qna_heads": (0, 4, 8)}, "dim 16 does not divide into 0 heads"),
        ({"lsa": (0, 1)}, "expected one entry a stage"),
        ({"qna": (0, 2, 0)}, "each with blocks"),
        ({"windows": (3, 0, 3)}, "windows are \\(3, 0, 3\\)"),
    ],
    ids=str,
)
def test_what_cannot_be_built(changes, said):
    with pytest.raises(ConfigError, match=said):
        vitrail.create(SMALL, **changes)


def test_images_that_are_too_small():
    model = vitrail.create(SMALL).eval()
    with pytest.raises(ValueError, match="image is 15x40; this qna has a stride of 16: give"):
        model(torch.zeros(1, 3, 15, 40))
