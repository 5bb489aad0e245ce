"""LiT's towers and losses against the authors' figures, and what pairs of embeddings are for."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace

import pytest
import torch
from support import golden, toy

import vitrail
from vitrail import models
from vitrail.errors import CheckpointError, ConfigError
from vitrail.layers.pairs import prototypes, recall, sigmoid_loss, softmax_loss, unit
from vitrail.models import vit
from vitrail.models.lit import Config
from vitrail.models.parts.text_tower import Text
from vitrail.models.trunk.backbone import input_kind, input_shape

TOWER = vit.Config(dim=48, depth=3, heads=3, hidden=192, patch=16, classes=24, image=(64, 64))
TEXT = Text(vocabulary=64, length=8, dim=32, depth=2, heads=4, hidden=64)
MINI = Config(TOWER, TEXT)
MAP = Config(
    replace(TOWER, pool="map", classes=0, image=(48, 80)), replace(TEXT, pool="map"), bias=True
)
TOKENS = torch.tensor([[5, 9, 3, 1, 1, 1, 1, 1], [7, 2, 11, 30, 4, 1, 1, 1]])
SOURCE = "google-research/big_vision"


def authors(name, config, changed=lambda state: state):
    expected = golden.read(golden.FOLDER / "blocks" / f"{name}.json")
    state = changed(golden.state(expected))
    model = vitrail.load(config, state, source=SOURCE, dtype=torch.float64)
    assert sum(p.numel() for p in model.parameters()) == expected["params"]
    return expected, model, golden.image(expected["input_shape"])


@pytest.mark.parametrize(("name", "config"), [("lit_mini_tok", MINI), ("lit_mini_map_nohead", MAP)])
def test_both_towers_are_the_authors(name, config):
    expected, model, image = authors(name, config)
    with torch.no_grad():
        images, texts = model(image, TOKENS)
        found = {
            "image": images, "text": texts, "temperature": model.temperature,
            "image_norm": model.tower(image).norm(dim=1, keepdim=True),
            "text_norm": model.text(TOKENS).norm(dim=1, keepdim=True),
            "loss": softmax_loss(images, texts, model.temperature),
        }  # fmt: skip
        if model.b is not None:
            found["siglip_loss"] = sigmoid_loss(images, texts, model.temperature, model.b)
    assert set(found) == set(expected["outputs"])
    for what, value in found.items():
        assert golden.deviation(value, expected["outputs"][what]) <= 1e-6, what


def test_published_files_have_a_prefix_stacked_blocks_or_two_tables():
    expected, model, image = authors("lit_mini_tok", MINI)

    def stacked(state):
        """As files from scanned training, with "params/" before every name."""
        inside = "txt/Encoder_0/encoderblock_{}/"
        kept = {n: v for n, v in state.items() if "txt/Encoder_0/encoderblock_" not in n}
        for name in [n for n in state if n.startswith(inside.format(0))]:
            leaf = name.removeprefix(inside.format(0))
            parts = [state[inside.format(i) + leaf] for i in range(TEXT.depth)]
            kept[f"txt/Encoder_0/encoderblock/{leaf}"] = torch.stack(parts)
        return {f"params/{name}": value for name, value in kept.items()}

    def doubled(state):
        """As very old files: part of the positions inside the encoder."""
        half = state["txt/pos_embedding"] / 4
        whole = state["txt/pos_embedding"] - half
        return {**state, "txt/pos_embedding": whole, "txt/Encoder_0/pos_embedding": half}

    for changed in (stacked, doubled):
        _, other, _ = authors("lit_mini_tok", MINI, changed)
        with torch.no_grad():
            for ours, theirs in zip(model(image, TOKENS), other(image, TOKENS), strict=True):
                torch.testing.assert_close(ours, theirs)
    with pytest.raises(CheckpointError, match="does not fit lit"):
        vitrail.load(replace(MINI, bias=True), golden.state(expected))


def test_a_network_of_pairs_is_known_by_its_config():
    assert models.config_from_json(models.config_json(MAP)) == MAP
    assert "lit" not in models.families() and models.config_name(MINI) == "lit"
    assert (input_kind(MINI), input_shape(MINI)) == ("pairs", (3, 64, 64))
    model = vitrail.create(MINI)
    assert model.width == 24 and [tuple(m.shape) for m in model.features(torch.zeros(1, 3, 64, 64))]
    again = vitrail.load(MINI, model.state_dict())
    with torch.no_grad():
        one, two = model.eval().embedded(TOKENS), again.embedded(TOKENS)
    assert one.equal(two)


@pytest.mark.parametrize("pool", ["last", "first", "mean", "max", "map"])
def test_every_word_is_read(pool):
    """There is no mask: changing any word, padding as well, changes the sentence."""
    torch.manual_seed(0)
    model = vitrail.create(replace(MINI, text=replace(TEXT, pool=pool))).double().eval()
    with torch.no_grad():
        before = model.embedded(TOKENS)
        for place in range(TEXT.length):
            tokens = TOKENS.clone()
            tokens[0, place] = 33
            after = model.embedded(tokens)
            assert after[1].equal(before[1]) and (after[0] - before[0]).abs().max() > 1e-6
        torch.testing.assert_close(before.norm(dim=1), torch.ones(2).double())


def test_a_locked_tower_takes_no_gradient():
    model = vitrail.create(MINI).locked().train()
    images, texts = model(torch.randn(2, 3, 64, 64), TOKENS)
    softmax_loss(images, texts, model.temperature).backward()
    assert all(p.grad is None for p in model.tower.parameters())
    learned = {name for name, p in model.named_parameters() if p.grad is not None}
    assert "t" in learned and all(name == "t" or name.startswith("text.") for name in learned)


def test_ranks_and_prototypes():
    basis = torch.eye(4)
    assert recall(basis, basis, (1, 2)) == {1: 1.0, 2: 1.0}
    assert recall(basis, basis.roll(1, 0), (1, 4)) == {1: 0.0, 4: 1.0}
    assert recall(basis, torch.zeros(4, 4), (1, 4)) == {1: 0.0, 4: 1.0}  # ties count against it
    classes = prototypes([basis[:2], basis[3:]])
    torch.testing.assert_close(classes, unit(torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 1]])))


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ConfigError, match="pool of the text is 'best': expected last, first"):
        vitrail.create(replace(MINI, text=replace(TEXT, pool="best")))
    model = vitrail.create(MINI)
    with pytest.raises(ValueError, match=r"tokens are \(2, 7\); this text tower takes \(B, 8\)"):
        model.embedded(TOKENS[:, :7])


def of_a_share(rank, world, folder, told):
    """One of `world` processes: the loss of all pairs from its own, and what its own rows learn."""
    torch.set_num_threads(1)
    import torch.distributed as dist

    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=world)
    images, texts, temperature = pairs()
    mine = slice(3 * rank, 3 * rank + 3)
    own = [x[mine].clone().requires_grad_() for x in (images, texts)]
    bias = torch.tensor(-2.0, dtype=torch.float64)
    loss = softmax_loss(*own, temperature) + sigmoid_loss(*own, temperature, bias)
    loss.backward()
    told.put((rank, loss.item(), *(x.grad.numpy() / world for x in own)))
    dist.barrier()
    dist.destroy_process_group()


def pairs():
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    return unit(x), unit(y), torch.tensor(7.0, dtype=torch.float64)


def test_two_processes_learn_what_one_would(tmp_path):
    """Over all pairs: the mean over processes that training takes is the gradient of the whole."""
    told = multiprocessing.get_context("forkserver").Queue()
    started = [toy.child(of_a_share, rank, 2, str(tmp_path), told) for rank in range(2)]
    shares = {rank: rest for rank, *rest in (told.get(timeout=300) for _ in started)}
    for process in started:
        process.join()
    images, texts, temperature = pairs()
    images.requires_grad_(), texts.requires_grad_()
    bias = torch.tensor(-2.0, dtype=torch.float64)
    loss = softmax_loss(images, texts, temperature) + sigmoid_loss(images, texts, temperature, bias)
    loss.backward()
    for rank in range(2):
        assert shares[rank][0] == pytest.approx(loss.item(), rel=1e-12)
        for x, found in zip((images, texts), shares[rank][1:], strict=True):
            expected = x.grad[3 * rank : 3 * rank + 3]
            torch.testing.assert_close(torch.from_numpy(found), expected)
