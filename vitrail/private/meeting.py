"""Both parties of a computation on this machine: started, watched, ended, and what they found."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from vitrail.errors import RunError
from vitrail.private import party
from vitrail.private.environment import python
from vitrail.private.plan import Plan

CLIENT, SERVER = party.NAMES
# How long the other one has to end by itself when one is gone, and how often one looks.
PATIENCE_S, LOOK_S = 10.0, 0.1
# What of the environment a party gets: it needs no secrets of its user's.
KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class Kind:
    """An operation of the engine: how often it was called, seconds, and what both parties sent."""

    name: str
    calls: int
    seconds: float
    bytes: int
    messages: int


@dataclass(frozen=True, eq=False)
class Met:
    """What two parties computed.

    `logits` were revealed to the client; `bytes` and `messages` are what each sent to the other
    while they computed, `shared_bytes` what went over with the shares before and the answer after;
    `run_s` is the wall time of the computation, `processor_s` that of both parties' processors,
    `start_s` all that came before it; `kinds` the engine's operations, the longest first.
    """

    logits: np.ndarray
    bytes: int
    messages: int
    shared_bytes: int
    run_s: float
    processor_s: float
    start_s: float
    kinds: list[Kind]


def meet(
    plan: Plan,
    patches: np.ndarray,
    *,
    weights: str = "shared",
    protocol: str = "semi2k",
) -> Met:
    """Let a client, who has the patches (n, pixels), and a server, who has the weights, compute.

    `weights` are "shared" or "public", `protocol` is one of the engine's for two parties.
    Raises RunError where the engine is missing or a party dies.
    """
    engine, started = python(), time.monotonic()
    with ExitStack() as stack:
        places = {
            name: Path(stack.enter_context(TemporaryDirectory(prefix=f"vitrail-{name}-")))
            for name in party.NAMES
        }
        *ports, watch = _free_ports(3)
        told = plan.told | {
            "ports": ports, "watch": watch, "protocol": protocol, "weights": weights,
            "patches": patches.shape,
        }  # fmt: skip
        own = {CLIENT: {"patches": patches}, SERVER: plan.weights}
        if weights == "public":
            own[CLIENT] = own[CLIENT] | plan.weights
        running = {}
        for name, folder in places.items():
            np.savez(folder / f"{name}.npz", allow_pickle=False, **own[name])
            (folder / f"{name}.json").write_text(json.dumps(told | {"party": name}))
            running[name] = stack.enter_context(_started(engine, name, folder))
            stack.callback(_end, running[name])
        _wait(running, places)
        return _found(places, time.monotonic() - started)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        lines = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [line.getsockname()[1] for line in lines]


def _started(engine: Path, name: str, folder: Path) -> subprocess.Popen:
    env = {key: os.environ[key] for key in KEPT if key in os.environ}
    with (folder / "said").open("wb") as said:
        return subprocess.Popen(
            [engine, "-I", party.__file__, folder / f"{name}.json"],
            stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, cwd=folder,
            start_new_session=True, env=env,
        )  # fmt: skip


def _wait(running: dict[str, subprocess.Popen], places: dict[str, Path]) -> None:
    """Wait until both are done. Raises RunError when one fails, after the other has ended too."""
    while True:
        done = {name: process.poll() for name, process in running.items()}
        failed = [name for name, status in done.items() if status]
        if failed:
            break
        if all(status == 0 for status in done.values()):
            return
        time.sleep(LOOK_S)
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and any(p.poll() is None for p in running.values()):
        time.sleep(LOOK_S)
    for process in running.values():
        _end(process)
    first = min(failed, key=lambda name: running[name].returncode == party.GONE)
    other = SERVER if first == CLIENT else CLIENT
    raise RunError(
        f"the {first} {_fate(running[first].returncode, places[first])}, and the {other} ended "
        "with it: nothing was revealed; ask again"
    )


def _fate(status: int, folder: Path) -> str:
    """Say how a party ended."""
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    lines = [line for line in _said(folder).splitlines() if re.match(r"\w+(Error|Exit)?: ", line)]
    return f"failed ({lines[-1] if lines else f'exit code {status}'})"


def _said(folder: Path) -> str:
    return (folder / "said").read_text(errors="replace")


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()


_LINK = re.compile(r"Link details: total send bytes (\d+), recv bytes \d+, send actions (\d+)")
_KIND = re.compile(
    r"- (\w+), executed (\d+) times, duration ([\d.e-]+)s, send bytes (\d+) recv bytes \d+, "
    r"send actions (\d+)"
)


def _found(places: dict[str, Path], whole_s: float) -> Met:
    """Read what both wrote, and what the engine said of it."""
    found: dict[str, Any] = {
        name: json.loads((folder / f"{name}.found").read_text()) for name, folder in places.items()
    }
    links = [_LINK.search(_said(folder)) for folder in places.values()]
    kinds = [Kind(m[1], int(m[2]), float(m[3]), int(m[4]), int(m[5]))
             for m in _KIND.finditer(_said(places[CLIENT]))]  # fmt: skip
    if not all(links):
        raise RunError("the engine did not say what it sent: take SPU 0.9.5")
    run = max(one["run_s"] for one in found.values())
    return Met(
        np.array(found[CLIENT]["logits"]),
        max(int(link[1]) for link in links if link),
        max(int(link[2]) for link in links if link),
        sum(one["shared_bytes"] for one in found.values()),
        run,
        sum(one["processor_s"] for one in found.values()),
        whole_s - run,
        sorted(kinds, key=lambda kind: -kind.seconds),
    )
