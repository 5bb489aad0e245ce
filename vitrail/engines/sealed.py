"""A run's ONNX file: nothing of the machine that made it inside, and a digest of itself at its end.

The last entry of its metadata, "sha256", is that of all bytes before it. A message of this format
goes on where another ends, so the entry is just written behind the rest: whoever reads ONNX finds
it in its place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail import files
from vitrail.config import loads
from vitrail.data.labels import Labels
from vitrail.errors import RunError
from vitrail.measure.session import session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

# The metadata entry that says which weights and labels the file was made of.
TIE = "of"
MOST_BYTES = 2 << 30
DIGEST = "sha256"
_KEY = DIGEST.encode()
# An entry of ModelProto.metadata_props, which is field 14: its key is field 1, its value field 2.
_HEAD = b"\x72" + bytes([4 + len(_KEY) + 64, 0x0A, len(_KEY)]) + _KEY + b"\x12\x40"


def strip(proto: Any) -> None:
    """Remove from a model what the exporter noted: stack traces with the paths of this machine,
    names of Python modules, doc strings. What the model computes does not change.
    """
    for message in _messages(proto):
        for field in ("metadata_props", "doc_string"):
            if field in message.DESCRIPTOR.fields_by_name:
                message.ClearField(field)


def _messages(message: Any) -> Iterator[Any]:
    """Yield a message of protobuf and all that are in it."""
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in value if field.is_repeated else (value,):
                yield from _messages(inner)


def write(path: Path, data: bytes) -> None:
    """Write a serialized model with its digest at the end. Raises OSError."""
    path.write_bytes(data + _HEAD + hashlib.sha256(data).hexdigest().encode())


def open_sealed(path: Path, labels: Labels, tie: str | None, again: str) -> InferenceSession:
    """Open a run's ONNX file in ONNX Runtime, if it is as it was written and of this run.

    `tie` is the digest of the run's weights and labels, None where the run knows none; `again`
    the command that writes the file again. Raises RunError.
    """
    try:
        data = files.read(path, MOST_BYTES)
    except OSError as error:
        raise RunError(
            f"{path} cannot be read ({files.reason(error)}): write it again by `{again}`"
        ) from error
    body, seal = data[: -len(_HEAD) - 64], data[-len(_HEAD) - 64 :]
    if seal != _HEAD + hashlib.sha256(body).hexdigest().encode():
        raise RunError(f"{path} is damaged or was changed: write it again by `{again}`")
    running = session(path)
    try:
        facts = running.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError as error:
        raise RunError(
            f"{path} has facts that are not text: write it again by `{again}`"
        ) from error
    differ = [name for name, ours in labels.to_json().items() if _fact(facts.get(name)) != ours]
    if differ:
        raise RunError(
            f"{path} differs from the run in its {differ[0]}: write it again by `{again}`"
        )
    if tie is not None and facts.get(TIE) != tie:
        raise RunError(f"{path} is of other weights than the run: write it again by `{again}`")
    return running


def _fact(text: str | None) -> Any:
    try:
        return None if text is None else loads(text)
    except ValueError:
        return text
