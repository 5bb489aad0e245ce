"""OWL-ViT's towers, heads and queries by pictures against the authors' figures."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from support import golden

import vitrail
from vitrail import models
from vitrail.errors import CheckpointError, ConfigError
from vitrail.models.owl_vit import CLIP, QUERIED, Config, Text, Vision
from vitrail.models.parts.query_heads import cells
from vitrail.models.trunk.catalog import shapes

# One image a row of three sentences, the last of the first image being padding.
TOKENS = torch.tensor(
    [
        [[95, 5, 17, 96, 0, 0, 0, 0], [95, 33, 96, 0, 0, 0, 0, 0], [0] * 8],
        [[95, 8, 9, 10, 11, 96, 0, 0], [95, 40, 41, 96, 0, 0, 0, 0], [95, 2, 96, 0, 0, 0, 0, 0]],
    ]
)
MINI = Config(
    Vision(48, 3, 3, 192, 16),
    Text(97, 16, 32, 2, 4, 64),
    width=32,
    convention="transformers",
    image=(64, 64),
)
SCENIC = Config(Vision(128, 3, 2, 512, 16), Text(97, 8, 32, 2, 4, 128), width=32, image=(64, 64))


def authors(name, config, source, changed=lambda state: state):
    expected = golden.read(golden.FOLDER / "blocks" / f"{name}.json")
    state = changed(golden.state(expected))
    model = vitrail.load(config, state, source=source, dtype=torch.float64)
    return expected, model, golden.image(expected["input_shape"])


def agree(found, expected):
    assert set(found) == set(expected["outputs"])
    for what, value in found.items():
        assert golden.deviation(value, expected["outputs"][what]) <= 1e-6, what


def test_transformers_convention():
    expected, model, image = authors("owlvit_mini", MINI, "transformers")
    # Left out are a projection, the temperature, and the class token's row of positions.
    assert sum(p.numel() for p in model.parameters()) == expected["params"] - 48 * 32 - 1 - 48
    with torch.no_grad():
        found = model(image, TOKENS)
        assert (found.logits[0, :, 2] == torch.finfo(torch.float64).min).all()
        logits = found.logits.masked_fill(TOKENS[:, None, :, 0] == 0, 0)
        texts = model.queries(TOKENS.flatten(0, 1)).unflatten(0, (2, 3))
        images = model.features(image)[0]
    agree(
        {
            "pred_boxes": found.boxes, "logits": logits, "image_embeds": images,
            "text_embeds": texts, "class_embeds": found.embeddings,
        },
        expected,
    )  # fmt: skip
    assert found.objectness is None


def test_a_picture_asks():
    expected, model, image = authors("owlvit_mini_image_guided", MINI, "transformers")
    with torch.no_grad():
        query = model.query_of(image[1:])
        found = model.find(image[:1], query[None, None])
        other = model.find(image[1:], query[None, None])
    agree(
        {
            "target_pred_boxes": found.boxes, "logits": found.logits,
            "query_pred_boxes": other.boxes, "class_embeds": found.embeddings,
        },
        expected,
    )  # fmt: skip


def test_a_picture_asks_for_what_is_in_a_box():
    """The query is then of a candidate there: one whose own box is asked for is chosen."""
    _, model, image = authors("owlvit_mini", MINI, "transformers")
    with torch.no_grad():
        own = model.class_head.embed(model.features(image[:1])[0].flatten(1, 2))[0]
        boxes = model.find(image[:1], own[None, :1]).boxes[0]
        for place in (0, 9):
            x, y, w, h = boxes[place]
            query = model.query_of(
                image[:1], torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
            )
            assert (query - own[place]).abs().max() <= 1e-12


def scenic(image):
    """Pixels from 0 to 1 as the network takes them."""
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (CLIP.mean, CLIP.std))
    return (image.sigmoid() - mean) / std


def test_authors_convention():
    source = "google-research/scenic"
    expected, model, image = authors("owlvit_mini_scenic", SCENIC, source)
    assert sum(p.numel() for p in model.parameters()) == expected["params"] - 1 - 128
    image = scenic(image)
    with torch.no_grad():
        found = model(image, TOKENS)
        assert (found.logits[0, :, 2] == -1e6).all()
        logits = found.logits.masked_fill(TOKENS[:, None, :, 0] == 0, 0)
        texts = model.queries(TOKENS.flatten(0, 1)).unflatten(0, (2, 3))
        images = model.features(image)[0]
    agree(
        {
            "feature_map": images, "query_embeddings": texts, "pred_logits": logits,
            "class_embeddings": found.embeddings, "pred_boxes": found.boxes,
        },
        expected,
    )  # fmt: skip

    def old(state):
        """As old files, whose blocks count LayerNorms from 1, with "params/" before all."""
        named = (
            (n.replace("/ln_1/", "/ln_2/").replace("/ln_0/", "/ln_1/"), v) for n, v in state.items()
        )
        return {f"params/{n.replace('resblocks_', 'resblocks.')}": v for n, v in named}

    _, again, _ = authors("owlvit_mini_scenic", SCENIC, source, old)
    with torch.no_grad():
        assert again(image, TOKENS).logits.equal(found.logits)


@pytest.mark.parametrize("name", QUERIED)
def test_published_counts(name):
    variant = models.queried()[name]
    count = sum(map(math.prod, shapes(variant.config).values()))
    assert abs(count / 1e6 - variant.params_m) <= 0.05
    assert models.config_name(replace(variant.config, image=(224, 224))) == name
    assert models.config_from_json(models.config_json(variant.config)) == variant.config


def test_boxes_begin_at_the_lower_right_corner_of_their_cells():
    """Without what the head learns: the patch's corner, and a patch's size."""
    h, w = 3, 4
    shares = cells((h, w), alike=False).sigmoid().view(h, w, 4)
    assert shares.dtype == torch.float64
    # Behind a sigmoid, log(t + 1e-4) - log(1 - t + 1e-4) is (t + 1e-4) / (1 + 2e-4).
    x, y = (torch.arange(1, n + 1).double() / n for n in (w, h))
    softened = lambda t: (t + 1e-4) / (1 + 2e-4)  # noqa: E731
    torch.testing.assert_close(shares[..., 0], softened(x).expand(h, w))
    torch.testing.assert_close(shares[..., 1], softened(y)[:, None].expand(h, w))
    sizes = softened(torch.tensor([1 / w, 1 / h], dtype=torch.float64))
    torch.testing.assert_close(shares[..., 2:], sizes.expand(h, w, 2))
    alike = cells((h, w), alike=True).sigmoid()[:, 2:]
    torch.testing.assert_close(alike, sizes[:1].expand(h * w, 2))
    model = vitrail.create(replace(MINI, image=(48, 64))).double()
    found = model.find(torch.randn(1, 3, 48, 64).double(), torch.zeros(1, 1, 32).double())
    assert (found.boxes[0].view(h, w, 4) - shares).abs().max() < 1e-12


def test_smaller_images_take_the_upper_left_positions():
    torch.manual_seed(0)
    model = vitrail.create(SCENIC).double().eval()
    image = torch.randn(1, 3, 32, 48).double()
    with torch.no_grad():
        model.tower.embed.position.unflatten(1, (4, 4))[:, 2:] = 9
        before = model.features(image)[0]
        model.tower.embed.position.unflatten(1, (4, 4))[:, :, 3:] = 7
        assert model.features(image)[0].equal(before) and before.shape == (1, 2, 3, 128)
    with pytest.raises(ValueError, match=r"image is 80x64, positions are for 64x64 at most"):
        model.features(torch.zeros(1, 3, 80, 64).double())
    moved = vitrail.load(SCENIC, model.state_dict(), image=(80, 64))
    assert moved(torch.zeros(1, 3, 80, 64), TOKENS[:1]).boxes.shape == (1, 20, 4)


def test_objects_are_told_without_teaching_the_tower():
    torch.manual_seed(0)
    model = vitrail.create(replace(MINI, objectness=True)).train()
    found = model(torch.randn(2, 3, 64, 64), TOKENS)
    assert found.objectness.shape == (2, 16)
    found.objectness.sum().backward()
    learned = {n for n, p in model.named_parameters() if p.grad is not None}
    assert learned and all(n.startswith("objectness_head.") for n in learned)


@pytest.mark.slow  # all families of the catalog are asked first
def test_files_are_told_apart():
    config = QUERIED["owlvit_b32"].config
    state = {n: torch.empty(s, device="meta") for n, s in shapes(config).items()}
    found = models.identify_state(state)
    assert found is not None and (found.name, found.source) == ("owlvit_b32", "vitrail")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"convention": "theirs"}, "convention"),
        ({"tower": Vision(48, 3, 5, 192, 16)}, "heads"),
        ({"image": (60, 64)}, "image is 60x64; patches of 16 pixels"),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes, said):
    with pytest.raises(ConfigError, match=said):
        vitrail.create(MINI, **changes)


def test_input_that_does_not_fit_is_named():
    model = vitrail.create(MINI)
    with pytest.raises(ValueError, match="this text tower takes"):
        model.queries(torch.ones(1, 17, dtype=torch.long))
    with pytest.raises(ValueError, match=r"input is \(1, 1, 64, 64\); this owl_vit takes"):
        model(torch.zeros(1, 1, 64, 64), TOKENS[:1])
    with pytest.raises(CheckpointError, match="does not fit owl_vit"):
        vitrail.load(replace(MINI, objectness=True), model.state_dict())
