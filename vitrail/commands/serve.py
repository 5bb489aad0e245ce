"""`vitrail serve`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vitrail.errors import ConfigError


def serve(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
    top: Annotated[int, typer.Option(help="Number of classes in an answer.")] = 5,
    threshold: Annotated[
        float | None,
        typer.Option(help='Probability below which the answer is "none of these".'),
    ] = None,
    bytes_limit: Annotated[
        str, typer.Option("--bytes", help="Most bytes of a request, e.g. 16MB.")
    ] = "16MB",
    pixels: Annotated[int, typer.Option(help="Most pixels of one picture.")] = 50_000_000,
    images: Annotated[int, typer.Option(help="Most images of one request.")] = 32,
    waiting: Annotated[
        int, typer.Option(help="Images that may wait before others are told to come again.")
    ] = 128,
    batch: Annotated[int, typer.Option(help="Most images that are computed at once.")] = 16,
) -> None:
    """Answer over HTTP with a finished run: JSON, pictures, and a page to drop one on.

    POST /predict takes a picture as the body, a form with files, or JSON {"images": ["<base64>"]};
    POST /looked one picture, and tells how much its class loses where each place is hidden;
    /healthz and /metrics are for whoever watches. Needs the extra `serve`; torch is not loaded.
    """
    from vitrail.jobs.serve import server
    from vitrail.serve.limits import Limits
    from vitrail.serve.running import run_server
    from vitrail.units import parse_size

    if not 0 <= port < 1 << 16:
        raise ConfigError(f"--port is {port}: give one from 0 to 65535")
    limits = Limits(
        bytes=parse_size(bytes_limit, "--bytes"), pixels=pixels, images=images, waiting=waiting,
        batch=batch,
    )  # fmt: skip
    made = server(run, limits, top=top, threshold=threshold)
    run_server(made, host, port, lambda text: print(text, file=sys.stderr, flush=True))
