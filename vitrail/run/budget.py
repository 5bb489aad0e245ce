"""What the user allows: latency of the exported model, multiply-adds, parameters."""

from __future__ import annotations

from dataclasses import dataclass

from vitrail.units import count, seconds


@dataclass(frozen=True)
class Budget:
    """Limits that a model must keep; None is no limit.

    The latency is that of the exported file in `engine` on the CPU, batch 1, with `threads`
    threads; with "auto" in the fastest that is installed. `device` is where the training runs.
    """

    latency_s: float | None = None
    macs: int | None = None
    params: int | None = None
    threads: int = 1
    device: str = "auto"
    engine: str = "onnxruntime"

    def allows(self, *, params: int, macs: int, latency_s: float | None = None) -> bool:
        """Whether the given figures keep every limit; a latency not yet known keeps its own."""
        return (
            (self.params is None or params <= self.params)
            and (self.macs is None or macs <= self.macs)
            and (self.latency_s is None or latency_s is None or latency_s <= self.latency_s)
        )

    def excess(self, *, params: int, macs: int, latency_s: float | None = None) -> float:
        """How many times over the tightest limit the given figures are; up to 1 is allowed."""
        shares = [0.0]
        if self.params is not None:
            shares.append(params / self.params)
        if self.macs is not None:
            shares.append(macs / self.macs)
        if self.latency_s is not None and latency_s is not None:
            shares.append(latency_s / self.latency_s)
        return max(shares)

    def spoken(self) -> str:
        """The limits in words, such as "latency 20 ms, 50 M multiply-adds"."""
        limits = []
        if self.latency_s is not None:
            limits.append(f"latency {seconds(self.latency_s)} on {self.threads} threads")
        if self.macs is not None:
            limits.append(f"{count(self.macs)} multiply-adds")
        if self.params is not None:
            limits.append(f"{count(self.params)} parameters")
        return ", ".join(limits) or "no limit"
