"""What dense answers cost, measured once: networks in turns, in float32, eager, on one thread.

    python bench/dense_speed.py [--image 512] [--rounds 5] [--batch 1]

A ViT's answer for every pixel beside its classification at that size and the head alone; OWL-ViT
beside transformers with the same weights; UPerNet on Swin beside transformers', and RetinaNet and
Faster R-CNN on a ResNet-50 beside torchvision's, all of the same sizes with weights of their own.
Detectors answer to the end: boxes after the non-maximum suppression. Times are medians of the
rounds; a ratio above 1 says how many times as long the peer takes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import vitrail
from vitrail.models import faster_rcnn, resnet, retinanet, segmenter, vit
from vitrail.models.parts.mask_transformer import MaskDecoder
from vitrail.models.trunk.sliding import resized

CLASSES = 150
Call = Callable[[], Any]


def medians(calls: dict[str, Call], rounds: int) -> dict[str, float]:
    """Return the seconds of each call, taking turns, the first round left out."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for at in range(rounds + 1):
            for name, call in calls.items():
                began = time.perf_counter()
                call()
                if at:
                    found[name].append(time.perf_counter() - began)
    return {name: statistics.median(some) for name, some in found.items()}


def dense(x: Tensor, rounds: int) -> None:
    """Compare a ViT's maps with its classification and the head alone."""
    side = x.shape[-1]
    host = vit.Config(192, 12, 3, 768, 16, image=(side, side), classes=CLASSES)
    whole = vitrail.create(host).eval()
    for name, decoder in (("linear", segmenter.LinearDecoder()), ("mask", MaskDecoder())):
        model: Any = vitrail.create(segmenter.Config(host, decoder)).eval()
        with torch.no_grad():
            map = model.embedding(x)

        def head(model: Any = model, map: Tensor = map) -> Tensor:
            return resized(model.head(map).movedim(-1, 1), (side, side))

        told = medians(
            {"dense": lambda model=model: model(x), "class": lambda: whole(x), "head": head},
            rounds,
        )
        share = told["dense"] / (told["class"] + told["head"])
        said = ", ".join(f"{key} {1000 * value:.0f} ms" for key, value in told.items())
        print(f"ViT-Ti/16 at {side}, {name}: {said}; {share:.3f} of class and head", flush=True)


def owl(batch: int) -> dict[str, Call]:
    """Return OWL-ViT of ours and of transformers with the same weights."""
    import transformers

    theirs: Any = transformers.OwlViTForObjectDetection(transformers.OwlViTConfig()).eval()
    config = vitrail.resolve("owlvit_b32", convention="transformers")
    ours = vitrail.load(config, theirs.state_dict(), source="transformers").eval()
    x, tokens = torch.randn(batch, 3, 768, 768), torch.zeros(2 * batch, 16, dtype=torch.long)
    tokens[:, :4] = torch.tensor([49406, 320, 1929, 49407])
    return {
        "ours": lambda: ours(x, tokens.view(batch, 2, 16)),
        "transformers": lambda: theirs(
            pixel_values=x, input_ids=tokens, attention_mask=(tokens > 0).long()
        ),
    }


def upernet(x: Tensor) -> dict[str, Call]:
    """Return UPerNet on Swin-T of ours and of transformers, without the auxiliary head."""
    import transformers

    swin = transformers.SwinConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
    config = transformers.UperNetConfig(
        backbone_config=swin, hidden_size=512, use_auxiliary_head=False, num_labels=CLASSES
    )
    theirs: Any = transformers.UperNetForSemanticSegmentation(config).eval()
    ours = vitrail.create("upernet_swin_tiny", image=tuple(x.shape[-2:])).eval()
    return {"ours": lambda: ours(x), "transformers": lambda: theirs(x)}


def detectors(x: Tensor) -> dict[str, dict[str, Call]]:
    """Return two detectors of ours and of torchvision on a ResNet-50."""
    from torchvision.models import detection

    side, found = x.shape[-1], {}
    host = resnet.Config(image=(side, side), classes=91)
    same = {"weights": None, "weights_backbone": None, "min_size": side, "max_size": side}
    for name, ours, theirs in (
        ("RetinaNet", retinanet.Config(host), detection.retinanet_resnet50_fpn),
        ("Faster R-CNN", faster_rcnn.Config(host), detection.fasterrcnn_resnet50_fpn),
    ):
        mine: Any = vitrail.create(ours).eval()
        other = theirs(**same).eval()
        pixels = list(x.clamp(0, 1))
        found[name] = {
            "ours": lambda mine=mine: mine.found(mine(x)),
            "torchvision": lambda other=other, pixels=pixels: other(pixels),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--image", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=1)
    asked = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    x = torch.rand(asked.batch, 3, asked.image, asked.image)
    dense(x, asked.rounds)
    pairs = {"OWL-ViT B/32 at 768": lambda: owl(asked.batch)}
    pairs["UPerNet on Swin-T"] = lambda: upernet(x)
    pairs |= {name: lambda own=own: own for name, own in detectors(x).items()}
    for name, make in pairs.items():
        told = medians(make(), asked.rounds)
        ours, theirs = told.values()
        said = ", ".join(f"{key} {1000 * value:.0f} ms" for key, value in told.items())
        print(f"{name}: {said}; {theirs / ours:.2f}", flush=True)


if __name__ == "__main__":
    main()
