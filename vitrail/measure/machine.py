"""The machine of a figure: processor, memory and versions, without the name of the host."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("vitrail", "torch", "torchvision", "onnxruntime", "onnx", "numpy")


def machine() -> dict[str, Any]:
    """Describe processor, usable cores, memory in GiB, accelerator if any, platform, versions."""
    import torch

    found: dict[str, Any] = {
        "cpu": processor(),
        "cores": cores(),
        "memory_gib": memory_gib(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name(0)
    elif torch.backends.mps.is_available():
        found["gpu"] = "Apple MPS"
    return found | {"versions": versions()}


def versions() -> dict[str, str]:
    """Return Python's version and those of the packages that figures depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def processor() -> str:
    """Return the processor's model name, or its architecture where the system does not say."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def crowding(seconds: float = 0.03) -> float:
    """Return how many times as long as alone this thread takes now, beside other programs.

    1 on a quiet machine, 2 where another program has every other turn of its core; `seconds` of
    processor time go into finding out.
    """
    began, own = time.perf_counter(), time.thread_time()
    while time.thread_time() - own < seconds:
        pass
    return max(1.0, (time.perf_counter() - began) / seconds)


def fast_bf16() -> bool:
    """Return whether the processor itself multiplies bfloat16, twice as fast as float32."""
    import torch

    able = torch.cpu.get_capabilities()
    return any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def memory_gib() -> float:
    """Return the physical memory in GiB, 0.0 where the system does not say."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return 0.0
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
