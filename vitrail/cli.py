"""The command line: `vitrail fit photos/ --latency 20ms`, and what belongs to it.

Every mistake of the user ends in one sentence and exit code 2. Torch and all that is heavy
are imported inside the commands, so that `--help` is instant.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from vitrail import __version__
from vitrail.commands.bench import bench
from vitrail.commands.cache import cache
from vitrail.commands.compare import compare
from vitrail.commands.explain import explain
from vitrail.commands.export import export
from vitrail.commands.fit import fit
from vitrail.commands.growth import growth
from vitrail.commands.list import list_variants
from vitrail.commands.load import load
from vitrail.commands.predict import predict
from vitrail.commands.study import study
from vitrail.commands.train import train
from vitrail.errors import VitrailError

app = typer.Typer(
    name="vitrail",
    help="Vision backbones under one roof, and the best of them for your images and budget.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("list")(list_variants)
app.command("fit")(fit)
app.command("train")(train)
app.command("study")(study)
app.command("predict")(predict)
app.command("explain")(explain)
app.command("load")(load)
app.command("export")(export)
app.command("compare")(compare)
app.command("bench")(bench)
app.command("growth")(growth)
app.command("cache")(cache)


def _version(asked: bool) -> None:
    if asked:
        print(f"vitrail {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="And leave.")
    ] = False,
) -> None:
    """Options before a command."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point: runs a command and turns a VitrailError into one sentence and exit 2."""
    # Threads that spin while they wait make a training on a busy machine several times slower,
    # and one on a quiet machine no faster; read when torch loads its OpenMP.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _complete(arguments)
    try:
        app(arguments, prog_name="vitrail")
    except VitrailError as error:
        print(f"vitrail: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        print("vitrail: stopped", file=sys.stderr)
        raise SystemExit(130) from None


def _complete(arguments: list[str]) -> None:
    """`--pretrained` may stand alone: then weights come from the Hub."""
    for position, argument in enumerate(arguments):
        following = arguments[position + 1 : position + 2]
        if argument == "--pretrained" and (not following or following[0].startswith("-")):
            arguments[position] = "--pretrained=hub"


if __name__ == "__main__":
    main()
