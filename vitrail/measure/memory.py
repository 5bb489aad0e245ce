"""Peak memory of one call: what the allocator gives out while it runs."""

from __future__ import annotations

import os
from collections.abc import Callable
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
