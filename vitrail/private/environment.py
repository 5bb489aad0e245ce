"""The environment of SPU, the engine that parties compute with: where it is, and how it is made.

SPU pins versions of jax and numpy that are not vitrail's, so it stands in a folder of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from vitrail.data.builtin import cache_folder
from vitrail.errors import RunError

ENGINE, VARIABLE = "spu==0.9.5", "VITRAIL_SPU"
NEEDED = (3, 11)


def folder() -> Path:
    """Return where the environment is, or would be made: VITRAIL_SPU, or beside the cache."""
    return Path(os.environ.get(VARIABLE) or cache_folder() / "spu")


def python() -> Path:
    """Return the engine's Python. Raises RunError, saying how to get it, where there is none."""
    found = folder() / "bin" / "python"
    if not found.is_file():
        raise RunError(
            f"SPU, the engine for computing on secrets, is not at {folder()}: get it by `vitrail "
            f"private --install` (0.4 GB), or set {VARIABLE} to an environment that has {ENGINE}"
        )
    return found


def install() -> Path:
    """Make the environment, which downloads the engine; returns its folder. Raises RunError."""
    target, made = folder(), folder().with_name("spu.part")
    if sys.version_info[:2] != NEEDED:
        raise RunError(f"SPU is installed by a Python 3.11, and this is {sys.version.split()[0]}: "
                       f"make an environment with {ENGINE} and name it by {VARIABLE}")  # fmt: skip
    if target.exists():
        raise RunError(f"{target} is there already: remove it to make it again")
    shutil.rmtree(made, ignore_errors=True)
    _called([sys.executable, "-m", "venv", str(made)], made)
    _called([str(made / "bin/python"), "-m", "pip", "install", "--quiet", ENGINE], made)
    made.rename(target)
    return target


def _called(command: list[str], made: Path) -> None:
    done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        shutil.rmtree(made, ignore_errors=True)
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RunError(f"SPU cannot be installed ({last}): mend that, or set {VARIABLE} to an "
                       f"environment that has {ENGINE}")  # fmt: skip
