"""Memory that was freed stays with the process, where training steps would ask for it anew.

The C library of Linux hands large blocks back at once, and each tensor of the next step is then
made of fresh pages, which the kernel fills with zeros one by one: with convolutions that is a
tenth of a step. Python programs that train or predict in a loop may call `keep()` at their start;
the commands `vitrail fit`, `train`, `study` and `predict` do.
"""

from __future__ import annotations

import ctypes
import os
import sys

# Parameters of mallopt, from malloc.h of the GNU C library.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_NEVER, _STEP = 2**31 - 1, 64 << 20


def keep() -> bool:
    """Keep what is freed, for this process and for good; False where that is not to be had.

    The process then holds as much as it needed at most. Settings of the user's own, by
    MALLOC_... or GLIBC_TUNABLES, are left as they are.
    """
    own = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if own or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    wishes = ((_MMAP_THRESHOLD, _NEVER), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _STEP))
    return all(mallopt(what, value) for what, value in wishes)
