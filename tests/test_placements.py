"""VPT's ablation: prompts in some blocks, shared ones, and prompts elsewhere; heads and sides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_adapting import small

from vitrail.errors import ConfigError
from vitrail.layers.fold import deploy
from vitrail.methods import VPT, Freeze, MlpHead, PlacedPrompts, SideTune
from vitrail.models import create

PLACED = [
    PlacedPrompts(), PlacedPrompts(deep=True), PlacedPrompts("one", deep=True),
    PlacedPrompts("pixels", 3), PlacedPrompts("border", 1), PlacedPrompts("channels", 2),
]  # fmt: skip
METHODS = [*PLACED, VPT(2, layers=1, reverse=True), VPT(2, shared=True), MlpHead(2), SideTune(8)]


def tiny() -> Any:
    return create("vit_ti16", image=(6, 6), classes=4, dim=16, depth=1, heads=2, patch=3)


def images(n=2):
    return torch.randn(n, 1, 12, 12, generator=torch.Generator().manual_seed(1)).double()


def applied(method) -> Any:
    with torch.enable_grad():  # a check tries a training step
        method.check(small())
    model = small()
    torch.manual_seed(5)
    model = method.apply(model).double().eval()
    torch.nn.init.normal_(next(p for p in model.head.parameters() if p.ndim > 1))
    return model


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_each_image_has_its_own_answer_deployed_too_and_a_step_moves_what_it_may(method):
    model, x = applied(method), images(3)
    with torch.no_grad():
        whole = model(x)
        alone = torch.cat([model(x[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(whole, alone, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(deploy(model)(x), whole, rtol=1e-9, atol=1e-9)
        assert model.features(x)[-1].shape == (3, 4, 4, 16)
    model.train()(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        backbone = not any(part in name for part in ("prompts", "head", "side", "more", "proj"))
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert not (backbone and parameter.requires_grad), name


# ---- which blocks have prompts ---------------------------------------------------------


def same_prompts(model, other):
    """Give one model the first prompts of the other, and its head."""
    for ours, theirs in zip(model.prompts.tokens, other.prompts.tokens, strict=False):
        ours.data.copy_(theirs)
    model.head.load_state_dict(other.head.state_dict())
    return model


def test_all_layers_are_deep_and_the_first_alone_is_shallow():
    x = images()
    with torch.no_grad():
        deep, shallow = applied(VPT(3)), applied(VPT(3, "shallow"))
        for whole, some in ((deep, VPT(3, layers=2)), (shallow, VPT(3, layers=1))):
            assert torch.equal(same_prompts(applied(some), whole)(x), whole(x))


def test_prompts_of_the_last_blocks_leave_the_first_ones_alone():
    x = images()
    with torch.no_grad():
        model = applied(VPT(3, layers=1, reverse=True))
        plain = small().double().eval()
        before = model.blocks[0](model.embed(x))
        assert torch.equal(before, plain.blocks[0](plain.embed(x)))
        assert len(model.prompts.tokens) == 1
        assert (model.blocks(model.embed(x)) - plain.blocks(plain.embed(x))).abs().max() > 1e-3


def test_shared_prompts_are_the_same_everywhere():
    x = images()
    with torch.no_grad():
        shared, own = applied(VPT(3, shared=True)), applied(VPT(3))
        for tokens in own.prompts.tokens:
            tokens.copy_(shared.prompts.tokens[0])
        own.head.load_state_dict(shared.head.state_dict())
        assert torch.equal(shared(x), own(x))


def test_prompts_that_do_not_go_on_are_dropped_behind_their_block():
    x = images()
    with torch.no_grad():
        model = applied(VPT(3, "shallow", expand=False))
        assert model.blocks[0](model.embed(x)).shape[1] == 17
        stays = same_prompts(applied(VPT(3, "shallow")), model)
        assert stays.blocks[0](stays.embed(x)).shape[1] == 20
        assert (stays(x) - model(x)).abs().max() > 1e-6


# ---- elsewhere, by hand ----------------------------------------------------------------


def test_added_prompts_leave_the_class_token_alone():
    x, plain = images(), small().double().eval()
    with torch.no_grad():
        before = plain.embed(x)
        model = applied(PlacedPrompts())
        torch.testing.assert_close(model.embed(x)[:, :1], before[:, :1])
        torch.testing.assert_close(model.embed(x)[:, 1:], before[:, 1:] + model.embed.prompts)
        assert model.embed.prompts.shape == (1, 16, 16)
        one = applied(PlacedPrompts("one"))
        assert one.embed.prompts.shape == (1, 1, 16)


def test_pixels_are_patches_without_a_place():
    x = images()
    with torch.no_grad():
        model = applied(PlacedPrompts("pixels", 2))
        tokens, proj = model.embed(x), model.embed.inner.proj
        assert tokens.shape == (2, 1 + 2 + 16, 16)
        patch = model.embed.prompts[..., 3:6]
        torch.testing.assert_close(tokens[:, 2], proj(patch).flatten(1).expand(2, -1))


def test_an_image_shrinks_into_its_border_and_channels_add_up():
    x = images()
    with torch.no_grad():
        model = applied(PlacedPrompts("border", 2))
        seen = []
        model.embed.inner.register_forward_hook(lambda _, args, out: seen.append(args[0]))
        model(torch.zeros_like(x))
        assert seen[0].shape == x.shape and (seen[0][:, :, 2:-2, 2:-2] == 0).all()
        assert (seen[0][:, :, :2] == model.embed.prompts["top"]).all()
        assert (seen[0][:, :, 2:-2, -2:] == model.embed.prompts["right"]).all()
        model = applied(PlacedPrompts("channels", 2))
        proj = model.embed.proj
        weight = torch.cat([proj.proj.weight, proj.more.weight], 1)
        stack = torch.cat([x, proj.prompts.expand(2, -1, -1, -1)], 1)
        wanted = torch.nn.functional.conv2d(stack, weight, proj.proj.bias, 3)
        torch.testing.assert_close(proj(x), wanted)


def test_a_side_network_begins_as_half_the_backbone():
    x, plain = images(), small().double().eval()
    with torch.no_grad():
        model = applied(SideTune(8))
        torch.testing.assert_close(model.embedding(x), plain.embedding(x) / 2)
        model.side.blend.fill_(40.0)
        torch.testing.assert_close(model.embedding(x), plain.embedding(x))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PlacedPrompts("beside"), "placed 'beside' is unknown"),
        (lambda: PlacedPrompts(prompts=0), "prompts is 0"),
        (lambda: PlacedPrompts("border", deep=True), "which is at the input alone"),
        (lambda: PlacedPrompts("border", 6).check(small()), "leaves nothing of an image of 12x12"),
        (lambda: PlacedPrompts().check(create("resnet_18", image=(32, 32))), "no place for added"),
        (lambda: PlacedPrompts().check(Freeze().apply(small())), "comes after freeze"),
        (lambda: VPT(2, "shallow", layers=1), "are of deep prompts"),
        (lambda: VPT(2, layers=3).check(small()), "layers is 3: this model has 2 blocks"),
        (lambda: VPT(2, pool="both", expand=False), "expand is off"),
        (lambda: PlacedPrompts(prompts=10**9), "give a number from 1 to 10,000"),
        (lambda: MlpHead(0), "layers is 0"),
        (lambda: MlpHead().check(create("levit_128s")), "whose head is one linear layer"),
        (lambda: SideTune(0), "width is 0"),
        (lambda: SideTune().check(tiny()), "needs images of 8 pixels"),
    ],
)
def test_what_does_not_fit_is_one_sentence(make, said):
    with pytest.raises(ConfigError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)
