"""`vitrail load`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from vitrail.commands.options import Json, Out


def load(
    file: Annotated[
        str, typer.Argument(help="A file or folder of weights, or hf-hub:owner/name to fetch it.")
    ],
    out: Out = None,
    model: Annotated[
        str | None,
        typer.Option(help="The variant that it is, where several have the same tensors."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a published checkpoint is, and make it a run folder with --out."""
    from vitrail.errors import CheckpointError
    from vitrail.models import config_json, identify
    from vitrail.models import load as load_weights
    from vitrail.models.trunk.backbone import input_words

    found = identify(file, model)
    if out is not None and found.rivals:
        raise CheckpointError(
            f"{file} may be {' or '.join((found.name, *found.rivals))}, which compute different "
            "things with the same tensors: say which by --model"
        )
    loaded = load_weights(found.config, file, source=found.source)
    params = sum(p.numel() for p in loaded.parameters())
    if out is not None:
        from vitrail.run.adopt import adopt
        from vitrail.run.normalisation import normalisation

        adopt(out, loaded, source=file, takes=normalisation(file, found))
    if as_json:
        facts: dict[str, Any] = {"name": found.name, "source": found.source, "params": params}
        facts |= {"same_tensors": list(found.same), "rivals": list(found.rivals)}
        print(json.dumps({**facts, "config": config_json(found.config)}))
        return
    print(
        f"{file} is {found.name} in {found.source} names: {params / 1e6:.1f} M parameters, "
        f"{found.config.classes} classes, {input_words(found.config)}"
    )
    alike = [name for name in found.same if name not in found.rivals]
    if alike:
        print(f"(or {', '.join(alike)}: these have the same tensors)")
    if found.rivals:
        print(
            f"(it cannot be told from {', '.join(found.rivals)}, which compute something else "
            "with the same tensors: say which by --model)"
        )
    if out is not None:
        print(f"made the run folder {out}: `vitrail predict {out} image.jpg`")
