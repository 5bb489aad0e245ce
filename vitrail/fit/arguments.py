"""What a user asks of a fit, complete."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.engines import rivals
from vitrail.errors import ConfigError
from vitrail.measure.machine import cores
from vitrail.recipes.recipe import Data
from vitrail.run.budget import Budget
from vitrail.units import parse_count, parse_duration, parse_latency


@dataclass(frozen=True)
class Arguments:
    """What the user asked for, complete: it is kept in the run folder for `--resume`."""

    data: str
    latency_s: float | None = None
    macs: int | None = None
    params: int | None = None
    time_s: float = 600.0
    device: str = "auto"
    threads: int = 1
    seed: int = 0
    pretrained: str | None = None
    storage: str | None = None
    group_by: str | None = None
    devices: int = 1
    engine: str = "onnxruntime"
    command: str = ""

    @property
    def budget(self) -> Budget:
        """The limits of the model."""
        return Budget(
            self.latency_s, self.macs, self.params, self.threads, self.device, self.engine
        )

    @property
    def source(self) -> Data:
        """The data and how they are divided."""
        return Data(self.data, group_by=self.group_by, seed=self.seed)

    def again(self, run: Path) -> str:
        """The command that goes on with this fit in the folder `run`."""
        return f"vitrail fit {shlex.quote(self.data)} --resume --out {shlex.quote(str(run))}"


def ask(
    data: str | Path,
    latency: str | float | None,
    macs: str | int | None,
    params: str | int | None,
    time: str | float,
    device: str,
    threads: int | None,
    seed: int,
    pretrained: str | Path | None,
    storage: str | None,
    group_by: str | None,
    devices: int,
    engine: str,
    out: str | Path | None,
) -> Arguments:
    """What `fit` was asked, read and checked. Raises BudgetError and ConfigError."""
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}: give 1 or more")
    if devices < 1:
        raise ConfigError(f"devices is {devices}: give 1 or more")
    rivals(engine)
    words: Sequence[tuple[str, Any]] = (
        ("latency", latency), ("macs", macs), ("params", params), ("time", time),
        ("device", None if device == "auto" else device), ("threads", threads),
        ("seed", seed or None), ("pretrained", pretrained), ("group-by", group_by),
        ("storage", storage), ("devices", None if devices == 1 else devices),
        ("engine", None if engine == "onnxruntime" else engine), ("out", out),
    )  # fmt: skip
    said = [f"--{name} {shlex.quote(str(value))}" for name, value in words if value is not None]
    return Arguments(
        data=str(data),
        latency_s=None if latency is None else parse_latency(latency),
        macs=None if macs is None else parse_count(macs),
        params=None if params is None else parse_count(params),
        time_s=parse_duration(time),
        device=device,
        threads=threads or cores(),
        seed=seed,
        pretrained=None if pretrained is None else str(pretrained),
        storage=storage,
        group_by=group_by,
        devices=devices,
        engine=engine,
        command=" ".join(["vitrail fit", shlex.quote(str(data)), *said]),
    )
