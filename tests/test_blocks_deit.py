"""DeiT's two tokens: which checkpoint is which, what deploying makes of two heads."""

import pytest
import torch
from support import golden

import vitrail
from vitrail.errors import CheckpointError, ConfigError
from vitrail.layers.fold import deploy
from vitrail.models.deit import Config, TwoHeads


@pytest.mark.parametrize(
    ("wanted", "given"),
    [("deit_tiny_distilled", "deit_tiny"), ("deit_tiny", "deit_tiny_distilled")],
)
def test_a_checkpoint_of_the_other_kind_is_named(wanted, given):
    file = next(p for p in golden.files() if p.stem == f"{given}_224")
    authors = golden.state(golden.read(file))
    for state in (vitrail.create(given).state_dict(), authors):
        with pytest.raises(CheckpointError, match=f"does not fit {wanted} .*; it is {given} in"):
            vitrail.load(wanted, state)


@pytest.mark.parametrize("lost", ["cls_token", "dist_token", "pos_embed"])
def test_a_summand_of_the_tokens_that_is_missing_is_no_zero(lost):
    file = next(p for p in golden.files() if p.stem == "deit_tiny_distilled_224")
    state = golden.state(golden.read(file))
    del state[lost]
    with pytest.raises(CheckpointError, match=r"2 of the 3 summands of embed\.token"):
        vitrail.load("deit_tiny_distilled", state, source="facebookresearch/deit")


def test_two_heads_in_training_and_their_mean_after():
    torch.manual_seed(0)
    head = TwoHeads(6, 4).double()
    x = torch.randn(3, 12, dtype=torch.float64)
    first, second = head.train()(x)
    assert torch.allclose(first, head.main(x[:, :6])) and first.shape == (3, 4)
    assert torch.allclose(second, head.distilled(x[:, 6:]))
    folded = deploy(head)
    assert isinstance(folded, torch.nn.Linear)
    for mean in (head.eval()(x), folded(x)):
        assert torch.allclose(mean, (first + second) / 2)


def test_other_images_move_positions():
    model = vitrail.create("deit_tiny", image=(192, 256), classes=3, depth=1)
    assert model(torch.zeros(1, 3, 192, 256)).shape == (1, 3)
    moved = vitrail.load(model.config, model.state_dict(), image=(224, 224))
    assert moved.embed.position.shape == (1, 196, 192)


def test_sizes_that_do_not_fit():
    with pytest.raises(ConfigError, match="image is 225x224"):
        vitrail.create("deit_tiny", image=(225, 224))
    with pytest.raises(ConfigError, match="dim 192 does not divide into 5 heads"):
        vitrail.create(Config(heads=5))
