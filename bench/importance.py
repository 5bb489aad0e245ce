"""How much sooner UP-ViTs' importances are told by the fast form than by the plain one.

    python bench/importance.py --model deit_tiny --images 2 --channels 40

The plain form makes a model for every channel, so that only some channels are asked of it, evenly
over all widths, and its time for all is told from these; the fast one tells all. Both are asked
about the same images in the same precision, and must agree. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time

import torch

import vitrail
from vitrail.compression.up_vit import candidates, importances, slow
from vitrail.measure.machine import machine
from vitrail.models.trunk.widths import sizes


def main() -> None:
    """Measure one model, and print what was found."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--model", default="deit_tiny", help="a variant")
    options.add_argument("--image", type=int, default=224)
    options.add_argument("--depth", type=int, help="fewer blocks, to try the script")
    options.add_argument("--images", type=int, default=2)
    options.add_argument("--channels", type=int, default=40, help="that the plain form is asked")
    options.add_argument("--threads", type=int, default=1)
    asked = options.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    changes = {"depth": asked.depth} if asked.depth else {}
    model = vitrail.create(asked.model, image=(asked.image,) * 2, **changes).eval()
    images = torch.randn(asked.images, 3, asked.image, asked.image)
    every = [(w, c) for w, n in sizes(model).items() for c in range(n)]
    some = every[:: max(1, len(every) // asked.channels)]

    began = time.perf_counter()
    with torch.no_grad():
        plain = {(w, c): v for (w, (c,), v) in slow(model, images, some)}
    plain_s = (time.perf_counter() - began) / len(some) * len(every)
    began = time.perf_counter()
    found = importances(model, [images])
    fast_s = time.perf_counter() - began
    apart = max(float((found[w][c] - v).abs().max()) for (w, c), v in plain.items())
    told = {
        "model": asked.model, "image": asked.image, "images": asked.images,
        "channels": candidates(model), "asked_plainly": len(some), "threads": asked.threads,
        "plain_s": plain_s, "fast_s": fast_s, "ratio": plain_s / fast_s,
        "largest_difference": apart, "cpu": machine().get("cpu"),
    }  # fmt: skip
    print(json.dumps(told))


if __name__ == "__main__":
    main()
