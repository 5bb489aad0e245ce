"""The model card: the README.md of a run folder."""

from __future__ import annotations

from vitrail.report.facts import DataFacts, Facts
from vitrail.report.pictures import composed
from vitrail.report.scores import Baseline
from vitrail.report.steps import folder, longer_run
from vitrail.report.taken import FILES, GRAPHS, USE, inputs
from vitrail.report.text import sentence
from vitrail.report.verdict import headline, verdict
from vitrail.units import count, counted, percent, seconds, size

_OPEN = """\
```python
import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("model.onnx")
facts = session.get_modelmeta().custom_metadata_map
classes, (height, width) = json.loads(facts["classes"]), json.loads(facts["image"])

picture = ImageOps.exif_transpose(Image.open(sys.argv[1]))
picture = picture.convert("L" if facts["channels"] == "1" else "RGB")
if facts["resize"] != "inside":
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
pixels = np.asarray(picture).reshape(1, picture.height, picture.width, -1)
"""
_READ = f"""{_OPEN}
probabilities, logits = session.run(None, {{"images": pixels}})
"""
_USE = (
    _READ
    + """\
for place in probabilities[0].argsort()[::-1][:3]:
    print(f"{probabilities[0, place]:.1%} {classes[place]}")
```"""
)
_USE_LABELS = (
    _READ
    + """\
for name, share, least in zip(classes, probabilities[0], json.loads(facts["thresholds"])):
    if share >= least:
        print(f"{share:.1%} {name}")
```"""
)
_USE_MASKS = (
    _OPEN
    + """\

mask, logits = session.run(None, {"images": pixels})
Image.fromarray(mask[0]).save("mask.png")
for label, name in enumerate(classes):
    print(f"{(mask[0] == label).mean():.1%} {name}")
```"""
)
_USE_BOXES = (
    _OPEN
    + """\

boxes, scores, labels, image = session.run(None, {"images": pixels})
for box, score, label in zip(boxes, scores, labels):
    if score >= json.loads(facts["threshold"]):
        print(f"{classes[label]} {score:.2f} {box.round(1).tolist()}")
```"""
)
_KNOWN_BOXES = (
    "It finds objects of these classes only, and says nothing of what else is in an image."
)
_USE_SOUNDS = """```python
import json
import sys

import onnxruntime
import soundfile

session = onnxruntime.InferenceSession("sound.onnx")
facts = session.get_modelmeta().custom_metadata_map
classes, hearing = json.loads(facts["classes"]), json.loads(facts["hearing"])
wave, rate = soundfile.read(sys.argv[1], dtype="float32", always_2d=True)
assert rate == hearing["rate"], f"resample it to {hearing['rate']} Hz, as vitrail predict does"
probabilities, logits = session.run(None, {"sounds": wave.mean(1)[None]})
for place in probabilities[0].argsort()[::-1][:3]:
    print(f"{probabilities[0, place]:.1%} {classes[place]}")
```"""
_KNOWN_MASKS = "It knows these classes only: every pixel gets one of them."
_KNOWN = "It knows these classes only: it answers every {} with one of them."
# What else may change where the data come from.
_SOURCE = {
    "images": "camera, light", "series": "sensor", "clips": "camera, light",
    "waves": "microphone, room",
}  # fmt: skip
_KNOWN_LABELS = "It knows these labels only, and says nothing of what else is in an image."


def render_card(facts: Facts) -> str:
    """Return the card as Markdown."""
    data = facts.data
    lines = [f"# {_text(facts.model.shown)}", ""]
    lines += [f"**{_text(headline(facts))}.**", ""] if facts.test else []
    lines += [_text(verdict(facts)), "", "| | |", "| --- | --- |"]
    rows = [*_of_data(facts), *_of_test(facts), *_of_latency(facts), *_of_model(facts)]
    lines += [f"| {_text(name)} | {_text(value)} |" for name, value in rows]
    lines += [
        "",
        "## Use",
        "",
        *(_of_sounds(facts) if data.heard else _use(facts)),
        "",
        "## Next",
        "",
        "```",
        *_next(facts),
        "```",
        "",
        "## Limits",
        "",
        f"- {_known(facts)}",
        f"- The figures hold for {data.items} like those of the test split; another "
        f"{_SOURCE['waves' if data.heard else data.takes]} or selection may change them.",
        f"- Whether you may use the model depends on the rights to the {data.items} it was trained "
        "on.",
        "",
        "## Repeat",
        "",
        f"```\n{sentence(facts.command)}\n```",
        "",
        "report.html has all figures; recipe.json is the complete training recipe.",
    ]
    return "\n".join(lines) + "\n"


def _of_data(facts: Facts) -> list[tuple[str, str]]:
    """Return the rows on what the model knows and takes."""
    data = facts.data
    return [
        ("labels" if data.noun == "label" else "classes", ", ".join(data.classes)),
        (data.items, _sizes(facts)),
        *([("sounds", data.heard)] if data.heard else []),
    ]


def _of_test(facts: Facts) -> list[tuple[str, str]]:
    """Return the rows on the test split, none without one."""
    t, data = facts.test, facts.data
    if t is None:
        return []
    interval = f"95 % interval {percent(t.low)} to {percent(t.high)}"
    text = f"{percent(t.accuracy)} ({interval}, {counted(t.n, data.item, data.items)})"
    rows = [(f"test {t.name}", text)]
    if t.balanced is not None:
        rows.append(("balanced accuracy", percent(t.balanced)))
    rows += [(name, percent(value)) for name, value in t.figures.items()]
    return rows + [(one.name, _baseline(one)) for one in facts.baselines]


def _of_latency(facts: Facts) -> list[tuple[str, str]]:
    """Return the rows on what an answer takes, none where it was not measured."""
    s = facts.latency
    if s is None:
        return []
    where = f"{s.engine}, {s.device}, {counted(s.threads, 'thread')}, batch 1"
    rows = [("latency", f"{seconds(s.p50_s)}, 90 % below {seconds(s.p90_s)} ({where})")]
    rows += [("that is", composed(s))] if s.picture else []
    return rows + [(f"in {e.title}", seconds(e.p50_s)) for e in facts.engines if not e.counts]


def _of_model(facts: Facts) -> list[tuple[str, str]]:
    """Return the rows on the model's size, its origin, and what it learned from."""
    model, data, c = facts.model, facts.data, facts.calibration
    rows = [
        ("parameters", count(model.params)),
        ("multiply-adds", count(model.macs)),
        ("file", size(facts.size_bytes)),
    ]
    if c:
        error = percent(c.ece_after)
        rows.append(("calibration", f"temperature {c.temperature:.2f}, error {error}"))
    if model.pretrained:
        rows.append(("started from", model.pretrained))
    if model.taught_by:
        rows.append(("taught by", model.taught_by))
    parts = ", ".join(f"{name} {data.size(name):,}" for name in data.parts)
    rows.append(("data", f"{data.name}: {parts} {data.items}"))
    if model.shown != model.name:
        rows.append(("exact name", model.name))
    return rows


def _sizes(facts: Facts) -> str:
    """Return what the model takes, in a cell of the table."""
    if facts.data.takes != "images" or facts.data.heard:
        return inputs(facts.model, facts.data)
    height, width = facts.model.image
    return f"{height}x{width}, {'grey' if facts.model.channels == 1 else 'RGB'}"


def _program(data: DataFacts) -> str:
    """Return the program that reads the answers of a file of images."""
    if data.maps or data.boxes:
        return _USE_MASKS if data.maps else _USE_BOXES
    return _USE_LABELS if data.several else _USE


def _use(facts: Facts) -> list[str]:
    """Return how the model is asked, by the command line and by a program of a few lines."""
    data = facts.data
    file = FILES[data.takes]
    if data.takes != "images":
        given = "walk.csv" if data.takes == "series" else file
        more = "PyAV" if data.takes == "clips" else "NumPy"
        return [
            f"`vitrail predict . {file}`, or, with ONNX Runtime and {more} alone, `python use.py "
            f"{given}` with this as `use.py` beside `model.onnx`:",
            "", USE[data.takes], "", GRAPHS[data.takes],
        ]  # fmt: skip
    return [
        f"`vitrail predict . {file}{_engine(facts)}`, or, with ONNX Runtime, NumPy and Pillow "
        f"alone, `python use.py {file}` with this as `use.py` beside `model.onnx`:",
        "",
        _program(data),
        "",
        "The graph takes uint8 images, rows first, channels last, and normalises them itself. "
        "Where its metadata have `resize` as `inside`, it resizes images of any size as well.",
        "",
        "Transparent pictures and those of 16 bits need what `vitrail predict` does for them.",
    ]


def _of_sounds(facts: Facts) -> list[str]:
    """Say how sounds are answered."""
    return [
        "`vitrail predict . sound.wav`, or, with ONNX Runtime and soundfile alone, "
        "`python use.py sound.wav` with this as `use.py` beside `sound.onnx`:",
        "",
        _USE_SOUNDS,
        "",
        "The graph takes float32 sounds of one channel, of any length, "
        + (
            f"and hears the middle of longer ones ({facts.data.heard}). `model.onnx` takes just as "
            "many samples as that is."
            if facts.data.takes == "waves"
            else f"and makes spectrograms itself ({facts.data.heard}): of longer sounds it hears "
            "the middle. `model.onnx` takes the spectrograms as uint8."
        ),
    ]


def _known(facts: Facts) -> str:
    """Return what becomes of images of other classes."""
    data = facts.data
    if data.maps or data.boxes:
        return _KNOWN_MASKS if data.maps else _KNOWN_BOXES
    if data.several:
        return _KNOWN_LABELS
    if facts.refusal is None:
        return _KNOWN.format(facts.data.item)
    r = facts.refusal
    share = "" if r.unknown is None else f", as of about {percent(r.unknown, 0)} of unknown classes"
    return (
        f'It knows these classes only. `vitrail predict` says "none of these" below a probability '
        f"of {r.threshold:.2f}{share}; other {facts.data.items} of unknown classes get a wrong "
        "answer."
    )


def _baseline(one: Baseline) -> str:
    balanced = "" if one.balanced is None else f" (balanced {percent(one.balanced)})"
    return f"{percent(one.accuracy)}{balanced}"


def _next(facts: Facts) -> list[str]:
    """Return what to do next, a command a line; those that name the run are for its own folder."""
    if facts.data.maps or facts.data.boxes:
        what = "masks" if facts.data.maps else "boxes"
        lines = [f"vitrail predict . images/    # write {what}, and pictures of them"]
        return lines + _longer(facts)
    if facts.data.heard:
        return ["vitrail predict . sounds/    # tell sounds, or folders of them", *_longer(facts)]
    tests = [
        f"vitrail evaluate . labelled/    # test it on other {facts.data.items} with known classes"
    ]
    if facts.data.takes != "images":
        return tests + _longer(facts)
    lines = [
        *([] if facts.data.several else tests),
        "vitrail explain . image.jpg     # see what it looks at",
        "vitrail export . --engine openvino --int8    # make files for another engine",
    ]
    return lines + _longer(facts)


def _longer(facts: Facts) -> list[str]:
    """Return the command of a longer fit, where the run is one."""
    longer = longer_run(facts)
    where = "" if folder(facts) == "." else ", typed where this run was started"
    return [f"{sentence(longer)}    # search and train for longer{where}"] if longer else []


def _engine(facts: Facts) -> str:
    """Return the option that names the engine of the latency, where that is not ONNX Runtime."""
    chosen = [e.name for e in facts.engines if e.counts and e.gain is not None]
    return f" --engine {chosen[0]}" if chosen else ""


def _text(value: str) -> str:
    """Prepare text for a table's cell: no bar ends it, no sign becomes
    markup, nothing is hidden.
    """
    value = sentence(value)
    for sign in "\\|<>*_`[]":
        value = value.replace(sign, "\\" + sign)
    return value
