"""PatchDropout: the authors' tokens and logits, each image by itself, the model where all stay."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from copy import deepcopy

import numpy as np
import pytest
import torch
from support import golden
from torch import nn

import vitrail
from vitrail.errors import ConfigError
from vitrail.layers.patches import project_some
from vitrail.layers.protocols import Patchwise
from vitrail.layers.windows import partition, reverse, shift_mask
from vitrail.methods import PSS, PatchDropout, dropped_windows
from vitrail.methods.dropping import Dropping, choose, same_for_all
from vitrail.models import create, families, small_configs
from vitrail.recipes.build import changed
from vitrail.tasks import Classification
from vitrail.training.objective import Step

TOKENS = (
    "beit",
    "cait",
    "cct",
    "deepvit",
    "deit",
    "t2t_vit",
    "vit",
    "vit_c",
    "vit_hybrid",
    "vitas",
)
SWIN = {"dim": 8, "depths": (2, 2), "heads": (2, 4), "image": (56, 56), "drop_path": 0.0}


def small(family: str):
    torch.manual_seed(0)
    config = next(small_configs(family, image=(56, 56), channels=3, classes=5))
    model = create(config, drop_path=0.0)
    nn.init.normal_(next(p for n, p in model.head.named_parameters() if n.endswith("weight")))
    return model.double()


def swin(**more):
    torch.manual_seed(0)
    return create("swin_tiny", classes=5, **SWIN | more).double()


def images(n=2, side=56):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1)).double()


def one(outputs):
    return outputs[0] if isinstance(outputs, tuple) else outputs


# ---- the authors' ----------------------------------------------------------------------


def test_golden():
    expected = golden.read(golden.FOLDER / "blocks" / "patchdropout_vit_tiny.json")
    state = golden.state(expected)
    model = vitrail.load("deit_tiny", state, image=(96, 96), dtype=torch.float64)
    method = PatchDropout(0.5)
    method.check(model)
    model = method.apply(model)
    generator = np.random.Generator(np.random.Philox(key=1))
    noise = torch.from_numpy(generator.standard_normal((2, 36)))
    model.embed.train().chosen = lambda batch, patches, keep, device: noise.argsort(1)[:, :keep]
    with torch.no_grad():
        logits = model(*golden.inputs(expected))
    found = {"logits": logits, "kept": model.embed.kept.tokens[:, 1:]}
    for name, figures in expected["outputs"].items():
        assert golden.deviation(found[name], figures) <= 1e-6, name


# ---- tokens ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", TOKENS)
def test_fewer_tokens_are_the_kept_ones_of_all(family):
    """Also where only their pixels are projected: places of one, and of all, give the same."""
    model = small(family)
    method = PatchDropout(0.5)
    method.check(model)
    embed, x = model.embed, images()
    n = int(np.prod(embed.grid(56, 56)))
    changed = method.apply(model).eval()
    with torch.no_grad():
        whole = embed(x)
        places = torch.stack([torch.randperm(n)[: max(1, n // 3)] for _ in range(2)])
        found = changed.embed.some(x, places)
        prefix = whole.shape[1] - n
        for image in range(2):
            wanted = torch.cat([whole[image, :prefix], whole[image, prefix:][places[image]]])
            assert (found[image] - wanted).abs().max() <= 1e-12
        changed.train()(x)
    assert changed.embed.kept.tokens.shape == (2, prefix + max(1, n // 2))


def test_patches_are_projected_by_themselves():
    calls = []
    for family in ("beit", "cait", "deit", "vit", "vitas"):
        model = small(family)
        assert isinstance(model.embed, Patchwise)
        model.embed.proj.register_forward_hook(lambda *_: calls.append(1))
        PatchDropout(0.5).apply(model).train()(images())
        assert not calls, family


def test_an_embedding_of_its_own_way_is_asked_for_all_tokens():
    """What derives from one that projects patches by themselves need not know of it."""
    model = small("vit")
    kind = type(model.embed)

    class Doubled(kind):
        def forward(self, image):
            return 2 * super().forward(image)

    x, places = images(), torch.tensor([[0, 3], [5, 1]])
    single = model.embed.some(x, places)
    model.embed.__class__ = Doubled
    assert (model.embed.some(x, places) - 2 * single).abs().max() <= 1e-12


def test_some_patches_are_those_of_the_convolution():
    conv = nn.Conv2d(3, 7, (4, 6), (4, 6)).double()
    x = torch.randn(2, 3, 12, 24).double()
    places = torch.tensor([[0, 5, 11], [7, 7, 2]])
    found = project_some(x, places, conv.weight, conv.bias)
    slow = torch.stack(
        [
            torch.stack([conv(x)[b, :, p // 4, p % 4] for p in row])
            for b, row in enumerate(places.tolist())
        ]
    )
    assert (found - slow).abs().max() <= 1e-12


@pytest.mark.parametrize("family", [*TOKENS, "swin"])
def test_keeping_all_is_the_identity_and_removing_it_restores_the_model(family):
    model = (swin() if family == "swin" else small(family)).train()
    # BatchNorms of some stems follow every batch.
    start, x = deepcopy(model.state_dict()), images()
    before = one(model(x))
    model.load_state_dict(start)
    kept = PatchDropout(1.0).apply(deepcopy(model))
    assert torch.equal(one(kept(x)), before)
    dropped = PatchDropout(0.5).apply(deepcopy(model))
    assert not torch.equal(one(dropped(x)), before)
    dropped.eval(), model.eval()
    with torch.no_grad():
        names = [n for n, p in dropped.named_parameters() if p.requires_grad]
        assert len(names) == len([p for p in model.parameters() if p.requires_grad])
        dropped.load_state_dict(
            dict(zip(dropped.state_dict(), model.state_dict().values(), strict=True))
        )
        assert torch.equal(one(dropped(x)), one(model(x)))


@pytest.mark.parametrize("family", ["vit", "beit", "cait", "deit"])
def test_an_image_does_not_depend_on_its_batch(family):
    model = PatchDropout(0.4).apply(small(family)).train()
    x, noise = images(3), torch.rand(3, 196)

    def logits(rows):
        model.embed.chosen = lambda b, n, k, device: noise[rows, :n].argsort(1)[:, :k]
        return one(model(x[rows]))

    together = logits([0, 1, 2])
    alone = torch.cat([logits([i]) for i in range(3)])
    assert (together - alone).abs().max() <= 1e-10


def test_every_choice_is_as_likely():
    model = create("vit_ti16", dim=8, depth=1, heads=1, hidden=8, patch=4, image=(8, 8), classes=2)
    model = PatchDropout(0.5).apply(model).train()
    torch.manual_seed(0)
    model(torch.zeros(6000, 3, 8, 8))
    counts = Counter(map(tuple, model.embed.kept.tokens[:, 1:].tolist()))
    assert len(counts) == 6 and all(tuple(sorted(pair)) == pair for pair in counts)
    assert all(abs(count - 1000) < 150 for count in counts.values())  # five deviations


def test_a_bias_of_pairs_is_that_of_the_kept_tokens():
    """A block on some tokens computes what it computes of all when the others are not seen."""
    model = PatchDropout(0.5).apply(small("beit")).train()
    mixer, x = model.blocks[0].mixer, images()
    nn.init.normal_(mixer.bias.bias.table)
    model(x)
    kept = model.embed.kept.tokens
    tokens = torch.randn(2, 1 + np.prod(model.embed.grid(56, 56)), mixer.proj.in_features).double()
    some = torch.stack([t[k] for t, k in zip(tokens, kept, strict=True)])
    found = mixer(some)
    q, k, v = mixer._heads(tokens)
    logits = q @ k.mT * q.shape[-1] ** -0.5 + mixer.bias.bias()
    hidden = torch.ones(tokens.shape[:2], dtype=torch.bool).scatter(1, kept, False)
    seen = logits.masked_fill(hidden[:, None, None], -torch.inf).softmax(-1) @ v
    whole = mixer.proj(seen.transpose(1, 2).flatten(2))
    slow = torch.stack([t[k] for t, k in zip(whole, kept, strict=True)])
    assert (found - slow).abs().max() <= 1e-12


def test_maps_are_zero_where_patches_were_left_out():
    model = PatchDropout(0.5).apply(small("deit")).train()
    (found,) = model.features(images())
    kept = model.embed.kept.tokens[:, 1:] - 1
    shown = torch.zeros(2, found[0, ..., 0].numel(), dtype=torch.bool).scatter(1, kept, True)
    assert torch.equal((found.flatten(1, 2) != 0).any(-1), shown)
    (last,) = model.features(images(), at=[0])
    assert last.shape == found.shape


# ---- rates -----------------------------------------------------------------------------


def test_a_random_rate_is_whole_in_half_of_the_steps_and_else_in_steps_of_a_twentieth():
    method = PatchDropout(0.5, random_rate=True)
    rates = [method.rate(Step(n, 4000, 0.0, seed=7)) for n in range(4000)]
    assert rates == [method.rate(Step(n, 4000, 0.0, seed=7)) for n in range(4000)]
    assert rates != [method.rate(Step(n, 4000, 0.0, seed=8)) for n in range(4000)]
    counts = Counter(round(rate, 10) for rate in rates)
    assert sorted(counts) == [round(0.5 + 0.05 * j, 10) for j in range(11)]
    whole = counts.pop(1.0)
    assert abs(whole / 4000 - (0.5 + 0.5 / 11)) < 0.04  # five deviations
    assert all(abs(n / 4000 - 0.5 / 11) < 0.017 for n in counts.values())


@pytest.mark.parametrize("make", [lambda: small("vit"), swin])
def test_a_random_rate_is_set_before_every_step(make):
    method = PatchDropout(0.5, random_rate=True)
    model = method.apply(make()).train()
    place = getattr(model, "embed", None) or model.stem
    for number in range(8):
        step = Step(number, 8, 0.0)
        method.before_step(model, step)
        assert place.keep == method.rate(step)


def test_at_test_time_all_images_keep_the_same_places():
    whole = small("vit").eval()
    model = PatchDropout(0.5, test_keep=0.25).apply(deepcopy(whole))
    with torch.no_grad():
        x = images(3)
        first, second = model(x), model(x)
        assert torch.equal(first, second) and not torch.equal(first, whole(x))
        kept = model.embed.kept.tokens
    assert kept.shape[1] == kept[0].unique().numel() and (kept == kept[0]).all()
    few, more = (same_for_all(1, 49, k, torch.device("cpu"))[0].tolist() for k in (5, 20))
    assert set(few) < set(more)


@pytest.mark.parametrize("method", [PatchDropout(0.5), PSS()], ids=["patch_dropout", "pss"])
def test_a_share_is_chosen_for_a_finished_model(method):
    model = method.apply(small("vit").eval())
    with torch.no_grad():
        whole = model(images())
        assert choose(model, 0.25)(images()).shape == whole.shape
        assert model.embed.kept.tokens.shape[1] == 49
        assert torch.equal(choose(model, 1.0)(images()), whole)
    with pytest.raises(ConfigError, match="keep is 0: give a share"):
        choose(model, 0)
    with pytest.raises(ConfigError, match="always keeps all patches"):
        choose(small("vit"), 0.5)
    windows = choose(PatchDropout().apply(swin().eval()), 6 / 7)
    assert windows.features(images())[0].shape == (2, 12, 12, 8)


COMPILE = """
import torch, vitrail
from vitrail.methods import PatchDropout
from vitrail.methods.dropping import choose
plain, windows = {"depth": 1, "image": (32, 32)}, {"dim": 8, "depths": (2, 2), "heads": (2, 4)}
for name, sizes in (("vit_ti16", plain), ("pss_s16", plain), ("swin_tiny", windows)):
    model = vitrail.create(name, **{"image": (56, 56), "classes": 3, **sizes}).double().eval()
    torch.nn.init.normal_(model.head.weight)
    model = choose(PatchDropout().apply(model), 0.5)
    x = torch.randn(2, 3, *model.config.image).double()
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)
        assert (compiled(x) - model(x)).abs().max() <= 1e-10, name
"""


def test_models_that_drop_compile_whole():
    """In another process, since shape annotations are checked in this one."""
    subprocess.run([sys.executable, "-c", COMPILE], check=True)


# ---- windows ---------------------------------------------------------------------------


def dropped(model, rows, columns, monkeypatch):
    """The model whose images keep the rows and columns that are given."""
    queue = []
    monkeypatch.setattr(dropped_windows, "drawn", lambda *_: queue.pop(0))

    def run(x, which):
        queue[:] = [rows[which], columns[which]]
        return model(x)

    return run


def test_windows_of_an_image_do_not_depend_on_its_batch(monkeypatch):
    model = PatchDropout(0.6).apply(swin()).train()
    torch.manual_seed(2)
    rows, columns = (torch.rand(3, 7).argsort(1)[:, :4] for _ in range(2))
    run = dropped(model, rows, columns, monkeypatch)
    x = images(3)
    together = run(x, [0, 1, 2])
    alone = torch.cat([run(x[i : i + 1], [i]) for i in range(3)])
    assert (together - alone).abs().max() <= 1e-10
    assert model.stem.kept.rows.tolist() == rows[2:].sort(1).values.tolist()


def test_a_map_keeps_the_same_rows_and_columns_of_every_window(monkeypatch):
    model = PatchDropout(0.5).apply(swin()).train()
    rows, columns = torch.tensor([[5, 0, 3], [1, 2, 6]]), torch.tensor([[2, 4, 0], [6, 5, 1]])
    run = dropped(model, rows, columns, monkeypatch)
    seen = []
    model.stages[0].register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    x = images()
    run(x, [0, 1])
    whole = model.stem.stem(x)
    for image in range(2):
        down, across = (
            [7 * i + at for i in range(2) for at in sorted(kept[image].tolist())]
            for kept in (rows, columns)
        )
        assert torch.equal(seen[0][image], whole[image][down][:, across])


@pytest.mark.parametrize("block", [0, 1])
def test_windows_read_table_and_mask_at_what_they_keep(block, monkeypatch):
    """Every window by itself, plainly: block 0 does not shift, block 1 does."""
    model = PatchDropout(0.5).apply(swin()).train()
    rows, columns = torch.tensor([[0, 3, 5], [1, 2, 6]]), torch.tensor([[0, 2, 4], [1, 5, 6]])
    run = dropped(model, rows, columns, monkeypatch)
    run(images(), [0, 1])
    attention = model.stages[0].blocks[block].mixer
    inner = attention.mixer
    nn.init.normal_(inner.bias.table)
    x = torch.randn(2, 6, 6, 8).double()
    shift, mask = (3, shift_mask((14, 14), 7, (3, 3))) if block else (0, torch.zeros(4, 49, 49))
    slow = []
    for image in range(2):
        at = [7 * r + c for r in rows[image].tolist() for c in columns[image].tolist()]
        windows = partition(x[image : image + 1].roll((-shift, -shift), (1, 2)), 3)
        done = []
        for number, window in enumerate(windows):
            q, k, v = inner.qkv(window).view(9, 3, 2, 4).permute(1, 2, 0, 3)
            bias = inner.bias.table[inner.bias.index[at][:, at]].permute(2, 0, 1)
            logits = q @ k.mT / 2 + bias + mask[number][at][:, at].double()
            done.append(inner.proj((logits.softmax(-1) @ v).transpose(0, 1).flatten(1)))
        slow.append(reverse(torch.stack(done), 3, (6, 6)).roll((shift, shift), (1, 2)))
    assert (attention(x) - torch.cat(slow)).abs().max() <= 1e-12


def test_windows_at_test_time_keep_what_is_asked_and_gradients_arrive():
    model = PatchDropout(0.3, test_keep=6 / 7).apply(swin(depths=(2, 2)))
    with torch.no_grad():
        assert model.eval().features(images())[1].shape == (2, 6, 6, 16)
    model.train()(images()).square().sum().backward()
    assert model.features(images())[0].shape == (2, 4, 4, 8)
    without = [n for n, p in model.named_parameters() if not p.grad.abs().max() > 0]
    assert not without


# ---- refusals --------------------------------------------------------------------------


@pytest.mark.parametrize("method", [PatchDropout(), PSS()], ids=["patch_dropout", "pss"])
@pytest.mark.parametrize("family", ["xcit", "glit", "mlp_mixer", "resnet", "pvt", "localvit"])
def test_a_model_without_the_seam_is_told_in_one_sentence(method, family):
    with torch.device("meta"):
        model = create(next(small_configs(family, image=(56, 56), channels=3, classes=5)))
    with pytest.raises(ConfigError, match=r"; this one has the seams .*norm, pool, head$"):
        method.check(model)


def test_windows_that_do_not_divide_the_map_are_told():
    with torch.device("meta"):
        model = create("swin_tiny", image=(256, 256))
    with pytest.raises(ConfigError, match="windows that divide its map"):
        PatchDropout().check(model)
    model = PatchDropout().apply(swin()).train()
    with pytest.raises(ValueError, match="image is 64x56; its map of 16x14 does not divide"):
        model(torch.zeros(1, 3, 64, 56).double())
    with pytest.raises(ConfigError, match="pss needs a model"):
        PSS().check(swin())


@pytest.mark.parametrize("family", [k for k in families() if k in ("vit", "swin")])
def test_methods_that_both_leave_patches_out_exclude_one_another(family):
    make = swin if family == "swin" else lambda: small(family)
    with pytest.raises(ConfigError, match="take either patch_dropout or pss, once"):
        changed(make(), [PatchDropout(), PatchDropout()], Classification())
    with pytest.raises(ConfigError, match="take either patch_dropout or pss, once"):
        changed(make(), [PatchDropout(), PSS()], Classification())


@pytest.mark.parametrize("share", [0.0, -0.5, 1.01, float("nan")])
def test_a_share_is_above_0_and_at_most_1(share):
    for name in ("keep", "test_keep"):
        with pytest.raises(ConfigError, match=f"{name} is .*: give a share of the patches"):
            PatchDropout(**{name: share})
    with pytest.raises(ConfigError, match="test_keep is"):
        PSS(test_keep=share)


def test_a_copy_drops_by_itself():
    """The average of the weights is a copy in eval mode: it must not see what training keeps."""
    model = PatchDropout(0.5).apply(small("beit")).train()
    copy = deepcopy(model).eval()
    model(images())
    assert isinstance(copy.embed, Dropping) and copy.embed.kept.tokens is None
    assert copy.blocks[0].mixer.bias.kept is copy.embed.kept
    copy(images())
    assert model.embed.kept.tokens is not None
