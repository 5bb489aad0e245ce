"""How what a model takes is said: on the page, in the next steps, and in the model card."""

from __future__ import annotations

from vitrail.report.facts import DataFacts, ModelFacts

# An example of a file, and of what labelled data look like.
FILES = {
    "images": "image.jpg", "series": "walks.ts", "clips": "clip.mp4", "waves": "sound.wav",
}  # fmt: skip
# What a program of a few lines does with model.onnx.
_HEAD = """\
```python
import json
import sys

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
facts = session.get_modelmeta().custom_metadata_map
classes, (height, width) = json.loads(facts["classes"]), json.loads(facts["image"])
"""
_TAIL = """\
for place in probabilities[0].argsort()[::-1][:3]:
    print(f"{probabilities[0, place]:.1%} {classes[place]}")
```"""
USE = {
    "series": _HEAD + """
# A row for each step, a column for each feature; NaN behind the last step and where one is missing.
numbers = np.genfromtxt(sys.argv[1], delimiter=",", dtype=np.float32)[:height]
series = np.full((1, height, numbers.shape[1]), np.nan, np.float32)
series[0, : len(numbers)] = numbers
probabilities, logits = session.run(None, {"series": series})
""" + _TAIL,
    "clips": _HEAD + """
import av
from PIL import Image

frames, stride = int(facts["frames"]), int(facts["stride"])
with av.open(sys.argv[1]) as video:
    seen = [np.asarray(frame.to_image().resize((width, height), Image.Resampling.BILINEAR))
            for frame in video.decode(video=0)]
first = max(0, (len(seen) - (frames - 1) * stride - 1) // 2)
rows = np.minimum(first + stride * np.arange(frames), len(seen) - 1)
clip = np.stack(seen)[rows][None]
probabilities, logits = session.run(None, {"clips": clip})
""" + _TAIL,
}  # fmt: skip
GRAPHS = {
    "series": "The graph takes float32 series, (batch, steps, features) in the features' own "
    "units, and normalises them itself; NaN stands for what is missing.",
    "clips": "The graph takes uint8 clips, (batch, frames, rows, columns, RGB), and normalises "
    "them itself. Videos that are rotated or have an uneven rate of frames need what `vitrail "
    "predict` does for them.",
}


def inputs(model: ModelFacts, data: DataFacts) -> str:
    """Return in words what a model takes: "colour images of 224×224"."""
    height, width = model.image
    if data.takes == "series":
        return f"series of {height} steps, {model.channels} numbers each"
    if data.takes == "clips":
        frames = model.config.get("frames", "")
        return f"clips of {frames} frames of {height}×{width}"
    if data.takes == "waves":
        return f"waveforms of {width:,} samples"
    if data.heard:
        return f"spectrograms of {height}×{width}"
    return f"{'grey' if model.channels == 1 else 'colour'} images of {height}×{width}"


def sizes(data: DataFacts, *, resize_inside: bool) -> str:
    """Say in a sentence which sizes an exported file takes."""
    if data.takes == "waves":
        return "`sound.onnx` takes sounds of any length and hears the middle of them."
    if data.heard:
        return "`sound.onnx` takes sounds of any length and makes their spectrograms itself."
    if resize_inside:
        return "It takes images of any size and resizes them itself."
    return f"It takes {data.items} of its own size only."
