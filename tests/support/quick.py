"""Small trainings: one thread, and a cache of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch


@contextmanager
def one_thread(cache: Path) -> Iterator[None]:
    """Compute with one thread and keep derived files in `cache`, while inside."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("VITRAIL_CACHE", str(cache))
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(before)
