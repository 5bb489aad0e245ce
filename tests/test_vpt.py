"""VPT: the authors' logits, images by themselves, nothing trained but prompts and head."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from support import golden
from support.small import shallowest
from torch import nn

import vitrail
from vitrail import models
from vitrail.errors import ConfigError
from vitrail.layers import windows
from vitrail.layers.fold import deploy
from vitrail.methods import PSS, VPT, Dropout, Freeze, PatchDropout
from vitrail.methods.vpt import Keys, Prompted
from vitrail.models import create, families
from vitrail.recipes.build import changed
from vitrail.tasks import Classification
from vitrail.training.learner import Learner

SWIN = {
    "dim": 8,
    "depths": (2, 2),
    "heads": (2, 4),
    "image": (28, 28),
    "patch": 2,
    "drop_path": 0.1,
}


def small(family, **more) -> Any:
    torch.manual_seed(0)
    if family == "swin":
        model = create("swin_tiny", classes=5, **SWIN | more)
    else:
        model = create(shallowest(family, 28))
    nn.init.normal_(next(p for n, p in model.head.named_parameters() if n.endswith("weight")))
    return model.double().eval()


def images(n=2, side=28):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1)).double()


def one(outputs):
    return outputs[0] if isinstance(outputs, tuple) else outputs


# ---- the authors' ----------------------------------------------------------------------

RENAMED = {
    "transformer.embeddings.position_embeddings": "pos_embed",
    "transformer.embeddings.cls_token": "cls_token",
    "transformer.embeddings.patch_embeddings.": "patch_embed.proj.",
    "transformer.encoder.encoder_norm.": "norm.",
    "transformer.encoder.layer.": "blocks.",
    ".attention_norm.": ".norm1.",
    ".ffn_norm.": ".norm2.",
    ".ffn.": ".mlp.",
    ".attn.out.": ".attn.proj.",
}


def timm_names(state):
    """The authors' names of a ViT as timm's, which `load` knows, and what is left over."""
    named = {}
    for name, value in state.items():
        for theirs, ours in RENAMED.items():
            name = name.replace(theirs, ours)
        named[name] = value
    for name in [n for n in named if ".attn.query." in n]:
        parts = [named.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        named[name.replace("query", "qkv")] = torch.cat(parts)
    return named


def vit(expected, **changes) -> Any:
    """A method's golden of a small ViT: the backbone, and the tensors that are the method's."""
    named = timm_names(golden.state(expected))
    own = {n: named.pop(n) for n in list(named) if "prompt" in n or "adapter" in n}
    sizes = {"dim": 64, "depth": 4, "heads": 4, "hidden": 256, "image": (64, 64), "classes": 10}
    config = models.resolve("deit_tiny", **sizes | changes)
    return vitrail.load(config, named, source="timm", dtype=torch.float64), own


def swin(expected, depths) -> Any:
    state = golden.state(expected)
    own = {n: state.pop(n) for n in list(state) if "prompt" in n}
    config = models.resolve(
        "swin_tiny", dim=24, depths=depths, heads=(1, 2, 3, 6), patch=2, image=(112, 112), classes=0
    )
    source = "microsoft/Swin-Transformer"
    return vitrail.load(config, state, source=source, dtype=torch.float64), own


def fill(model, own):
    """Give the prompts of all layers the authors' values."""
    rows = []
    for name in sorted((n for n in own if "embeddings" in n), key=lambda n: ("deep" in n, n)):
        rows += list(own[name].split(1))
    with torch.no_grad():
        for parameter, row in zip(model.prompts.tokens, rows, strict=True):
            parameter.copy_(row)
        for name, parameter in model.prompts.proj.named_parameters():
            parameter.copy_(own[f"transformer.prompt_proj.{name}"])


VITS = [
    ("vpt_shallow_mini", VPT(5, "shallow")),
    ("vpt_deep_mini", VPT(7, "deep", projection=24)),
    ("vpt_prompt_pool_mini", VPT(3, "shallow", pool="prompts")),
]
SWINS = [
    ("vpt_swin_deep_mini", VPT(4, "deep"), (2, 2, 2, 2)),
    ("vpt_swin_shallow_mini", VPT(3, "shallow"), (1, 2, 2, 1)),
]


def agrees(model, method, own, expected, form):
    method.check(model)
    model = method.apply(model)
    fill(model, own)
    model = deploy(model) if form == "deployed" else model
    with torch.no_grad():
        logits = model(*golden.inputs(expected))
    assert golden.deviation(logits, expected["outputs"]["logits"]) <= 1e-6
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert form == "deployed" or all(n.startswith(("prompts.", "head.")) for n in trained)


@pytest.mark.parametrize("form", ["trained", "deployed"])
@pytest.mark.parametrize(("name", "method"), VITS)
def test_golden_of_a_vit(name, method, form):
    expected = golden.read(golden.FOLDER / "blocks" / f"{name}.json")
    model, own = vit(expected)
    prompts = next(v for n, v in own.items() if n.endswith("prompt_embeddings"))
    assert prompts.shape[1] == method.prompts
    agrees(model, method, own, expected, form)


@pytest.mark.parametrize("form", ["trained", "deployed"])
@pytest.mark.parametrize(("name", "method", "depths"), SWINS)
def test_golden_of_a_swin(name, method, depths, form, monkeypatch):
    """The reference's masks were filled like weights, so ours are for once."""
    expected = golden.read(golden.FOLDER / "blocks" / f"{name}.json")
    masks = {len(v): v for n, v in golden.state(expected).items() if n.endswith("attn_mask")}
    monkeypatch.setattr(
        windows, "shift_mask", lambda grid, window, *_: masks[grid[0] * grid[1] // window**2]
    )
    model, own = swin(expected, depths)
    agrees(model, method, own, expected, form)


# ---- what it computes ------------------------------------------------------------------

TOKENS = ("cait", "cct", "deepvit", "deit", "t2t_vit", "vit", "vit_c", "vit_hybrid")


def test_keys_and_values_are_enough():
    """Blocks that compute nothing for prompts but keys and values give the same."""
    torch.manual_seed(0)
    model: Any = create("vit_ti16", dim=16, depth=3, heads=2, hidden=32, image=(64, 64), classes=5)
    nn.init.normal_(model.head.weight)
    quick: Any = VPT(6).apply(model.double().eval())
    assert all(type(block) is Keys for block in quick.blocks)
    plain = deepcopy(quick)
    for block in plain.blocks:
        block.__class__ = Prompted
    x = images(side=64)
    assert (quick(x) - plain(x)).abs().max() <= 1e-12


@pytest.mark.parametrize("placed", ["deep", "shallow"])
@pytest.mark.parametrize("family", [*TOKENS, "swin"])
def test_every_image_has_its_own_answer_and_maps_stay(family, placed):
    model, x = small(family), images(3)
    with torch.no_grad():
        before = model(x)
    maps = [m.shape for m in model.features(x)]
    method = VPT(4, placed)
    method.check(model)
    prompted: Any = method.apply(model)
    with torch.no_grad():
        together = prompted(x)
        assert not torch.allclose(together, before)
        alone = torch.cat([prompted(x[i : i + 1]) for i in range(3)])
        assert (together - alone).abs().max() <= 1e-12
        assert [m.shape for m in prompted.features(x)] == maps
        deployed: Any = deploy(prompted)
        assert (deployed(x) - together).abs().max() <= 1e-12


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_no_prompts_are_the_model_itself_with_a_head_to_train(family):
    model, x = small(family), images()
    with torch.no_grad():
        before = model(x)
        model: Any = VPT(0).apply(model)
        assert torch.equal(model(x), before)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {"head.weight", "head.bias"}


@pytest.mark.parametrize("placed", ["deep", "shallow"])
def test_swin_takes_other_sizes_and_recomputes_its_blocks(placed):
    """Padded and shifted windows, and checkpointed blocks find the prompts that they had."""
    model: Any = VPT(3, placed).apply(small("swin"))
    x = images(side=22)
    grads = []
    for on in (False, True):
        model.zero_grad()
        model.recompute(on)(x).square().sum().backward()
        grads.append([p.grad.clone() for p in model.prompts.parameters()])
    assert all(g.abs().sum() > 0 for g in grads[0])
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(*grads, strict=True))


def test_prompts_begin_as_published_and_drop_in_training_alone():
    model: Any = VPT(50, projection=24, dropout=0.5).apply(small("vit"))
    bound = (6 / (3 * model.levels[0].stride ** 2 + 24)) ** 0.5
    values = torch.cat([p.detach().flatten() for p in model.prompts.tokens])
    assert values.abs().max() <= bound and values.std().item() == pytest.approx(
        bound / 3**0.5, rel=0.05
    )
    learner = Learner(model, nn.Module()).train()  # pyright: ignore
    made = model.prompts(0, 4)
    assert made.shape == (4, 50, model.config.dim)
    assert (made == 0).double().mean().item() == pytest.approx(0.5, abs=0.05)
    learner.eval()
    assert torch.equal(model.prompts(0, 4), model.prompts(0, 4)) and len(model.prompts(0, 4)) == 1


# ---- what it trains --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("vit", VPT(3)),
        ("swin", VPT(3)),
        ("swin", VPT(3, "shallow")),
        ("vit_c", VPT(3, "shallow")),
        ("deit", VPT(3, projection=6, dropout=0.1)),
    ],
)
def test_a_step_moves_prompts_and_head_alone(family, method):
    """The rest keeps its bits, statistics of BatchNorms among them, and does not drop."""
    model: Any = method.apply(small(family))
    learner = Learner(model, nn.Module()).train()  # pyright: ignore
    before = deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    one(model(images())).square().sum().backward()
    optimizer.step()
    moved = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert moved == {n for n in before if n.startswith(("prompts.", "head."))}
    drops = [m for m in learner.modules() if type(m).__name__ == "DropPath"]
    assert drops and not any(m.training for m in drops)


# ---- where it does not fit -------------------------------------------------------------


@pytest.mark.parametrize("family", list(families()))
def test_it_fits_or_says_what_the_model_has(family):
    with torch.device("meta"):
        model = create(shallowest(family, 32))
    names, open_ = list(model.state_dict()), [p.requires_grad for p in model.parameters()]
    if family in (*TOKENS, "flexivit", "swin", "vitas"):
        VPT(3).check(model)
    else:
        with pytest.raises(ConfigError, match="has the seams"):
            VPT(3).check(model)
    assert list(model.state_dict()) == names  # a check changes nothing
    assert [p.requires_grad for p in model.parameters()] == open_


def test_bad_settings_are_one_sentence():
    for settings, said in [
        ({"prompts": -1}, "prompts is -1"),
        ({"prompts": 10**9}, "prompts is 1000000000: give at most 10,000"),
        ({"projection": -1}, "projection is -1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"placed": "deeper"}, "placed 'deeper' is unknown"),
        ({"prompts": 0, "pool": "prompts"}, "at least one prompt"),
    ]:
        with pytest.raises(ConfigError, match=said):
            VPT(**settings)
    with pytest.raises(ConfigError, match=r"cannot add 8 tokens .* seams embed"):
        VPT(8).check(create("mixer_s32", depth=1, image=(64, 64)))
    with pytest.raises(ConfigError, match="neither a projection nor a pool"):
        VPT(projection=8).check(small("swin"))


@pytest.mark.parametrize(
    ("first", "second"),
    [(VPT(), Freeze()), (Freeze(), VPT()), (VPT(), VPT()), (PatchDropout(), VPT()),
     (VPT(), PatchDropout()), (VPT(), PSS())],
)  # fmt: skip
def test_methods_that_exclude_one_another(first, second):
    with pytest.raises(ConfigError, match=r"comes after .* take one of them"):
        changed(small("vit"), [first, second], Classification())


def test_dropout_before_it_is_left_to_the_frozen_blocks():
    model = changed(small("vit"), [Dropout(0.5), VPT(2)], Classification())
    learner, x = Learner(model, nn.Module()).train(), images()  # pyright: ignore
    assert torch.equal(learner.model(x), learner.model(x))
