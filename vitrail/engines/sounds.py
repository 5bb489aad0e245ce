"""A file that takes sounds: spectrograms, as `data.hearing` makes them, before a run's own graph.

Fourier transforms are one convolution with sines and cosines, so that any runtime knows all
operators. What comes out is the uint8 picture that the graph behind it takes.
"""

from __future__ import annotations

from collections.abc import Sequence
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

    h, node, values = hearing, helper.make_node, _constants(hearing)
    at = {name: f"hearing.{name}" for name in values}

    def step(kind: str, inputs: list[str], out: str, **more: Any) -> Any:
        return node(kind, inputs, [out if out == "images" else f"hearing.{out}"], **more)

    p = "hearing."
    nodes = [
        # The middle of a sound between zeros: at (length + n) / 2 of (n, length, n).
        step("Pad", ["sounds", at["around"]], "padded"),
        step("Shape", ["sounds"], "given", start=1, end=2),
        step("Add", [p + "given", at["length"]], "sum"),
        step("Div", [p + "sum", at["two"]], "start"),
        step("Add", [p + "start", at["length"]], "end"),
        step("Slice", [p + "padded", p + "start", p + "end", at["one"]], "clip"),
        step("Abs", [p + "clip"], "loud"),
        step("ReduceMax", [p + "loud", at["one"]], "peak", keepdims=1),
        step("Max", [p + "peak", at["faintest"]], "least"),
        step("Div", [p + "clip", p + "least"], "even"),
        step("Pad", [p + "even", at["edge"]], "whole"),
        step("Unsqueeze", [p + "whole", at["one"]], "wave"),
        step("Conv", [p + "wave", at["kernel"]], "waves", strides=[h.step]),
        step("Mul", [p + "waves", p + "waves"], "squares"),
        step("Split", [p + "squares"], "cosines", axis=1, num_outputs=2),
        step("Add", [p + "cosines", p + "sines"], "power"),
        step("MatMul", [at["mel"], p + "power"], "bands"),
        step("Add", [p + "bands", at["floor"]], "above"),
        step("Log", [p + "above"], "log"),
        step("Mul", [p + "log", at["scale"]], "scaled"),
        step("Add", [p + "scaled", at["shift"]], "levels"),
        step("Clip", [p + "levels", at["black"], at["shift"]], "clipped"),
        step("Round", [p + "clipped"], "rounded"),
        step("Cast", [p + "rounded"], "bytes", to=TensorProto.UINT8),
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
    n = h.samples
    lines = np.arange(h.points // 2 + 1)[:, None] * np.arange(h.window)
    angles = 2 * np.pi * (lines % h.points) / h.points
    kernel = np.concatenate([np.cos(angles), np.sin(angles)]) * h.weights
    return {
        "kernel": kernel[:, None].astype(np.float32),
        "mel": np.ascontiguousarray(h.mel[::-1]).astype(np.float32),
        "around": np.array([0, n, 0, n], np.int64),
        "length": np.array([n], np.int64),
        "two": np.array([2], np.int64),
        "one": np.array([1], np.int64),
        "edge": np.array([0, h.edge[0], 0, h.edge[1]], np.int64),
        "faintest": np.array(FAINTEST, np.float32),
        "floor": np.array(10 ** (-RANGE_DB / 10 - 1), np.float32),
        "scale": np.array(10 / np.log(10) * 255 / RANGE_DB, np.float32),
        "shift": np.array(255, np.float32),
        "black": np.array(0, np.float32),
    }


def hearing_model(onnx: Path, hearing: Hearing, path: Path) -> None:
    """Write a file that takes sounds, of one that takes their pictures of any size."""
    import onnx as library

    proto = library.load(onnx)
    prepend(hearing_graph(hearing), proto.graph)
    kept = [entry for entry in proto.metadata_props if entry.key != sealed.DIGEST]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    sealed.write(path, proto.SerializeToString())


def check_hearing(path: Path, onnx: Path, hearing: Hearing, waves: Sequence[np.ndarray]) -> float:
    """Compare a file that takes sounds with one that takes pictures, on sounds at the rate.

    Returns the largest difference of a probability. Raises ExportError where an answer differs, or
    where a spectrogram is another one than that which training saw.
    """
    graph = path.with_name("hearing.onnx")
    _save(hearing_graph(hearing), onnx, graph)
    alone, whole, seen = session(graph), session(path), session(onnx)
    graph.unlink()
    largest = 0.0
    for wave in waves:
        picture = hearing.picture(wave)
        heard = np.asarray(alone.run(["images"], {"sounds": wave[None]})[0])[0, ..., 0]
        apart = np.abs(heard.astype(int) - picture)
        if apart.max() > LEVELS or (apart > 0).mean() > SHARE:
            raise ExportError(
                f"the exported spectrogram departs by {apart.max()} of 255 in "
                f"{(apart > 0).mean():.1%} of its pixels from that which training saw (allowed: "
                f"{LEVELS}, in {SHARE:.0%})"
            )
        ours = np.asarray(seen.run(["probabilities"], {"images": picture[None, ..., None]})[0])
        theirs = np.asarray(whole.run(["probabilities"], {"sounds": wave[None]})[0])
        if ours.argmax() != theirs.argmax():
            raise ExportError("the exported file answers a sound otherwise than its spectrogram")
        largest = max(largest, float(np.abs(ours - theirs).max()))
    return largest


def _save(graph: Any, like: Path, path: Path) -> None:
    import onnx as library

    known = library.load(like)
    made = library.helper.make_model(
        graph, opset_imports=known.opset_import, ir_version=known.ir_version
    )
    library.save(made, path)
