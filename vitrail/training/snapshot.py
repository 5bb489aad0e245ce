"""A training on disk: one checksummed file per snapshot, written whole or not at all.

A snapshot is a safetensors file with the tensors of the model, its average, the optimizer and
the objective, and everything else as JSON in its metadata, beside a sha256 of all of it.
There is no pickle in it. The last two are kept, so that a damaged one has a predecessor.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vitrail import digests, files
from vitrail.checkpoint import Mismatch
from vitrail.config import loads, parse
from vitrail.errors import CheckpointError, ConfigError, RunError
from vitrail.units import shortened

FORMAT = "vitrail training 1"
KEPT = 2

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Standing:
    """What a snapshot's plain data must be, whatever else is among them."""

    step: int
    loss: float | None = None
    caution: float = 1.0
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.step < 0 or not 0 < self.caution <= 1:
            raise ConfigError(f"step {self.step} and caution {self.caution} are of no training")
        if self.loss is not None and not math.isfinite(self.loss):
            raise ConfigError(f"loss {self.loss} is not a finite number")


class Snapshot(NamedTuple):
    """What one file holds: named tensors on the CPU, and the rest as plain data."""

    path: Path
    tensors: Tensors
    state: dict[str, Any]


# ---- files -----------------------------------------------------------------------------


def write(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write the snapshot of step `state["step"]` and drop all but the last two.

    Raises RunError when the disk is full or the folder cannot be written; the snapshots that
    were there stay.
    """
    path = folder / f"step-{state['step']:09d}.safetensors"
    stored = _separate(tensors)
    text = json.dumps(state, sort_keys=True)
    metadata = {"format": FORMAT, "state": text, "sha256": digests.of_tensors(stored, text)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as part:
            save_file(stored, part, metadata=metadata)
        for old in _files(folder)[KEPT:]:
            old.unlink()
    except (OSError, SafetensorError) as error:
        kept = "the one before is kept; " if present(folder) else ""
        raise RunError(
            f"the snapshot {path} cannot be written ({files.reason(error)}): {kept}free some "
            "space, then go on with --resume"
        ) from error
    return path


def newest(folder: Path) -> Snapshot | None:
    """Return the last undamaged snapshot of a folder, None when there is none at all.

    A damaged one is passed over with a warning. Raises CheckpointError when all are damaged.
    """
    files = _files(folder)
    for path in files:
        try:
            return read(path)
        except CheckpointError as error:
            warnings.warn(f"{error}; trying the one before", stacklevel=2)
    if files:
        raise CheckpointError(
            f"none of the {len(files)} snapshots in {folder} can be read: start again in a new "
            "folder"
        )
    return None


def read(path: Path) -> Snapshot:
    """Read one snapshot, checked against its sha256. Raises CheckpointError."""
    try:
        files.check(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"snapshot {path} is damaged ({files.reason(error)})") from error
    if metadata.get("format") != FORMAT:
        found = shortened(repr(metadata.get("format")))
        raise CheckpointError(
            f"{path} is of format {found}, not {FORMAT!r}: it was not written by this version's "
            "training"
        )
    text = metadata.get("state", "")
    if digests.of_tensors(tensors, text) != metadata.get("sha256"):
        raise CheckpointError(f"snapshot {path} is damaged (its sha256 does not fit)")
    try:
        state = loads(text)
        known = {one.name for one in fields(Standing)}
        standing = parse(Standing, {name: state[name] for name in state if name in known})
    except (ValueError, TypeError, ConfigError) as error:
        raise CheckpointError(f"snapshot {path} is damaged ({error})") from error
    return Snapshot(path, tensors, state | asdict(standing))


def present(folder: Path) -> bool:
    """Return whether a folder holds any snapshot."""
    return bool(_files(folder))


def _files(folder: Path) -> list[Path]:
    """Return the snapshots in a folder, the newest first."""
    found = (path for path in folder.glob("step-*.safetensors") if path.is_file())
    return sorted(found, reverse=True)


def _separate(tensors: Mapping[str, Tensor]) -> Tensors:
    """Return contiguous tensors on the CPU of which no two share memory,
    as safetensors needs them.
    """
    stored: Tensors = {}
    seen: set[int] = set()
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        memory = value.untyped_storage().data_ptr()
        if memory in seen:
            value = value.clone()
        seen.add(memory)
        stored[name] = value
    return stored


# ---- what is in them -------------------------------------------------------------------


Optimizers = Mapping[str, torch.optim.Optimizer]


def collect(modules: Mapping[str, nn.Module], optimizers: Optimizers) -> Tensors:
    """Return everything that a training has to remember, as tensors `part.name`.

    `modules` maps "model" and further parts to their modules; the slots of an optimizer are
    `OPTIMIZER.SLOT.PARAMETER`, where parameters of other parts than the model are `part/name`.
    """
    tensors = _states(modules)
    for which, optimizer in optimizers.items():
        for name, parameter in _trained(modules, optimizer).items():
            for slot, value in optimizer.state.get(parameter, {}).items():
                if value is not None:
                    tensors[f"{which}.{slot}.{name}"] = value
    return tensors


def restore(snapshot: Snapshot, modules: Mapping[str, nn.Module], optimizers: Optimizers) -> None:
    """Give the modules and the optimizers what `collect` took, in place.

    Raises CheckpointError, and changes nothing, unless every tensor has its place and every
    place its tensor.
    """
    live, missing, unexpected = _states(modules), [], []
    filled = []
    for which, optimizer in optimizers.items():
        trained = _trained(modules, optimizer)
        slots, strangers = _slots(which, snapshot.tensors, trained)
        unexpected += strangers
        for (slot, name), value in slots.items():
            shape = value.shape if slot == "step" else _shape(optimizer, slot, trained[name])
            live[f"{which}.{slot}.{name}"] = value.new_empty(()).expand(shape)
        names = {slot for slot, _ in slots}
        touched = {name for _, name in slots}
        missing += [
            f"{which}.{slot}.{name}"
            for slot in sorted(names)
            for name in sorted(touched)
            if (slot, name) not in slots
        ]
        filled.append((optimizer, trained, slots))
    missing = [k for k in live if k not in snapshot.tensors] + missing
    unexpected += [k for k in snapshot.tensors if k not in live and k not in unexpected]
    misshaped = [
        f"{k} {tuple(snapshot.tensors[k].shape)} for {tuple(v.shape)}"
        for k, v in live.items()
        if k in snapshot.tensors and snapshot.tensors[k].shape != v.shape
    ]
    if mismatch := Mismatch(missing, unexpected, misshaped):
        raise CheckpointError(
            f"snapshot {snapshot.path} does not fit this training: {mismatch.describe()}"
        )
    for part, module in modules.items():
        prefix = f"{part}."
        module.load_state_dict(
            {k.removeprefix(prefix): v for k, v in snapshot.tensors.items() if k.startswith(prefix)}
        )
    for optimizer, trained, slots in filled:
        _fill(optimizer, trained, slots)


def _states(modules: Mapping[str, nn.Module]) -> Tensors:
    return {
        f"{part}.{name}": value
        for part, module in modules.items()
        for name, value in module.state_dict().items()
    }


def _trained(
    modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
) -> dict[str, nn.Parameter]:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return {
        name if part == "model" else f"{part}/{name}": p
        for part, module in modules.items()
        for name, p in module.named_parameters()
        if id(p) in held
    }


def _shape(optimizer: torch.optim.Optimizer, slot: str, parameter: Tensor) -> torch.Size:
    """Return the shape of an entry: its parameter's, unless the optimizer tells others."""
    shapes = getattr(optimizer, "shapes", None)
    return shapes(parameter).get(slot, parameter.shape) if shapes else parameter.shape


def _slots(
    which: str, tensors: Tensors, trained: Mapping[str, nn.Parameter]
) -> tuple[dict[tuple[str, str], Tensor], list[str]]:
    """Return the optimizer's entries by (slot, parameter), and those of
    parameters that are not there.
    """
    slots, unexpected = {}, []
    for key, value in tensors.items():
        if key.startswith(f"{which}."):
            _, slot, name = key.split(".", 2)
            if name in trained:
                slots[slot, name] = value
            else:
                unexpected.append(key)
    return slots, unexpected


def _fill(
    optimizer: torch.optim.Optimizer,
    trained: Mapping[str, nn.Parameter],
    slots: Mapping[tuple[str, str], Tensor],
) -> None:
    numbers = {
        id(p): i
        for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])
    }
    state: dict[int, dict[str, Tensor]] = {}
    for (slot, name), value in slots.items():
        parameter = trained[name]
        if value.shape == parameter.shape:
            # A slot has its parameter's strides, which the fused kernels rely on.
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(numbers[id(parameter)], {})[slot] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
