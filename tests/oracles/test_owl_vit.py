"""OWL-ViT and OWLv2 against transformers with the same random weights."""

from dataclasses import replace

import torch
from agree import scatter
from support.peers import transformers

import vitrail
from vitrail.models.owl_vit import Config, Text, Vision

SMALL = Config(
    Vision(48, 2, 3, 96, 8),
    Text(97, 8, 32, 2, 4, 64),
    width=32,
    convention="transformers",
    image=(32, 32),
)
TOKENS = torch.tensor([[95, 5, 17, 96, 0, 0, 0, 0], [95, 33, 96, 0, 0, 0, 0, 0]])


def peer(config, network):
    text = {
        "vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 8,
    }  # fmt: skip
    vision = {
        "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 3, "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    made = network(config(text_config=text, vision_config=vision, projection_dim=32))
    return scatter(made)


def deviation(theirs, ours, image=(32, 32)):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 3, *image, generator=generator, dtype=torch.float64)
    more = {"interpolate_pos_encoding": True} if image != (32, 32) else {}
    with torch.no_grad():
        y = theirs(pixel_values=x, input_ids=TOKENS, attention_mask=TOKENS > 0, **more)
        found = ours(x, TOKENS[None])
    pairs = [(y.logits, found.logits), (y.class_embeds, found.embeddings)]
    if found.objectness is not None:
        pairs.append((y.objectness_logits, found.objectness))
    # transformers computes what is added to boxes in float32
    assert (y.pred_boxes - found.boxes).abs().max() <= 1e-4
    return max(float((a - b).abs().max() / a.std()) for a, b in pairs)


def test_owl_vit():
    theirs = peer(transformers.OwlViTConfig, transformers.OwlViTForObjectDetection)
    ours = vitrail.load(SMALL, theirs.state_dict(), source="transformers", dtype=torch.float64)
    assert deviation(theirs, ours) <= 1e-6
    assert deviation(theirs, ours, (48, 40)) <= 1e-6


def test_owlv2():
    theirs = peer(transformers.Owlv2Config, transformers.Owlv2ForObjectDetection)
    config = replace(SMALL, objectness=True)
    ours = vitrail.load(config, theirs.state_dict(), source="transformers", dtype=torch.float64)
    assert deviation(theirs, ours) <= 1e-6
