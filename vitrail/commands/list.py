"""`vitrail list`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from vitrail.commands.options import Json, console
from vitrail.errors import ConfigError


def list_variants(
    family: Annotated[str | None, typer.Option(help="Only this family, such as swin.")] = None,
    max_macs: Annotated[str | None, typer.Option(help="At most so many, such as 5G.")] = None,
    max_params: Annotated[str | None, typer.Option(help="At most so many, such as 30M.")] = None,
    as_json: Json = False,
) -> None:
    """The catalog: every published variant with its figures."""
    from vitrail.models import catalog, families
    from vitrail.models.trunk.backbone import input_shape
    from vitrail.units import parse_count

    if family is not None and family not in families():
        raise ConfigError(f"--family is {family!r}: known are {', '.join(families())}")
    macs = parse_count(max_macs) / 1e9 if max_macs else float("inf")
    params = parse_count(max_params) / 1e6 if max_params else float("inf")
    chosen = [
        v
        for v in catalog().values()
        if (family is None or v.family == family)
        and (max_params is None or _known(v, "params_m") <= params)
        and (max_macs is None or _known(v, "flops_g") <= macs)
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
        figures = [_figure(v.params_m), _figure(v.flops_g), _figure(v.top1)]
        table.add_row(v.family, v.name, *figures, "x".join(map(str, input_shape(v.config)[1:])))
    console().print(table)
    print(f"{len(chosen)} of {len(catalog())} variants; top-1 is the published one, ImageNet-1k")


def _known(v: Any, figure: str) -> float:
    """A published figure, or our own count where there is none."""
    if getattr(v, figure) is not None:
        return getattr(v, figure)
    import torch

    from vitrail.measure.counts import counts
    from vitrail.models import create
    from vitrail.models.trunk.backbone import input_shape

    with torch.device("meta"):
        model = create(v.config)
    if figure == "params_m":
        return sum(p.numel() for p in model.parameters()) / 1e6
    return counts(model, input_shape(v.config)[1:], v.config.channels).macs / 1e9


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _variant_json(v: Any) -> dict[str, Any]:
    from vitrail.models import config_json

    figures = {"params_m": v.params_m, "flops_g": v.flops_g, "top1": v.top1}
    return {"name": v.name, **figures, "config": config_json(v.config), "hub": dict(v.hub)}
