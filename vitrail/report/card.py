"""The model card: the README.md of a run folder."""

from __future__ import annotations

from vitrail.report.facts import Facts
from vitrail.report.page import verdict
from vitrail.units import count, percent, seconds, size

_USE = """\
```python
import json
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
facts = session.get_modelmeta().custom_metadata_map
height, width = json.loads(facts["image"])
images = np.zeros((1, height, width, int(facts["channels"])), np.uint8)  # yours
probabilities, logits = session.run(None, {"images": images})
print(json.loads(facts["classes"])[probabilities[0].argmax()], probabilities[0].max())
```"""


def render_card(facts: Facts) -> str:
    """The card as Markdown."""
    model, data = facts.model, facts.data
    height, width = model.image
    colour = "grey" if model.channels == 1 else "RGB"
    lines = [f"# {_text(model.name)}", "", _text(verdict(facts)), "", "| | |", "| --- | --- |"]
    rows = [("classes", ", ".join(data.classes)), ("images", f"{height}x{width}, {colour}")]
    if facts.test:
        t = facts.test
        interval = f"95 % interval {percent(t.low)} to {percent(t.high)}, {t.n} images"
        rows.append(("test accuracy", f"{percent(t.accuracy)} ({interval})"))
    if facts.latency:
        s = facts.latency
        where = f"{s.engine}, {s.device}, {s.threads} threads, batch 1"
        rows.append(("latency", f"{seconds(s.p50_s)}, 90 % below {seconds(s.p90_s)} ({where})"))
        rows += [(f"in {e.title}", seconds(e.p50_s)) for e in facts.engines if not e.counts]
    rows += [
        ("parameters", count(model.params)),
        ("multiply-adds", count(model.macs)),
        ("file", size(facts.size_bytes)),
    ]
    if facts.calibration:
        c = facts.calibration
        rows.append(
            ("calibration", f"temperature {c.temperature:.2f}, error {percent(c.ece_after)}")
        )
    if model.pretrained:
        rows.append(("began from", model.pretrained))
    parts = ", ".join(f"{name} {sum(counts):,}" for name, counts in data.parts.items())
    rows.append(("data", f"{data.name}: {parts} images"))
    lines += [f"| {name} | {_text(value)} |" for name, value in rows]
    lines += [
        "",
        "## Use",
        "",
        f"`vitrail predict . image.jpg{_engine(facts)}`, or, with ONNX Runtime alone:",
        "",
        _USE,
        "",
        "The graph takes uint8 images, rows first, channels last, and does the rest itself; "
        "where its metadata say `resize` is `inside`, images may have any size.",
        "",
        "## Limits",
        "",
        "- It knows its classes and nothing else: whatever it is shown, it answers with one of "
        "them.",
        "- The figures hold for images like those of the test part; another camera, light or "
        "selection may change them.",
        "- Whether the model may be used as you wish is a question to the owners of the images.",
        "",
        "## Again",
        "",
        f"```\n{facts.command}\n```",
        "",
        "report.html tells everything; recipe.json repeats the training.",
    ]
    return "\n".join(lines) + "\n"


def _engine(facts: Facts) -> str:
    """The option that answers as it was timed, where that is not with the ONNX file."""
    chosen = [e.name for e in facts.engines if e.counts and e.gain is not None]
    return f" --engine {chosen[0]}" if chosen else ""


def _text(value: str) -> str:
    """Text in a table's cell: no bar ends it, no sign becomes markup."""
    for sign in "\\|<>*_`[]":
        value = value.replace(sign, "\\" + sign)
    return " ".join(value.split())
