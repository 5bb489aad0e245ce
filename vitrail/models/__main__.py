"""`python -m vitrail.models` prints docs/models.md: the catalog, family by family.

`python -m vitrail.models figures [FAMILY ...]` counts the variants of some families, or of all,
and writes the figures beside the catalog (`trunk/figures.py`): minutes for all.
"""

import json
import math
import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from vitrail.measure.counts import counts
from vitrail.models import catalog, families, networks
from vitrail.models.trunk import figures
from vitrail.models.trunk.backbone import input_shape
from vitrail.models.trunk.catalog import shapes, skeleton


def heading(module: ModuleType) -> tuple[str, str]:
    """Return what a family's docstring says is new, and where it was published."""
    title, *rest = (module.__doc__ or "").strip().split("\n\n")
    return " ".join(title.split()), " ".join(rest[0].split()) if rest else ""


def summary() -> list[str]:
    """Return the rows of a table with a line for every family."""
    lines = ["| family | what is new | year | variants |", "| --- | --- | --: | --: |"]
    for family, module in families().items():
        title, paper = heading(module)
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
        title, paper = heading(module)
        lines += ["", f"## {family}", "", title, "", paper, ""]
        lines += [
            "| variant | params M | MACs G | top-1 % | image |",
            "| --- | --: | --: | --: | --: |",
        ]
        for name, v in module.VARIANTS.items():
            told = ("-" if f is None else f"{f:g}" for f in (v.params_m, v.flops_g, v.top1))
            image = "x".join(map(str, input_shape(v.config)[1:]))
            lines.append(f"| {name} | {' | '.join(told)} | {image} |")
        notes = {v.note: name for name, v in reversed(module.VARIANTS.items()) if v.note}
        lines += ["", *(f"{name}: {note}" for note, name in notes.items())] if notes else []
    return "\n".join([*lines, *every_pixel()]) + "\n"


def every_pixel() -> list[str]:
    """Return the chapter of the networks that answer for every pixel."""
    lines = [
        "",
        "## For every pixel",
        "",
        "Networks of maps (B, classes, H, W), in no catalog of backbones; `create` and `load` take",
        "their names. Mean intersection over union in per cent as published, at one scale and at",
        "several mirrored ones.",
    ]
    for module in (m for m in networks().values() if getattr(m, "DENSE", None)):
        title, paper = heading(module)
        lines += ["", title, "", paper, ""]
        lines += [
            "| network | params M | data | mIoU % | at several scales % | image |",
            "| --- | --: | --- | --: | --: | --: |",
        ]
        for name, v in module.DENSE.items():
            told = ("-" if f is None else f"{f:g}" for f in (v.miou, v.miou_scales))
            image = "x".join(map(str, v.config.image))
            params = "-" if v.params_m is None else f"{v.params_m:g}"
            lines.append(f"| {name} | {params} | {v.dataset} | {' | '.join(told)} | {image} |")
        lines += ["", *(f"{name}: {v.note}" for name, v in module.DENSE.items() if v.note)]
    return lines


def counted(name: str) -> figures.Counted:
    """Count one variant; see `figures.Counted`."""
    config = catalog()[name].config
    found = counts(skeleton(config), input_shape(config)[1:], config.channels)
    own = {n: s for n, s in shapes(config).items() if not n.startswith("head.")}
    values = sum(map(math.prod, own.values()))
    return figures.Counted(found.params, found.macs, values, figures.fingerprint(own))


def names(family: str) -> list[str]:
    """Return the names of a family's tensors over all variants, their numbers left out."""
    every = (v.config for v in catalog().values() if v.family == family)
    return sorted({figures.unnumbered(n) for config in every for n in shapes(config)})


def inputs() -> dict[str, list[Any]]:
    """Return what timm says that weights take, for all weights of the architectures that the
    catalog refers to.
    """
    from timm.models import get_pretrained_cfg, list_pretrained

    references = [v.hub["timm"].rpartition("/")[2] for v in catalog().values() if "timm" in v.hub]
    known = {reference.partition(".")[0] for reference in references}
    found = {}
    for name in {*references, *(n for n in list_pretrained() if n.partition(".")[0] in known)}:
        if (given := get_pretrained_cfg(name)) is not None:
            told = [list(given.mean), list(given.std), given.crop_pct, given.interpolation]
            found[name] = told
    return found


def written(chosen: Sequence[str]) -> str:
    """Return the text of figures.json, the variants of the `chosen` families counted anew."""
    data = json.loads(figures.FILE.read_text("utf-8")) if figures.FILE.exists() else {}
    data = {part: data.get(part, {}) for part in ("inputs", "names", "variants")}
    if find_spec("timm"):
        data["inputs"] = inputs()
    for family in chosen:
        data["names"][family] = names(family)
        for name, variant in catalog().items():
            if variant.family == family:
                data["variants"][name] = list(counted(name))
    data["names"] = {f: v for f, v in data["names"].items() if f in families()}
    data["variants"] = {n: v for n, v in data["variants"].items() if n in catalog()}
    return _lines(data)


def _lines(data: dict[str, dict[str, Any]]) -> str:
    """Return JSON with a line for each entry, so that changes can be read."""
    parts = []
    for part, entries in data.items():
        rows = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(entries.items()))
        parts.append(f" {json.dumps(part)}: {{\n{rows}\n }}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    if sys.argv[1:2] == ["figures"]:
        figures.FILE.write_text(written(sys.argv[2:] or list(families())), "utf-8")
    else:
        print(page(), end="")
