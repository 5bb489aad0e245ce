"""The README's commands are commands, its Python runs, and its make targets are there."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import torch
import typer

import vitrail
from vitrail import models
from vitrail.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.S)
LINES = [line.partition("  #")[0].strip() for kind, text in BLOCKS if not kind
         for line in text.splitlines()]  # fmt: skip
COMMANDS = [line for line in LINES if line.startswith("vitrail ")]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_understood(line):
    """Command, arguments and options are parsed as the command line would, and not run."""
    name, *rest = shlex.split(line)[1:]
    group = typer.main.get_command(app)
    group.commands[name].make_context(name, rest).close()


def test_make_targets_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {line.split()[1] for line in LINES if line.startswith("make ")}
    assert named and named <= targets


PYTHON = [text for kind, text in BLOCKS if kind == "python"]
_, MODELS = PYTHON


def test_python_calls_are_understood():
    """Every call of a promised function has arguments that the function takes."""
    calls = [
        node
        for text in PYTHON
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("vitrail.")
    ]
    for call in calls:
        function = getattr(vitrail, ast.unparse(call.func).partition(".")[2])
        keywords = {str(keyword.arg): None for keyword in call.keywords}
        inspect.signature(function).bind(*call.args, **keywords)
    assert len(calls) == 5


def test_python_of_models_runs(tmp_path):
    config = models.resolve("levit_128s")
    torch.save(vitrail.create(config).state_dict(), tmp_path / "levit.pth")
    torch.save(vitrail.create("resnet_18").state_dict(), tmp_path / "unknown.pth")
    code = MODELS.replace("levit.pth", str(tmp_path / "levit.pth"))
    code = code.replace("unknown.safetensors", str(tmp_path / "unknown.pth"))
    names = {"images": torch.zeros(1, 4, 333, 200)}
    exec(code, names)
    assert [m.shape[-1] for m in names["maps"]] == [96, 192, 384, 768]


def test_figures_are_those_of_the_code():
    assert f"{len(models.families())} families" in README
    promised = re.findall(
        r"`(\w+)`", README.partition("\n`fit`, `train`")[2].partition("promised")[0]
    )
    assert {"fit", "train", *promised} == set(vitrail.__all__)
    extras = re.search(r"Extras: (.*?), as in", README, re.S)[1]  # pyright: ignore
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    users = set(project["optional-dependencies"]) - {"test", "dev", "docs"}
    assert set(re.findall(r"`(\w+)`", extras)) == users


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target
