"""The form of the code: functions are short without their docstrings, take few arguments, and
nothing is written twice."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINES, ARGUMENTS, REPEAT = 50, 6, 12
# One literal table.
TABLES = {"models/names/vit.py _npz"}
# What takes more than six arguments: layers by their sizes, and what is asked with many words.
MANY = {
    "checkpoint/stored.py _rebuilt_typed", "data/batches.py __init__", "data/cache.py pixels",
    "engines/int8.py quantise", "engines/onnx.py export_onnx", "jobs/pretrain.py pretrain",
    "jobs/train.py train_recipe", "layers/conv.py __init__", "layers/mbconv.py __init__",
    "layers/neighborhood.py _attend_alike", "layers/neighborhood.py neighborhood",
    "layers/windows.py __init__", "measure/latency.py eager_latency", "methods/prompts.py __init__",
    "models/aa_resnet.py __init__", "models/elsa.py __init__", "models/halonet.py __init__",
    "models/lesa.py __init__", "models/parts/bats_cells.py __init__",
    "models/parts/evolving_conv.py __init__", "models/parts/evolving_series_conv.py __init__",
    "models/parts/pnasnet_cells.py __init__", "models/resnet.py __init__",
    "models/trunk/backbone.py __init__", "models/trunk/loading.py load",
    "recipes/defaults.py default", "recipes/pretraining.py usual_pretraining",
    "run/deploy.py export_engine", "run/exported.py measured", "study/scaling.py scale",
    "tasks/fewshot.py few_shots",
}  # fmt: skip


def functions():
    """Every function of the package but the commands, whose arguments are options with their
    help, by its file and name."""
    package = ROOT / "vitrail"
    for path in sorted(package.rglob("*.py")):
        if path.parent.name == "commands":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.relative_to(package)} {node.name}", node


def test_functions_are_short_and_take_few_arguments():
    long, many = set(), set()
    for name, node in functions():
        said = (ast.get_docstring(node, clean=False) or "").count("\n") + 1
        if node.end_lineno - node.lineno + 1 - said > LINES:
            long.add(name)
        given = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        if len(given) - (given[:1] in (["self"], ["cls"])) > ARGUMENTS:
            many.add(name)
    assert long == TABLES
    assert many == MANY


def code(path: Path) -> list[tuple[int, str]]:
    """The lines of a file with their numbers, without blank ones, comments and imports."""
    stripped = ((n, line.strip()) for n, line in enumerate(path.read_text().splitlines(), 1))
    return [(n, s) for n, s in stripped if s and not s.startswith(("#", "import ", "from "))]


def test_nothing_is_written_twice():
    """No twelve lines of code are anywhere else as well."""
    seen: dict[tuple[str, ...], str] = {}
    twice = []
    for folder in ("vitrail", "bench", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            lines = code(path)
            for at in range(len(lines) - REPEAT + 1):
                window = tuple(text for _, text in lines[at : at + REPEAT])
                place = f"{path.relative_to(ROOT)}:{lines[at][0]}"
                if (first := seen.setdefault(window, place)) != place:
                    twice.append(f"{first} and {place}")
    assert not twice, twice
