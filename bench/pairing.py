"""What share of a training step of OWL-ViT its pairing of predictions and objects takes.

    python bench/pairing.py [--model owlvit_b32] [--image 768] [--batch 1] [--objects 20]
        [--queries 80] [--steps 5]

A step is one forward and one backward pass of random images and the loss; pairing is the costs of
all predictions for all objects and the assignment. Medians over the steps, on one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

import vitrail
from vitrail.models.parts.query_losses import Objects, loss, paired


def objects(number: int, queries: int, generator: torch.Generator) -> Objects:
    """Return random boxes, each of one query."""
    boxes = 0.25 + 0.5 * torch.rand(number, 4, generator=generator)
    labels = torch.zeros(number, queries)
    labels[torch.arange(number), torch.randint(queries, (number,), generator=generator)] = 1
    return Objects(boxes, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="owlvit_b32")
    parser.add_argument("--image", type=int, default=768)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--objects", type=int, default=20)
    parser.add_argument("--queries", type=int, default=80)
    parser.add_argument("--steps", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    model = vitrail.create(asked.model, image=(asked.image, asked.image)).train()
    width = model.config.width
    steps, pairings = [], []
    for _ in range(asked.steps + 1):
        image = torch.randn(asked.batch, 3, asked.image, asked.image, generator=generator)
        queries = torch.randn(asked.batch, asked.queries, width, generator=generator)
        truth = [objects(asked.objects, asked.queries, generator) for _ in range(asked.batch)]
        began = time.perf_counter()
        found = model.find(image, queries)  # pyright: ignore[reportCallIssue]
        loss(found, truth)["loss"].backward()
        steps.append(time.perf_counter() - began)
        began = time.perf_counter()
        for logits, boxes, own in zip(found.logits, found.boxes, truth, strict=True):
            paired(logits.detach(), boxes.detach(), own)
        pairings.append(time.perf_counter() - began)
    step, pairing = (statistics.median(some[1:]) for some in (steps, pairings))
    print(
        f"{asked.model} at {asked.image}: {found.boxes.shape[1]} candidates, {asked.objects} "
        f"objects; a step {step:.3f} s, pairing {1000 * pairing:.2f} ms, {pairing / step:.2%}"
    )


if __name__ == "__main__":
    main()
