"""`vitrail load`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from vitrail.commands.options import Json, Out


def load(
    file: Annotated[str, typer.Argument(help="A checkpoint, or hf-hub:owner/name to fetch it.")],
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Say what a published checkpoint is, and make it a run folder with --out."""
    from vitrail.models import config_json, identify
    from vitrail.models import load as load_weights
    from vitrail.models.trunk.backbone import input_shape

    found = identify(file)
    model = load_weights(found.config, file, source=found.source)
    params = sum(p.numel() for p in model.parameters())
    if out is not None:
        from vitrail.run.adopt import adopt

        adopt(out, model, source=file)
    if as_json:
        facts = {"name": found.name, "source": found.source, "params": params}
        facts["same_tensors"] = list(found.same)
        print(json.dumps({**facts, "config": config_json(found.config)}))
        return
    sides = input_shape(found.config)[1:]
    print(
        f"{file} is {found.name} in {found.source} names: {params / 1e6:.1f} M parameters, "
        f"{found.config.classes} classes, {'x'.join(map(str, sides))} "
        f"{'clips' if len(sides) == 3 else 'images'}"
    )
    if found.same:
        print(f"(or {', '.join(found.same)}: these have the same tensors)")
    if out is not None:
        print(f"made the run folder {out}: `vitrail predict {out} image.jpg`")
