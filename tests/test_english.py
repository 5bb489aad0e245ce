"""The mechanical part of plain English: help texts, first lines of docstrings, error sentences."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import typer

import vitrail
from vitrail.cli import app

ROOT = Path(vitrail.__file__).parent
GROUP = typer.main.get_command(app)
PARAMETERS = [
    (name, parameter)
    for name, command in [("vitrail", GROUP), *GROUP.commands.items()]
    for parameter in command.params
    if parameter.name != "help"
]
UNREAD_HELP = {("list", "max_macs"), ("list", "max_params")}
# A help text that begins so leans on the option's name instead of standing alone.
LEANING = re.compile(r"^(Of|And|At most so many|So many|As|With|By)\b")
# A docstring's first line that begins so is not a sentence.
FRAGMENT = re.compile(r"^(Of|Who|Whose|What|Which|And|Whether|That|How)\b")
# Nor is one that begins so: a function does something, and its first word is a verb.
VERB = re.compile(r"[A-Z][a-z]+,?\s")
NO_VERBS = """
A All An And Answers As At Attention Batches Between Black Blocks Both Boxes By Bytes Called
Channels Class Clips Coarse Colours Columns Config Contiguous Convolutions Counts Crops
Decided Differences Each Either Entries Every Exact Families Features Fields Files Flax Flips
For Frame Frames From Groups Heads Height How If Images In Indices Inside Its Itself Kept
Kernels Key Keys Length Lists Local Logits Luma Maps Maxima Mean Means Messages Models Names
No Not Nothing Number Numbers Of Offsets On One Our Outputs Pairs Parameters Parts Patches
Pictures Pillow Pixels Points Positions Precision Predictions Products Pruned Queries Raises
Raw Rectangles Returns Rows Runs Scaled Scans Scores Seconds Series Shares Signs Sizes Small
So Some Sorts Terms Text That The Their These Those To Tokens Two Units Until Validation
Variants Weights What Whatever When Where Whether Which Who Whole Whose Why With Without
Xavier Zeros
"""
READ = [
    "report", "commands/options.py", "commands/bench.py", "commands/compare.py",
    "commands/explain.py", "commands/export.py", "commands/fit.py", "commands/growth.py",
    "commands/predict.py", "commands/recipes.py", "commands/study.py", "commands/train.py",
    "cli.py", "errors.py", "jobs/explain.py", "attribution.py", "run/deploy.py",
    "bench", "engines", "measure", "study", "config.py", "models/trunk/title.py",
]  # fmt: skip


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS, ids=lambda x: getattr(x, "name", x))
def test_a_help_text_stands_alone(name, parameter):
    if (name, parameter.name) in UNREAD_HELP:
        return
    text = parameter.help or ""
    assert re.match(r"[A-Z]|fp32\b|int8\b", text), f"{name} {parameter.name}: {text!r}"
    assert len(text.split()) >= 3 and text.endswith("."), f"{name} {parameter.name}: {text!r}"
    assert not LEANING.match(text), f"{name} {parameter.name}: {text!r}"
    assert not re.search(r", as \d|such as \d|\bis no\b", text), (
        f"{name} {parameter.name}: {text!r}"
    )


@pytest.mark.parametrize("name", GROUP.commands)
def test_a_command_says_what_it_does(name):
    first = (GROUP.commands[name].help or "").partition("\n")[0]
    assert re.match(r"[A-Z][a-z]+,? ", first) and first.endswith("."), first
    assert not FRAGMENT.match(first), first


def sources(places):
    for place in places:
        path = ROOT / place
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def public(tree):
    """Public functions and classes of a module, and the public methods of such classes."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node)


@pytest.mark.parametrize("path", sources(READ), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_first_lines_of_docstrings_are_sentences(path):
    tree = ast.parse(path.read_text())
    for node in public(tree):
        first = (ast.get_docstring(node) or "").partition("\n")[0]
        assert not FRAGMENT.match(first), f"{node.name}: {first}"


def told_functions():
    """Names and docstrings of all functions, private and inner ones too."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text is not None:
                    yield f"{path.relative_to(ROOT)} {node.name}", text


def test_docstrings_of_functions_begin_with_a_verb():
    nouns = set(NO_VERBS.split())
    wrong = [
        f"{name}: {text}"
        for name, text in told_functions()
        if not VERB.match(text) or re.split(r"[\s,]", text)[0] in nouns
    ]
    assert not wrong, wrong


# Files whose sentences are still to be read; an entry goes when they are plain.
UNREAD = {
    "checkpoint.py", "data/source.py", "data/split.py", "data/uea.py", "models/__init__.py",
    "models/bats.py", "recipes/recipe.py", "run/state.py", "run/workshop.py", "search/shelf.py",
}  # fmt: skip


def errors(path):
    """The texts of all messages that a file raises, with placeholders as {}."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Raise) and node.exc is not None:
            for part in ast.walk(node.exc):
                if isinstance(part, ast.JoinedStr):
                    yield "".join(
                        v.value if isinstance(v, ast.Constant) else "{}" for v in part.values
                    )
                elif isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


@pytest.mark.parametrize(
    "path", sorted(ROOT.rglob("*.py")), ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_no_error_says_is_no(path):
    if path.relative_to(ROOT).as_posix() in UNREAD:
        return
    for text in errors(path):
        assert not re.search(r"(?<!there) (is|are) no (?!longer\b)", f" {text}"), text
