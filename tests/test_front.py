"""What `vitrail.__all__` promises: each name is there at once, and its example runs."""

from __future__ import annotations

import ast
import doctest
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from support.pictures import write_classes

import vitrail

ROOT = Path(__file__).parent.parent
PROMISED = [
    "catalog", "compare", "create", "evaluate", "explain", "export", "fit", "identify", "load",
    "predict", "train",
]  # fmt: skip
READ_A_RUN = {"evaluate", "explain", "export", "predict"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs of cats and dogs, in a folder in which the examples work."""
    folder = tmp_path_factory.mktemp("front")
    write_classes(folder / "photos", {"cat": 40, "dog": 40})
    return folder


def run_example(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the example in the docstring of `vitrail.NAME` in `folder`; return its statements.

    What is printed on the way does not matter, the values that are shown have to agree.
    """
    monkeypatch.chdir(folder)
    monkeypatch.setenv("VITRAIL_CACHE", str(folder / "cache"))
    names = {"vitrail": vitrail, "torch": torch}
    examples = doctest.DocTestParser().get_examples(getattr(vitrail, name).__doc__)
    for example in examples:
        if example.want:
            value = eval(compile(example.source.strip(), name, "eval"), names)
            assert repr(value) == example.want.strip(), example.source
        else:
            exec(compile(example.source, name, "exec"), names)
    return len(examples)


@pytest.fixture(scope="module")
def finished(folder):
    """The run that the example of `train` leaves."""
    with pytest.MonkeyPatch.context() as patch:
        assert run_example("train", folder, patch)
    return folder / "run"


def test_what_is_promised():
    assert vitrail.__all__ == PROMISED == sorted(vitrail.__all__)
    assert dir(vitrail) == sorted([*PROMISED, "__version__"])
    with pytest.raises(AttributeError, match="it has catalog, compare, create"):
        vitrail.nothing  # noqa: B018


def test_no_module_has_the_name_of_a_function():
    """Python makes a module that was imported an attribute of its package, over what was there."""
    modules = {module.name for module in pkgutil.iter_modules(vitrail.__path__)}
    assert modules.isdisjoint(PROMISED)


def test_a_type_checker_sees_the_same_functions():
    """The imports for type checking name what is loaded at run time, one for one."""
    tree = ast.parse(Path(vitrail.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == vitrail._HOMES and sorted(seen) == vitrail.__all__


@pytest.mark.parametrize("name", PROMISED)
def test_every_function_has_an_example_and_a_sentence(name):
    text = getattr(vitrail, name).__doc__
    assert text.split("\n\n")[0].rstrip().endswith("."), text
    assert f"vitrail.{name}(" in text.partition("Examples:")[2]


@pytest.mark.parametrize("name", [n for n in PROMISED if n not in READ_A_RUN | {"train", "fit"}])
def test_examples_of_models_run(name, folder, monkeypatch):
    assert run_example(name, folder, monkeypatch) > 1


@pytest.mark.parametrize("name", sorted(READ_A_RUN))
def test_examples_of_a_finished_run_run(name, finished, folder, monkeypatch):
    assert finished.is_dir()
    assert run_example(name, folder, monkeypatch) > 1


@pytest.mark.slow
def test_the_example_of_fit_runs(folder, monkeypatch):
    assert run_example("fit", folder, monkeypatch)
    assert (folder / "best" / "report.html").is_file()


def test_a_bare_import_leaves_torch_alone():
    code = "import sys, vitrail; dir(vitrail); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_version_is_written_once():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "vitrail/__init__.py"
    assert vitrail.__version__.count(".") == 2
