"""Weights on disk: safe reading, renaming by tables, strict loading, saving.

`read` unwraps what training scripts save (`unwrapping`), `rename` brings names by a table to ours
(`names`), `assign` gives a model every tensor or says what does not fit (`fitting`), `save` writes
safetensors with a digest.
"""

from vitrail.checkpoint import hub
from vitrail.checkpoint.fitting import Mismatch, assign, compare, require_values
from vitrail.checkpoint.names import Origins, Row, State, aliases, rename, traced
from vitrail.checkpoint.places import FOLDER, holds_weights, located
from vitrail.checkpoint.reading import Contents, contents, everything, metadata, read
from vitrail.checkpoint.saving import save

__all__ = [
    "FOLDER",
    "Contents",
    "Mismatch",
    "Origins",
    "Row",
    "State",
    "aliases",
    "assign",
    "compare",
    "contents",
    "everything",
    "holds_weights",
    "hub",
    "located",
    "metadata",
    "read",
    "rename",
    "require_values",
    "save",
    "traced",
]
