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


# "No" before a comparison is English: no larger than, no longer.
COMPARED = r"(?:better|faster|larger|longer|more|slower|smaller|wider)\b"
IS_NO = re.compile(rf"(?<![Tt]here) (?:is|are) no (?!{COMPARED})")


@pytest.mark.parametrize(
    "path", sorted(ROOT.rglob("*.py")), ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_nothing_is_no_something(path):
    """A thing is not another; it "is no" other in no error, docstring or comment."""
    lines = (re.sub(r'^\s*(?:#|f?")?', "", line) for line in path.open())
    words = " ".join(" ".join(lines).split())
    found = IS_NO.search(words)
    assert found is None, words[max(0, found.start() - 60) : found.end() + 60]
