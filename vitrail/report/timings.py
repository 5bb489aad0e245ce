"""How long an answer takes, as plain values: the latency that counts, and that of other engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# What a latency was measured on: the exported file, or the model in torch.
Clock = Literal["exported", "torch"]


@dataclass(frozen=True)
class PictureFacts:
    """The pictures of a latency, of `size` (height, width): what the model and the resize take.

    `model_s` is the median for an image that has the model's size, `resize_s` what is beyond it in
    that for a picture, both in seconds. `decode_s`, not part of the latency, is the time from a
    file of `format` to pixels, None where pictures are not files. `called` is what they are called.
    """

    size: tuple[int, int]
    model_s: float
    resize_s: float
    decode_s: float | None = None
    format: str = ""
    called: str = "picture"


@dataclass(frozen=True)
class LatencyFacts:
    """Time for one image in seconds: median, 90th percentile, over n runs of `engine`.

    With `picture` it is that of such a picture, its resize to the model's size included.
    """

    p50_s: float
    p90_s: float
    n: int
    engine: str = "ONNX Runtime"
    threads: int = 1
    device: str = "CPU"
    picture: PictureFacts | None = None


@dataclass(frozen=True)
class EngineFacts:
    """An engine that took turns with the others: its time for one image in seconds.

    `counts` marks the engine whose latency is reported, `quickest_s` is its shortest run. `gain`
    is how many times as fast as ONNX Runtime it is, with a 95 % interval, `max_logit_difference`
    how far its logits are from the model's on held-back images; ONNX Runtime has neither.
    """

    name: str
    title: str
    p50_s: float
    p90_s: float
    n: int
    counts: bool
    quickest_s: float
    gain: tuple[float, float, float] | None = None
    max_logit_difference: float | None = None
