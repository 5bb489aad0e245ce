"""Training from the cache against training on tensors that are already in memory.

    python bench/loading.py [--steps 200] [--rounds 5]

The same small network, optimizer and batches; alternating, medians. Prints the ratio of the
rates, and how long `vitrail --help` and `import vitrail` take.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

import torch

from vitrail.data.augment import Augment
from vitrail.data.batches import Batches
from vitrail.data.cache import pixels
from vitrail.data.cache import statistics as channel_statistics
from vitrail.data.gate import inspect
from vitrail.data.opening import open_source
from vitrail.data.split import divide
from vitrail.measure.machine import machine
from vitrail.models import create
from vitrail.models.resnet import Config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(machine())
    split = divide(inspect(open_source("fashion-sample"), progress=False))
    images = pixels(split.train, (28, 28), 1, progress=False)
    mean, std = channel_statistics(images)
    batches = Batches(images, batch=128, augment=Augment(), mean=mean, std=std)
    ready = [batches.get(0, n) for n in range(min(16, len(batches)))]
    config = Config((1, 1, 1), (32, 64, 128), 1, 3, 2, image=(28, 28), channels=1, classes=10)
    model = create(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def run(feed) -> float:
        start = time.perf_counter()
        for batch in feed:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(batch.images), batch.targets).backward()
            optimizer.step()
        return options.steps / (time.perf_counter() - start)

    rates: dict[str, list[float]] = {"memory": [], "cache": []}
    for _ in range(options.rounds + 1):
        rates["memory"].append(run(ready[n % len(ready)] for n in range(options.steps)))
        rates["cache"].append(run(batches.iterate(0, stop=options.steps, workers=1)))
    memory, cache = (statistics.median(r[1:]) for r in rates.values())
    print(f"cache {cache:.1f} steps/s, memory {memory:.1f}: {100 * cache / memory:.0f} %")
    for words in (["-m", "vitrail", "--help"], ["-c", "import vitrail"]):
        times = []
        for _ in range(7):
            start = time.perf_counter()
            subprocess.run([sys.executable, *words], check=True, capture_output=True)
            times.append(time.perf_counter() - start)
        print(f"python {' '.join(words)}: {statistics.median(times):.2f} s")


if __name__ == "__main__":
    main()
