"""What an exported file does to images before its model, without torch: upright, resized, floats.

See `engines.onnx` for what the Resize agrees with.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitrail.data.labels import Labels


def front(labels: Labels, *, inside: bool) -> Any:
    """Make the graph from "images", uint8 (B, h, w, C), to "pixels", float32 (B, C, H, W)."""
    from onnx import TensorProto, helper

    shape = [labels.channels, *labels.image]
    nodes = [helper.make_node("Transpose", ["images"], ["front.upright"], perm=[0, 3, 1, 2])]
    constants = []
    if inside:
        constants = [helper.make_tensor("front.shape", TensorProto.INT64, [3], shape)]
        # All four sizes are given: ONNX Runtime's optimizer breaks a Resize of two axes.
        nodes += [
            helper.make_node("Cast", ["front.upright"], ["front.float"], to=TensorProto.FLOAT),
            helper.make_node("Shape", ["images"], ["front.batch"], start=0, end=1),
            helper.make_node("Concat", ["front.batch", "front.shape"], ["front.sizes"], axis=0),
            helper.make_node(
                "Resize",
                ["front.float", "", "", "front.sizes"],
                ["front.resized"],
                mode="linear",
                coordinate_transformation_mode="half_pixel",
                antialias=1,
                exclude_outside=1,
            ),
            helper.make_node("Round", ["front.resized"], ["pixels"]),
        ]
    else:
        nodes.append(helper.make_node("Cast", ["front.upright"], ["pixels"], to=TensorProto.FLOAT))
    size = ["height", "width"] if inside else list(labels.image)
    given = ("images", TensorProto.UINT8, ["batch", *size, labels.channels])
    made = ("pixels", TensorProto.FLOAT, ["batch", *shape])
    given, made = (helper.make_tensor_value_info(*info) for info in (given, made))
    return helper.make_graph(nodes, "front", [given], [made], constants)


def save_front(labels: Labels, path: Path, opsets: Sequence[Any] = ()) -> None:
    """Write what a file does to images before its model, resize included, as a file of its own."""
    from onnx import helper, save

    # The oldest operators whose Resize knows `antialias`.
    opsets, graph = opsets or [helper.make_opsetid("", 18)], front(labels, inside=True)
    save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)


def fixed_size(path: Path, labels: Labels) -> Any:
    """Return the exported file without its Resize, for images of the model's size only."""
    import onnx

    proto = onnx.load(path)
    for field in ("node", "initializer", "value_info"):
        kept = [entry for entry in getattr(proto.graph, field) if not _of_front(entry)]
        proto.graph.ClearField(field)
        getattr(proto.graph, field).extend(kept)
    prepend(front(labels, inside=False), proto.graph)
    return proto


def _of_front(entry: Any) -> bool:
    """Return whether a node makes, or another entry names, a part of `front`."""
    name = entry.output[0] if hasattr(entry, "output") else entry.name
    return name == "pixels" or name.startswith("front.")


def prepend(before: Any, graph: Any) -> None:
    """Put a graph before another, whose only input is what it makes."""
    nodes = [*before.node, *graph.node]
    for field, values in (("input", before.input), ("node", nodes)):
        graph.ClearField(field)
        getattr(graph, field).extend(values)
    graph.initializer.extend(before.initializer)
    graph.value_info.extend(before.output)
