"""Counters in the text form that Prometheus reads (exposition format 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


class Histogram:
    """How often values fell below each of some bounds."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str) -> list[str]:
        """Return its lines, each count with those below it."""
        found, below = [], 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            below += count
            found.append(f'{name}_bucket{{le="{bound}"}} {below}')
        return [*found, f"{name}_sum {self.total:.6f}", f"{name}_count {below}"]


class Metrics:
    """What a server has done: requests by status, images, seconds of answers, sizes of batches."""

    def __init__(self) -> None:
        self.requests: Counter[int] = Counter()
        self.images = 0
        self.seconds, self.batches = Histogram(SECONDS), Histogram(SIZES)

    def text(self, waiting: int) -> str:
        """Return all of it, with the number of images that wait now."""
        lines = _head("vitrail_requests_total", "counter", "Requests for predictions by status.")
        lines += [
            f'vitrail_requests_total{{status="{status}"}} {count}'
            for status, count in sorted(self.requests.items())
        ]
        lines += _head("vitrail_images_total", "counter", "Images answered.")
        lines.append(f"vitrail_images_total {self.images}")
        lines += _head("vitrail_waiting_images", "gauge", "Images that wait for their batch.")
        lines.append(f"vitrail_waiting_images {waiting}")
        lines += _head("vitrail_request_seconds", "histogram", "Seconds from body to answer.")
        lines += self.seconds.lines("vitrail_request_seconds")
        lines += _head("vitrail_batch_images", "histogram", "Images of a batch.")
        lines += self.batches.lines("vitrail_batch_images")
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
