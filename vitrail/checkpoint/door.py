"""The one door out of which errors of reading come: CheckpointError, with the file's name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vitrail.checkpoint.pickles import Unsafe
from vitrail.checkpoint.stored import Unfit
from vitrail.errors import CheckpointError

KNOWN = ".safetensors, .pth, .pt, .bin, .ckpt, .npz and .msgpack"
MAPPING = "the given mapping"


@contextmanager
def door(name: str) -> Iterator[None]:
    """Turn whatever a parser raises into CheckpointError with the file's name and the reason."""
    try:
        yield
    except CheckpointError:
        raise
    except Unsafe as e:
        raise CheckpointError(f"{_said(name)} was refused: {e}") from e
    except Unfit as e:
        raise CheckpointError(f"{_said(name)} {e}") from e
    except Exception as e:
        raise CheckpointError(
            f"{_said(name)} cannot be read ({first_line(e)}): it is truncated, damaged or of an "
            f"unknown format; {KNOWN} are known"
        ) from e


def first_line(error: BaseException) -> str:
    """Return the beginning of what an error says, or its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def _said(name: str) -> str:
    if name == MAPPING:
        return name
    return f"checkpoint {name if len(name) <= 300 else f'...{name[-297:]}'}"
