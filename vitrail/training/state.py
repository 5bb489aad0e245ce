"""All that a training has to remember, and its way to the disk and back."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vitrail.errors import CheckpointError, RunError
from vitrail.training import snapshot
from vitrail.units import shortened

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class State:
    """The tensors of `modules` and `optimizers`, and `caution`, what the rates are multiplied by.

    `settings` are those that a resumed training must share. All processes load, the first
    one writes.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        optimizers: Mapping[str, torch.optim.Optimizer],
        settings: Mapping[str, Any],
        *,
        folder: Path,
        fabric: Fabric,
    ) -> None:
        self.caution = 1.0
        self._modules, self._optimizers = modules, optimizers
        self._settings, self._folder, self._fabric = dict(settings), folder, fabric

    def start(self, resume: bool) -> tuple[int, float]:
        """Load the last snapshot, or write the first: the steps done, and the last loss.

        Raises RunError when there are snapshots and `resume` is not wanted, CheckpointError
        when they are of another training.
        """
        last = None
        if resume:
            last = snapshot.newest(self._folder)
        elif self._fabric.is_global_zero and snapshot.present(self._folder):
            raise RunError(
                f"{self._folder} holds snapshots of an earlier training: go on with it by "
                "--resume, or choose another folder"
            )
        done, loss = self._load(last) if last else (0, math.nan)
        if self._fabric.broadcast(done) != done:
            raise RunError(
                f"process {self._fabric.global_rank} finds step {done} in {self._folder}, the "
                "first one another: all processes must see the same folder"
            )
        if last is None:
            self.save(0, loss)
        return done, loss

    def save(self, done: int, loss: float) -> None:
        """Write a snapshot after `done` steps. Raises RunError."""
        if self._fabric.is_global_zero:
            known = loss if math.isfinite(loss) else None
            state = {"step": done, "loss": known, "caution": self.caution}
            tensors = snapshot.collect(self._modules, self._optimizers)
            snapshot.write(self._folder, tensors, state | {"settings": self._settings})

    def go_back(self, fault: str) -> tuple[int, float]:
        """Go back to the last snapshot with half the rates, once: return what `start` returns, or
        raise RunError.
        """
        if self.caution < 1:
            raise RunError(
                f"{fault}, for the second time, with half the learning rate: the last good state "
                f"is kept in {self._folder}; look at these samples or lower optimizer.lr"
            )
        last = snapshot.newest(self._folder)
        if last is None:
            raise RunError(f"{fault}, and the snapshots in {self._folder} are gone: start again")
        done, loss = self._load(last)
        self.caution = 0.5
        self.save(done, loss)
        if self._fabric.is_global_zero:
            warnings.warn(f"{fault}: back to step {done} with half the rate", stacklevel=3)
        return done, loss

    def _load(self, last: snapshot.Snapshot) -> tuple[int, float]:
        theirs = last.state["settings"]
        # As JSON reads it back, where tuples are lists.
        ours = json.loads(json.dumps(self._settings))
        differ = [*differences(theirs, ours)]
        if differ:
            raise CheckpointError(
                f"snapshot {last.path} is of a training with {'; '.join(differ)}: take the "
                "settings that it began with, or a new folder"
            )
        snapshot.restore(last, self._modules, self._optimizers)
        self.caution = last.state["caution"]
        loss = last.state["loss"]
        return last.state["step"], math.nan if loss is None else loss


def differences(theirs: Any, ours: Any, path: str = "") -> Iterator[str]:
    """Say where two JSON values differ, field by field: "optimizer.lr=0.1, now 0.2"."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        for name in sorted({*theirs, *ours}):
            here = f"{path}.{name}" if path else name
            yield from differences(theirs.get(name), ours.get(name), here)
    elif theirs != ours:
        yield f"{path}={shortened(repr(theirs))}, now {shortened(repr(ours))}"
