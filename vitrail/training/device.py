"""Where and in which precision to compute: Lightning Fabric, opened from a few words."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor

from vitrail.errors import ConfigError
from vitrail.units import shortened

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Precision = Literal["32-true", "bf16-mixed"]


def open_fabric(device: str | Fabric = "auto", precision: Precision = "32-true") -> Fabric:
    """Open a Fabric for `auto`, `cpu`, `cuda`, `cuda:1` or `mps`; return one that is already open
    as it is.

    For several processes, open a Fabric with `devices` and `strategy`, launch it and give it
    here. Raises ConfigError for a device that is not there.
    """
    # Imported here because it takes seconds, and whoever only reads a recipe needs none of it.
    from lightning_fabric import Fabric

    if not isinstance(device, str):
        return device
    check_device(device)
    kind, _, index = device.partition(":")
    devices = [int(index)] if index and kind != "cpu" else 1
    # It announces its precision on standard error.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    try:
        return Fabric(accelerator=kind, devices=devices, precision=precision)
    except (RuntimeError, ValueError) as error:
        raise _missing(device) from error


def check_device(device: str | Fabric) -> None:
    """Raise ConfigError for a device that does not exist or is not there, without opening it."""
    if not isinstance(device, str):
        return
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (index and not index.isdigit()):
        raise ConfigError(
            f"device {shortened(repr(device))} does not exist: give auto, cpu, cuda, cuda:1 or mps"
        )
    there = {"cuda": torch.cuda.device_count, "mps": torch.backends.mps.is_available}
    if kind in there and there[kind]() <= int(index or 0):
        raise _missing(device)


def _missing(device: str) -> ConfigError:
    return ConfigError(
        f"device {device!r} is not available on this machine: give device=cpu, or auto"
    )


def open_together(device: str, devices: int, precision: Precision) -> Fabric:
    """Return a Fabric whose `launch(function)` runs the function in `devices` processes.

    They end with this one, also where it is killed and they still wait for each other. Raises
    ConfigError for devices that are not there.
    """
    from lightning_fabric import Fabric

    from vitrail.training.together import Tied

    kind = device.partition(":")[0]
    try:
        return Fabric(
            accelerator=kind,
            devices=devices,
            strategy=Tied(start_method="spawn"),
            precision=precision,
        )
    except (RuntimeError, ValueError) as error:
        reason = shortened(str(error).strip().splitlines()[0])
        raise ConfigError(
            f"{devices} devices of {device!r} are not here ({reason}): give fewer --devices"
        ) from error


def reduced(value: Tensor, fabric: Fabric, how: Literal["mean", "sum", "max"]) -> Tensor:
    """Return the mean, sum or maximum of a tensor over all processes, the same in each of them."""
    if fabric.world_size == 1:
        return value
    return cast(Tensor, fabric.all_reduce(value.clone(), reduce_op=how))
