"""A file that takes sounds: spectrograms, as `data.hearing` makes them, before a run's own graph.

Fourier transforms are one convolution with sines and cosines, so that any runtime knows all
operators. What comes out is the uint8 picture that the graph behind it takes; of a run of waveforms
it is the middle of the sound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.data.hearing import FAINTEST, RANGE_DB, Hearing
from vitrail.engines import sealed
from vitrail.engines.front import prepend
from vitrail.errors import ExportError
from vitrail.measure.session import session

# Levels of 255 by which a picture of the graph may depart, and how many of its pixels may.
LEVELS, SHARE = 1, 0.01


def hearing_graph(hearing: Hearing) -> Any:
    """Make the graph from "sounds", float32 (B, n) at the rate, to "images", uint8 (B, h, w, 1).

    Sounds have any length: of longer ones the middle is heard, shorter ones lie between zeros.
    """
    from onnx import TensorProto, helper, numpy_helper

    h, values = hearing, _constants(hearing)
    at, step, p = {name: f"hearing.{name}" for name in values}, _step, "hearing."
    nodes = [
        *_middle("hearing.clip"),
        step("Abs", [p + "clip"], p + "loud"),
        step("ReduceMax", [p + "loud", at["one"]], p + "peak", keepdims=1),
        step("Max", [p + "peak", at["faintest"]], p + "least"),
        step("Div", [p + "clip", p + "least"], p + "even"),
        step("Pad", [p + "even", at["edge"]], p + "whole"),
        step("Unsqueeze", [p + "whole", at["one"]], p + "wave"),
        step("Conv", [p + "wave", at["kernel"]], p + "waves", strides=[h.step]),
        step("Mul", [p + "waves", p + "waves"], p + "squares"),
        step("Split", [p + "squares"], p + "cosines", axis=1, num_outputs=2),
        step("Add", [p + "cosines", p + "sines"], p + "power"),
        step("MatMul", [at["mel"], p + "power"], p + "bands"),
        step("Add", [p + "bands", at["floor"]], p + "above"),
        step("Log", [p + "above"], p + "log"),
        step("Mul", [p + "log", at["scale"]], p + "scaled"),
        step("Add", [p + "scaled", at["shift"]], p + "levels"),
        step("Clip", [p + "levels", at["black"], at["shift"]], p + "clipped"),
        step("Round", [p + "clipped"], p + "rounded"),
        step("Cast", [p + "rounded"], p + "bytes", to=TensorProto.UINT8),
        step("Unsqueeze", [p + "bytes", p + "last"], "images"),
    ]
    split = next(one for one in nodes if one.op_type == "Split")
    split.output.append("hearing.sines")
    constants = [numpy_helper.from_array(value, at[name]) for name, value in values.items()]
    constants.append(numpy_helper.from_array(np.array([3], np.int64), "hearing.last"))
    given = helper.make_tensor_value_info("sounds", TensorProto.FLOAT, ["batch", "samples"])
    made = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *h.image, 1])
    return helper.make_graph(nodes, "hearing", [given], [made], constants)


def _constants(h: Hearing) -> dict[str, np.ndarray]:
    """Return what the graph computes with, by name."""
    lines = np.arange(h.points // 2 + 1)[:, None] * np.arange(h.window)
    angles = 2 * np.pi * (lines % h.points) / h.points
    kernel = np.concatenate([np.cos(angles), np.sin(angles)]) * h.weights
    return {
        "kernel": kernel[:, None].astype(np.float32),
        "mel": np.ascontiguousarray(h.mel[::-1]).astype(np.float32),
        "edge": np.array([0, h.edge[0], 0, h.edge[1]], np.int64),
        "faintest": np.array(FAINTEST, np.float32),
        "floor": np.array(10 ** (-RANGE_DB / 10 - 1), np.float32),
        "scale": np.array(10 / np.log(10) * 255 / RANGE_DB, np.float32),
        "shift": np.array(255, np.float32),
        "black": np.array(0, np.float32),
        **_constants_of_middle(h.samples),
    }


def middle_graph(hearing: Hearing) -> Any:
    """Make the graph from "sounds", float32 (B, n) at the rate, to "samples", float32 (B, samples):
    the middle of longer sounds, shorter ones between zeros.
    """
    from onnx import TensorProto, helper, numpy_helper

    values = _constants_of_middle(hearing.samples)
    constants = [numpy_helper.from_array(value, f"hearing.{n}") for n, value in values.items()]
    given = helper.make_tensor_value_info("sounds", TensorProto.FLOAT, ["batch", "length"])
    made = helper.make_tensor_value_info("samples", TensorProto.FLOAT, ["batch", hearing.samples])
    return helper.make_graph(_middle("samples"), "hearing", [given], [made], constants)


def _constants_of_middle(n: int) -> dict[str, np.ndarray]:
    return {
        "around": np.array([0, n, 0, n], np.int64),
        "length": np.array([n], np.int64),
        "two": np.array([2], np.int64),
        "one": np.array([1], np.int64),
    }


def _middle(out: str) -> list[Any]:
    """Return the nodes that take the middle of a sound between zeros: at (length + n) / 2 of (n,
    length, n)."""
    p = "hearing."
    return [
        _step("Pad", ["sounds", p + "around"], p + "padded"),
        _step("Shape", ["sounds"], p + "given", start=1, end=2),
        _step("Add", [p + "given", p + "length"], p + "sum"),
        _step("Div", [p + "sum", p + "two"], p + "start"),
        _step("Add", [p + "start", p + "length"], p + "end"),
        _step("Slice", [p + "padded", p + "start", p + "end", p + "one"], out),
    ]


def _step(kind: str, inputs: list[str], out: str, **more: Any) -> Any:
    from onnx import helper

    return helper.make_node(kind, inputs, [out], **more)


def hearing_model(onnx: Path, hearing: Hearing, path: Path) -> None:
    """Write a file that takes sounds, of one that takes their pictures of any size, or samples."""
    import onnx as library

    proto = library.load(onnx)
    samples = proto.graph.input[0].name == "samples"
    prepend((middle_graph if samples else hearing_graph)(hearing), proto.graph)
    kept = [entry for entry in proto.metadata_props if entry.key != sealed.DIGEST]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    sealed.write(path, proto.SerializeToString())


def check_hearing(path: Path, onnx: Path, hearing: Hearing, waves: Sequence[np.ndarray]) -> float:
    """Compare a file that takes sounds with one that takes pictures or samples, on sounds at the
    rate.

    Returns the largest difference of a probability. Raises ExportError where an answer differs, or
    where what it makes of a sound is something else than training saw.
    """
    whole, seen, largest = session(path), session(onnx), 0.0
    entry = seen.get_inputs()[0].name
    alone = None if entry == "samples" else _alone(hearing, onnx, path.with_name("hearing.onnx"))
    for wave in waves:
        shown = hearing.clip(wave)[None]
        if alone is not None:
            picture = hearing.picture(wave)
            _require_near(alone(wave), picture)
            shown = picture[None, ..., None]
        ours = np.asarray(seen.run(["probabilities"], {entry: shown})[0])
        theirs = np.asarray(whole.run(["probabilities"], {"sounds": wave[None]})[0])
        if ours.argmax() != theirs.argmax():
            raise ExportError("the exported file answers a sound otherwise than the run does")
        largest = max(largest, float(np.abs(ours - theirs).max()))
    return largest


def _alone(hearing: Hearing, onnx: Path, path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return what draws the spectrogram of a sound as the exported graph does."""
    _save(hearing_graph(hearing), onnx, path)
    running = session(path)
    path.unlink()
    return lambda wave: np.asarray(running.run(["images"], {"sounds": wave[None]})[0])[0, ..., 0]


def _require_near(heard: np.ndarray, picture: np.ndarray) -> None:
    """Raise ExportError for a spectrogram that departs from the one that training saw."""
    apart = np.abs(heard.astype(int) - picture)
    if apart.max() > LEVELS or (apart > 0).mean() > SHARE:
        raise ExportError(
            f"the exported spectrogram departs by {apart.max()} of 255 in "
            f"{(apart > 0).mean():.1%} of its pixels from that which training saw (allowed: "
            f"{LEVELS}, in {SHARE:.0%})"
        )


def _save(graph: Any, like: Path, path: Path) -> None:
    import onnx as library

    known = library.load(like)
    made = library.helper.make_model(
        graph, opset_imports=known.opset_import, ir_version=known.ir_version
    )
    library.save(made, path)
