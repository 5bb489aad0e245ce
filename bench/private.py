"""What an answer on secrets takes, predicted and measured, with all, half and none of its switches.

    VITRAIL_SPU=ENVIRONMENT python bench/private.py [--dim 48] [--depth 4] [--heads 3] [--side 32]

A ViT of random weights with patches of 4 is computed by two parties on SPU for a random image. What
is printed for each share of switches: bytes and messages of either party, seconds of both
processors and of the clock, each predicted and measured, and the largest difference of a logit.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch

import vitrail
from vitrail.layers.switches import keep, switches
from vitrail.methods import PriViT
from vitrail.methods.private_cost import LAN, operations
from vitrail.models import vit
from vitrail.private.meeting import meet
from vitrail.private.plan import plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, usual in (("dim", 48), ("depth", 4), ("heads", 3), ("side", 32)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--weights", default="shared", choices=("shared", "public"))
    parser.add_argument("--protocol", default="semi2k", choices=("semi2k", "cheetah"))
    options = parser.parse_args()
    torch.manual_seed(0)
    config = vit.Config(
        dim=options.dim, depth=options.depth, heads=options.heads, hidden=4 * options.dim, patch=4,
        image=(options.side, options.side), classes=10, pool="mean",
    )  # fmt: skip
    model = PriViT().apply(vitrail.create(config)).eval()
    torch.nn.init.normal_(model.get_submodule("head").weight, std=0.2)  # pyright: ignore
    image = torch.randn(3, options.side, options.side)
    for share in (1.0, 0.5, 0.0):
        for kind in switches(model):
            for one in kind:
                torch.nn.init.uniform_(one)
            keep(kind, round(share * sum(one.numel() for one in kind)))
        with torch.no_grad():
            expected = model(image[None])[0].numpy()
        made = plan(model)
        met = meet(
            made, made.patches(image), weights=options.weights, protocol=options.protocol
        )  # fmt: skip
        told = operations(model, options.weights)
        print(json.dumps({
            "switches": share, "off": float(np.abs(met.logits - expected).max()),
            "bytes": [told.bytes, met.bytes], "messages": [told.messages, met.messages],
            "processor_s": [round(told.compute_s, 2), round(met.processor_s, 2)],
            "wall_s": [round(told.latency_s(LAN), 2), round(met.run_s, 2)],
        }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
