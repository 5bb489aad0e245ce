"""`vitrail list`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from vitrail.commands.options import Json, console
from vitrail.errors import ConfigError


def list_variants(
    family: Annotated[
        str | None, typer.Option(help="Only variants of this family, e.g. swin.")
    ] = None,
    max_macs: Annotated[
        str | None,
        typer.Option(help="Only variants with at most this many multiply-adds, e.g. 5G."),
    ] = None,
    max_params: Annotated[
        str | None, typer.Option(help="Only variants with at most this many parameters, e.g. 30M.")
    ] = None,
    as_json: Json = False,
    dense: Annotated[
        bool, typer.Option("--dense", help="List networks that answer for every pixel instead.")
    ] = False,
) -> None:
    """List every published variant with its figures."""
    from vitrail.config import nearest
    from vitrail.models import catalog, families
    from vitrail.models.trunk.backbone import input_shape
    from vitrail.units import parse_count

    if dense and (family or max_macs or max_params):
        raise ConfigError("--dense lists all networks of maps: leave the other options out")
    if family is not None and family not in families():
        raise ConfigError(f"--family is {family!r}: {nearest(family, [*families()])}")
    if dense:
        _show_dense(as_json)
        return
    macs = parse_count(max_macs) / 1e9 if max_macs else float("inf")
    params = parse_count(max_params) / 1e6 if max_params else float("inf")
    chosen = [
        v
        for v in catalog().values()
        if (family is None or v.family == family)
        and _figures(v)[0][0] <= params
        and _figures(v)[1][0] <= macs
    ]
    if as_json:
        print(json.dumps([_variant_json(v) for v in chosen], indent=1))
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("family", "variant"):
        table.add_column(name)
    for name in ("params M", "MACs G", "top-1 %", "image"):
        table.add_column(name, justify="right")
    for v in chosen:
        figures = [f"{value:.3g}*" if ours else f"{value:g}" for value, ours in _figures(v)]
        top1 = "-" if v.top1 is None else f"{v.top1:g}"
        sides = "x".join(map(str, input_shape(v.config)[1:]))
        table.add_row(v.family, v.name, *figures, top1, sides)
    console().print(table)
    print(
        f"{len(chosen)} of {len(catalog())} variants; top-1 is the published one, ImageNet-1k; "
        "* counted here, not published"
    )


def _show_dense(as_json: bool) -> None:
    """List the published networks of maps with what their authors report of them."""
    from vitrail.commands.options import show
    from vitrail.models import config_json, dense

    if as_json:
        names = ("params_m", "dataset", "miou", "miou_scales")
        rows = [
            {"name": v.name, **{n: getattr(v, n) for n in names}, "config": config_json(v.config)}
            for v in dense().values()
        ]
        print(json.dumps(rows, indent=1))
        return
    head = ("family", "variant", "params M", "data", "mIoU %", "several scales", "image")
    rows = []
    for v in dense().values():
        figures = ["-" if one is None else f"{one:g}" for one in (v.miou, v.miou_scales)]  # pyright: ignore[reportAttributeAccessIssue]
        params = "-" if v.params_m is None else f"{v.params_m:g}"
        image = "x".join(map(str, v.config.image))
        rows.append((v.family, v.name, params, v.dataset, *figures, image))  # pyright: ignore[reportAttributeAccessIssue]
    show(head, rows, left=("family", "variant", "data"))
    print(f"{len(rows)} networks; figures are the published ones")


def _figures(v: Any) -> tuple[tuple[float, bool], tuple[float, bool]]:
    """Return the parameters in 10^6 and multiply-adds in 10^9, each with
    whether it is our own count.
    """
    from vitrail.models.trunk.figures import counted

    ours = counted()[v.name]
    params, macs = (ours.params / 1e6, True), (ours.macs / 1e9, True)
    return (
        params if v.params_m is None else (v.params_m, False),
        macs if v.flops_g is None else (v.flops_g, False),
    )


def _variant_json(v: Any) -> dict[str, Any]:
    from vitrail.models import config_json
    from vitrail.models.trunk.figures import counted

    ours = counted()[v.name]
    figures = {"params_m": v.params_m, "flops_g": v.flops_g, "top1": v.top1}
    figures |= {"counted": {"params": ours.params, "macs": ours.macs}}
    return {"name": v.name, **figures, "config": config_json(v.config), "hub": dict(v.hub)}
