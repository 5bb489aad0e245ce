"""Processes that torchrun starts, on one machine or on several, and that train one model.

The first of them does the job: it reads, decides, writes, exports and judges. The others are told
what to train, train along, and end with it. All see the same data and the same run folder.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitrail.errors import ConfigError
from vitrail.training.device import Precision

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Crew:
    """The processes of one torchrun: the `rank` of this one, how many there are, and how many of
    them on each machine."""

    rank: int
    size: int
    here: int

    @property
    def first(self) -> bool:
        """Return whether this process does the job."""
        return self.rank == 0

    def opened(self, device: str, precision: Precision) -> Fabric:
        """Return a Fabric of all processes; the first time they wait for each other.

        Raises ConfigError for devices that are not there.
        """
        from lightning_fabric import Fabric

        for name in ("lightning_fabric", "torch.distributed"):
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            found = Fabric(
                accelerator=device.partition(":")[0], devices=self.here, precision=precision,
                num_nodes=self.size // self.here, strategy="ddp",
            )  # fmt: skip
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"{self.here} processes of {device!r} are too many for this machine: give torchrun "
                "a smaller --nproc-per-node, or --device cpu"
            ) from error
        found.launch()
        return found

    def told(self, what: Any) -> Any:
        """Return what the first process tells all others, in them and in itself."""
        import torch.distributed as dist

        said = [what]
        dist.broadcast_object_list(said, src=0)
        return said[0]


def crew() -> Crew | None:
    """Return the processes of which this is one, None where torchrun did not start several."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if "TORCHELASTIC_RUN_ID" not in os.environ or size < 2:
        return None
    return Crew(int(os.environ["RANK"]), size, int(os.environ["LOCAL_WORLD_SIZE"]))


def require_alone(job: str) -> None:
    """Raise ConfigError where torchrun started several processes of a job that takes one."""
    if crew() is not None:
        raise ConfigError(
            f"torchrun started several processes, and {job} is done by one: start it without "
            "torchrun"
        )


@contextmanager
def leading(device: str) -> Iterator[None]:
    """Let the others end when the job of the first process is done; alone nothing happens."""
    yield
    if (mates := crew()) is not None:
        mates.opened(device, "32-true")
        mates.told(None)


def following(mates: Crew, device: str, train: Callable[[Any], None]) -> None:
    """Train whatever the first process tells, until it tells no more."""
    mates.opened(device, "32-true")
    while (share := mates.told(None)) is not None:
        train(share)
