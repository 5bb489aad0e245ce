"""Shape annotations are checked at run time in the tests, and nowhere else."""

from pathlib import Path

from jaxtyping import install_import_hook

PACKAGE = Path(__file__).parents[1] / "vitrail"


def annotated(part: str) -> list[str]:
    """Return the modules of a part of the package that annotate shapes: checks cost the others
    time and tell them nothing."""
    return [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in sorted((PACKAGE / part).rglob("*.py"))
        if "jaxtyping" in path.read_text()
    ]


install_import_hook([*annotated("layers"), *annotated("models")], "beartype.beartype")
