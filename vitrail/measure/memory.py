"""Memory: what the allocator gives out during one call, and what is free before it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def peak_bytes(call: Callable[[], Any], device: str = "cpu") -> int:
    """Return the most bytes of tensors alive at once in a call, beyond those before it.

    On CUDA that is the allocator's own count. On the CPU torch's profiler reports every
    allocation; what a library takes without torch (oneDNN's scratch pads in part) is not seen.
    """
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    # The profiler's library announces itself on standard error otherwise.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profile:
        call()
    records = profile.profiler.kineto_results.events()  # pyright: ignore[reportOptionalMemberAccess]
    changes = [(e.start_ns(), e.nbytes()) for e in records if e.name() == "[memory]"]  # pyright: ignore[reportAttributeAccessIssue]
    held = most = 0
    for _, change in sorted(changes):
        held += change
        most = max(most, held)
    return most


def free_bytes(device: torch.device) -> int:
    """Return how many bytes could be given out on a device, 0 where the system does not say.

    On the CPU what Linux calls available, within the limit of a container; of others what is left
    on CUDA, with what the allocator keeps for itself.
    """
    if device.type == "cuda":
        left, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return left + kept
    known = re.search(r"^MemAvailable:\s+(\d+) kB$", _read("/proc/meminfo"), re.MULTILINE)
    found = [1024 * int(known[1])] if known else []
    limit, used = (_read(f"/sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    if limit.isdigit() and used.isdigit():
        found.append(max(0, int(limit) - int(used)))
    return min(found, default=0)


def _read(path: str) -> str:
    file = Path(path)
    return file.read_text() if file.is_file() else ""
