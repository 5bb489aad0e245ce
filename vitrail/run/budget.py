"""What the user allows: latency of the exported model, multiply-adds, parameters."""

from __future__ import annotations

from dataclasses import dataclass

from vitrail.run.pictures import Pictures
from vitrail.units import count, seconds


@dataclass(frozen=True)
class Budget:
    """Limits that a model must keep; None sets no limit.

    The latency is that of the exported file in `engine` on the CPU, batch 1, with `threads`
    threads; with "auto" in the fastest that is installed. `device` is where the training runs.
    With `pictures` it is that of one of them, its resize included, else of an image that has the
    model's size. Where resizing takes longer than the limit already (`beyond`), the model alone is
    held to it, for whoever gives smaller pictures.
    """

    latency_s: float | None = None
    macs: int | None = None
    params: int | None = None
    threads: int = 1
    device: str = "auto"
    engine: str = "onnxruntime"
    pictures: Pictures | None = None
    beyond: bool = False

    def resize_s(self, image: tuple[int, int], channels: int) -> float:
        """Return the seconds that a picture's resize to `image` = (height, width) takes."""
        return 0.0 if self.pictures is None else self.pictures.resize_s(image, channels)

    def room_s(self, image: tuple[int, int], channels: int) -> float | None:
        """Return the seconds that the resize leaves to the model, possibly less than none.

        Without a limit it is None.
        """
        if self.latency_s is None or self.beyond:
            return self.latency_s
        return self.latency_s - self.resize_s(image, channels)

    def allows(self, *, params: int, macs: int, latency_s: float | None = None) -> bool:
        """Return whether the given figures keep every limit; a latency not yet known keeps its own.

        `latency_s` is that of a picture with its resize.
        """
        return (
            (self.params is None or params <= self.params)
            and (self.macs is None or macs <= self.macs)
            and (self.latency_s is None or latency_s is None or latency_s <= self.latency_s)
        )

    def excess(self, *, params: int, macs: int, latency_s: float | None = None) -> float:
        """Return how many times over the tightest limit the given figures
        are; up to 1 is allowed.
        """
        shares = [0.0]
        if self.params is not None:
            shares.append(params / self.params)
        if self.macs is not None:
            shares.append(macs / self.macs)
        if self.latency_s is not None and latency_s is not None:
            shares.append(latency_s / self.latency_s)
        return max(shares)

    def spoken(self) -> str:
        """Return the limits in words, such as "latency 20 ms, 50 M multiply-adds"."""
        limits = []
        if self.latency_s is not None:
            one = self.pictures
            of = f" for a {one.called} of {one.spoken()}" if one else ""
            limits.append(f"latency {seconds(self.latency_s)} on {self.threads} threads{of}")
        if self.macs is not None:
            limits.append(f"{count(self.macs)} multiply-adds")
        if self.params is not None:
            limits.append(f"{count(self.params)} parameters")
        return ", ".join(limits) or "no limit"
