"""The command line: `vitrail fit photos/ --latency 20ms` and its companions.

Every mistake of the user ends in one sentence and exit code 2. Torch and all that is heavy
are imported inside the commands, so that `--help` is instant.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vitrail import __version__
from vitrail.commands.adapt import adapt
from vitrail.commands.bench import bench
from vitrail.commands.cache import cache
from vitrail.commands.check import check
from vitrail.commands.compare import compare
from vitrail.commands.compress import compress
from vitrail.commands.detect import detect
from vitrail.commands.evaluate import evaluate
from vitrail.commands.explain import explain
from vitrail.commands.export import export
from vitrail.commands.fit import fit
from vitrail.commands.growth import growth
from vitrail.commands.list import list_variants
from vitrail.commands.load import load
from vitrail.commands.predict import predict
from vitrail.commands.pretrain import pretrain
from vitrail.commands.private import private
from vitrail.commands.probe import probe
from vitrail.commands.recipes import recipes
from vitrail.commands.scale import scale
from vitrail.commands.search import search
from vitrail.commands.serve import serve
from vitrail.commands.study import study
from vitrail.commands.train import train
from vitrail.commands.weights import weights
from vitrail.errors import VitrailError
from vitrail.report.text import sentence
from vitrail.run.stopping import terminable
from vitrail.units import shortened

# A name or a value out of a damaged file may have any length.
MOST_SAID = 4000


class Commands(TyperGroup):
    """Commands that say so when a signal ends them, which typer lets pass without a word."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with terminable():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            print("vitrail: stopped", file=sys.stderr)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=Commands,
    name="vitrail",
    help="A workshop for vision backbones: find, train and export the best one for your images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("list")(list_variants)
app.command("check")(check)
app.command("fit")(fit)
app.command("train")(train)
app.command("search")(search)
app.command("adapt")(adapt)
app.command("pretrain")(pretrain)
app.command("probe")(probe)
app.command("recipes")(recipes)
app.command("study")(study)
app.command("scale")(scale)
app.command("predict")(predict)
app.command("detect")(detect)
app.command("serve")(serve)
app.command("evaluate")(evaluate)
app.command("explain")(explain)
app.command("weights")(weights)
app.command("load")(load)
app.command("export")(export)
app.command("compare")(compare)
app.command("compress")(compress)
app.command("private")(private)
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
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Read the options before a command."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command, and turn a VitrailError into one sentence and exit code 2."""
    # Threads that spin while they wait make a training on a busy machine several times slower,
    # and one on a quiet machine no faster; read when torch loads its OpenMP.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _complete(arguments)
    try:
        app(arguments, prog_name="vitrail")
    except VitrailError as error:
        print(f"vitrail: {shortened(sentence(str(error)), MOST_SAID)}", file=sys.stderr)
        raise SystemExit(2) from error
    except OSError as error:
        # What the system says of a path is never a defect of vitrail, wherever it comes up.
        if not isinstance(error.filename, str | bytes) or error.strerror is None:
            raise
        where = shortened(sentence(os.fsdecode(error.filename)), MOST_SAID)
        said = f"{where} cannot be used ({error.strerror}): mend that, or name another"
        print(f"vitrail: {said}", file=sys.stderr)
        raise SystemExit(2) from error


def _complete(arguments: list[str]) -> None:
    """Let `--pretrained` stand alone: then weights come from the Hub."""
    for position, argument in enumerate(arguments):
        following = arguments[position + 1 : position + 2]
        if argument == "--pretrained" and (not following or following[0].startswith("-")):
            arguments[position] = "--pretrained=hub"


if __name__ == "__main__":
    main()
