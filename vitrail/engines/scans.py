"""A network of lidar scans as ONNX, and a run that answers for points without torch.

The file holds the network between projection and points: float32 range images in, maps out. What
comes before and behind it is NumPy's (`data.lidar.reader`, `engines.kpconv`), and an export is
accepted only if the whole path gives held-back scans the same classes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vitrail import __version__, digests, files
from vitrail.data.labels import Labels
from vitrail.data.lidar.reader import Answered, Network
from vitrail.engines import sealed
from vitrail.engines.kpconv import in_numpy
from vitrail.engines.onnx import TOLERANCE, Exported, quiet
from vitrail.errors import ExportError, RunError
from vitrail.measure.session import session
from vitrail.units import counted

# What answers for scan number n of those that are compared, by a network.
Answer = Callable[[int, Network], Answered]


@dataclass(frozen=True, eq=False)
class Compared:
    """The scans an export is compared on: how each is answered, how many, and how torch does."""

    answer: Answer
    n: int
    ours: Network


def export_scans(
    network: nn.Module,
    state: Mapping[str, Any],
    labels: Labels,
    path: str | os.PathLike,
    compared: Compared,
) -> Exported:
    """Write `network`, of images (B, 5, H, W), and compare whole scans, refined by `state` in
    NumPy, with the model in torch.

    Raises ExportError, and leaves what was at `path`, when torch cannot export it, when the class
    of any point differs by more than a tie, or a score by 1e-4 or more.
    """
    path, tie = Path(path), digests.of_model(state, labels)
    try:
        with files.replacing(path) as part:
            _write(network.eval(), labels, tie, part)
            theirs = in_numpy(session(part), state, compared.ours.neighbours)
            largest = _largest(compared, theirs)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written ({files.reason(error)}): free some space, then do it again"
        ) from error
    size = path.stat().st_size
    return Exported(path, size, compared.n, largest, False, "held-back scans")


def _write(network: nn.Module, labels: Labels, tie: str, path: Path) -> None:
    import onnx

    example = torch.zeros(2, labels.channels, *labels.image)
    try:
        with quiet():
            program = torch.onnx.export(
                network, (example,), dynamo=True, input_names=["images"], output_names=["maps"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), verbose=False,
            )  # fmt: skip
    except Exception as error:  # whatever an operator makes the exporter stumble over
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"the model cannot be exported to ONNX: {first}") from error
    proto = program.model_proto  # pyright: ignore[reportOptionalMemberAccess]
    facts = labels.to_json() | {"vitrail": __version__, sealed.TIE: tie}
    sealed.strip(proto)
    onnx.helper.set_model_props(
        proto, {k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items()}
    )
    sealed.write(path, proto.SerializeToString())


def _largest(compared: Compared, theirs: Network) -> float:
    """Return the largest difference of a score, relative to the largest
    score. Raises ExportError.
    """
    differences, changed, points = [], 0, 0
    for at in range(compared.n):
        ours, other = compared.answer(at, compared.ours), compared.answer(at, theirs)
        scale = max(1.0, float(np.abs(ours.scores).max()))
        differences.append(float(np.abs(ours.scores - other.scores).max()) / scale)
        changed += _changed(ours, other)
        points += len(ours.labels)
    largest = float(np.max(differences))
    if changed or not largest < TOLERANCE:
        raise ExportError(
            f"the exported file does not compute what the model does: of "
            f"{counted(points, 'point')} {changed} get another class, and scores differ by up to "
            f"{largest:.1e} (allowed: 0, and {TOLERANCE:.0e})"
        )
    return largest


def _changed(ours: Answered, other: Answered) -> int:
    """Count the points of another class, but for those whose two best
    scores are one to rounding.
    """
    differ = ours.labels != other.labels
    best = np.sort(ours.scores[differ], 1)
    return int((best[:, -1] - best[:, -2] > TOLERANCE).sum())
