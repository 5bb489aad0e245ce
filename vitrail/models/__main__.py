"""`python -m vitrail.models` prints docs/models.md: the catalog, family by family."""

from vitrail.models import families
from vitrail.models.trunk.backbone import input_shape


def page() -> str:
    """The Markdown of docs/models.md, made from every family's docstring and VARIANTS."""
    lines = [
        "# Models",
        "",
        "Made by `make docs` from the `VARIANTS` of each model file; a test keeps it so.",
        "Parameters in millions, multiply-adds (MACs) in 10^9 at the image size given, top-1 in",
        "per cent of ImageNet-1k as published; a dash where nothing is published.",
    ]
    for family, module in families().items():
        title, *rest = (module.__doc__ or "").strip().split("\n\n")
        paper = " ".join(rest[0].split()) if rest else ""
        lines += ["", f"## {family}", "", " ".join(title.split()), "", paper, ""]
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
