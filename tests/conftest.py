"""Shape annotations are checked at run time in the tests, and nowhere else."""

from jaxtyping import install_import_hook

install_import_hook(["vitrail.layers", "vitrail.models"], "beartype.beartype")
