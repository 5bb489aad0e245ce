"""PVT against transformers with the same random weights."""

import torch
from agree import difference
from support.peers import transformers

from vitrail.models.pvt import Config

SMALL = Config(
    dims=(16, 32, 40, 64),
    depths=(1, 2, 1, 1),
    heads=(1, 2, 5, 4),
    ratios=(2, 2, 3, 3),
    image=(64, 64),
    classes=7,
)


def test_transformers():
    peer = transformers.PvtForImageClassification(
        transformers.PvtConfig(
            image_size=64,
            hidden_sizes=list(SMALL.dims),
            depths=list(SMALL.depths),
            num_attention_heads=list(SMALL.heads),
            mlp_ratios=list(SMALL.ratios),
            sequence_reduction_ratios=list(SMALL.reductions),
            num_labels=7,
        )
    )
    for name, module in peer.named_modules():
        if isinstance(module, torch.nn.LayerNorm):  # it has one eps for all, the authors two
            inner = "patch_embeddings" in name or name.endswith("self.layer_norm")
            module.eps = 1e-5 if inner else 1e-6
    assert difference(peer, SMALL, "transformers", (64, 64), lambda y: y.logits) <= 1e-6
