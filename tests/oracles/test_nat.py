"""transformers' names of DiNAT, all of them.

The library calls kernels of a package that cannot be installed here, so its outputs stand aside:
its parameters go through the table, and ours back by hand.
"""

import torch
from agree import scatter
from support.peers import transformers

import vitrail
from vitrail.models.nat import Config

SMALL = Config(
    dim=16, depths=(1, 2), heads=(2, 4), kernel=3, dilations=(1, 2), scale=1e-5, classes=7
)


def test_transformers(monkeypatch):
    monkeypatch.setattr(
        transformers.models.dinat.modeling_dinat, "requires_backends", lambda *_: None
    )
    sizes = {"embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "kernel_size": 3}
    config = transformers.DinatConfig(**sizes, layer_scale_init_value=1e-5, num_labels=7)
    peer = scatter(transformers.DinatForImageClassification(config)).state_dict()
    ours = vitrail.load(SMALL, peer, source="transformers", dtype=torch.float64).state_dict()
    assert sum(v.numel() for v in ours.values()) == sum(v.numel() for v in peer.values())
    theirs, block = "dinat.encoder.levels.1.layers.1.", "stages.1.blocks.1."
    for leaf in ("weight", "bias"):
        split = [peer[f"{theirs}attention.self.{n}.{leaf}"] for n in ("query", "key", "value")]
        assert torch.equal(ours[f"{block}mixer.qkv.{leaf}"], torch.cat(split))
    scales = torch.stack([ours[f"{block}scale{n}.gamma"] for n in (1, 2)])
    assert torch.equal(scales, peer[f"{theirs}layer_scale_parameters"])
    down = peer["dinat.encoder.levels.0.downsample.reduction.weight"]
    assert torch.equal(ours["stages.1.down.0.weight"], down)
