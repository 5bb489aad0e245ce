"""What a latency is made of, in words: the model, the resize before it, and the decoding."""

from __future__ import annotations

from vitrail.report.timings import LatencyFacts
from vitrail.units import percent, seconds


def composed(latency: LatencyFacts) -> str:
    """Say for which picture a latency is, and what decoding takes beside it; "" if not known.

    A resize is named where there is one, that is where the model's median is not the whole.
    """
    picture = latency.picture
    if picture is None:
        return ""
    height, width = picture.size
    said = f"for a {picture.called} of {width}x{height}"
    if picture.resize_s > 0:
        share = percent(picture.resize_s / latency.p50_s)
        said += f": model {seconds(picture.model_s)}, resize {seconds(picture.resize_s)} ({share})"
    if picture.decode_s is None:
        return said
    return f"{said}; decoding it from {picture.format} takes {seconds(picture.decode_s)} more"


def resized(latency: LatencyFacts | None) -> list[str]:
    """Return what to say below the times of a race: one sentence where they hold a resize."""
    if latency is None or latency.picture is None or not latency.picture.resize_s:
        return []
    height, width = latency.picture.size
    return [f"Each time includes that to resize a {latency.picture.called} of {width}x{height}."]
