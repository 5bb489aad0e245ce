"""`python -m vitrail.models` prints docs/models.md: the catalog, family by family."""

import re
from types import ModuleType

from vitrail.models import families
from vitrail.models.trunk.backbone import input_shape


def told(module: ModuleType) -> tuple[str, str]:
    """Return what a family's docstring says is new, and where it was published."""
    title, *rest = (module.__doc__ or "").strip().split("\n\n")
    return " ".join(title.split()), " ".join(rest[0].split()) if rest else ""


def summary() -> list[str]:
    """Return the rows of a table with a line for every family."""
    lines = ["| family | what is new | year | variants |", "| --- | --- | --: | --: |"]
    for family, module in families().items():
        title, paper = told(module)
        year = re.search(r"\b20[0-2]\d\b(?!\.)", paper)
        row = (f"[{family}](#{family})", title, year[0] if year else "-", len(module.VARIANTS))
        lines.append(f"| {' | '.join(map(str, row))} |")
    return lines


def page() -> str:
    """Return the Markdown of docs/models.md, from every family's docstring and VARIANTS."""
    lines = [
        "# Models",
        "",
        "Made by `make docs` from the `VARIANTS` of each model file; a test keeps it so.",
        "Parameters in millions, multiply-adds (MACs) in 10^9 at the image size given, top-1 in",
        "per cent of ImageNet-1k as published; a dash where nothing is published.",
        "",
        *summary(),
    ]
    for family, module in families().items():
        title, paper = told(module)
        lines += ["", f"## {family}", "", title, "", paper, ""]
        lines += [
            "| variant | params M | MACs G | top-1 % | image |",
            "| --- | --: | --: | --: | --: |",
        ]
        for name, v in module.VARIANTS.items():
            figures = ("-" if f is None else f"{f:g}" for f in (v.params_m, v.flops_g, v.top1))
            image = "x".join(map(str, input_shape(v.config)[1:]))
            lines.append(f"| {name} | {' | '.join(figures)} | {image} |")
        notes = {v.note: name for name, v in reversed(module.VARIANTS.items()) if v.note}
        lines += ["", *(f"{name}: {note}" for note, name in notes.items())] if notes else []
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
