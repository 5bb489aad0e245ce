"""The command line as a user types it: answers, exit codes, one sentence for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
import typer
from rich.console import Console

import vitrail
import vitrail.models
from vitrail.cli import app, main
from vitrail.commands.options import say, show


def run(*arguments: str) -> int:
    """Exit code of `vitrail ARGUMENTS` in this process."""
    try:
        main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def refused(capsys, *arguments: str) -> str:
    """The one sentence of a refused command."""
    assert run(*arguments) == 2
    text = capsys.readouterr().err.strip()
    assert text.count("\n") == 0 and text.startswith("vitrail: "), text
    return text


def loaded(*words: str) -> tuple[int, set[str], str]:
    """Exit code of `vitrail WORDS`, the modules that it imports, and all that it prints."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vitrail", *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    return done.returncode, modules, done.stdout + done.stderr


def test_a_refused_fit_imports_nothing_that_takes_seconds(tmp_path):
    """Neither the compiler, nor Fabric, nor what these import where it is installed."""
    code, modules, said = loaded("fit", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run"))
    assert code == 2 and "nowhere does not exist" in said and "torch" in modules
    heavy = {"torch._dynamo", "lightning_fabric", "torchvision.models", "transformers"}
    assert not heavy & modules


def test_import_and_help_leave_torch_alone():
    code = "import sys, vitrail, vitrail.cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    _, modules, said = loaded("--help")
    assert "Usage: vitrail" in said
    assert not modules & {"torch", "numpy", "pydantic", "rich.live", "optuna", "matplotlib"}


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"vitrail {vitrail.__version__}\n"


def test_list(capsys):
    assert run("list", "--json") == 0
    everything = json.loads(capsys.readouterr().out)
    assert [v["name"] for v in everything] == list(vitrail.catalog())
    assert run("list", "--family", "vit", "--max-macs", "2G", "--max-params", "10M", "--json") == 0
    found = [v["name"] for v in json.loads(capsys.readouterr().out)]
    assert found == ["vit_ti16", "scaling_vit_s28", "scaling_vit_s16", "scaling_vit_Ti16"]
    assert run("list", "--family", "resnet") == 0
    table = capsys.readouterr().out
    assert "resnet_50" in table and "25.557" in table and "76.13" in table


def test_list_counts_without_building(capsys, monkeypatch):
    """Figures that nobody published are shown as counted; no model is built for them."""
    from vitrail.models import resnet

    monkeypatch.setattr(resnet, "MODEL", None)
    assert run("list", "--max-macs", "300M") == 0
    table = capsys.readouterr().out
    assert "cct_2_3x2_32" in table and "*" in table
    assert run("list", "--max-macs", "300M", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found and all(v["counted"]["macs"] > 0 for v in found)
    assert all((v["flops_g"] or v["counted"]["macs"] / 1e9) <= 0.3 for v in found)


def test_load_says_what_a_checkpoint_is(tmp_path, capsys):
    config = vitrail.models.resolve("resnet_18", classes=4)
    path = tmp_path / "unknown.pth"
    torch.save({"model": vitrail.create(config).state_dict()}, path)
    assert run("load", str(path)) == 0
    assert "is resnet_18 in vitrail names: 11.2 M parameters, 4 classes" in capsys.readouterr().out
    assert run("load", str(path), "--out", str(tmp_path / "run"), "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["name"] == "resnet_18" and facts["config"]["classes"] == 4
    assert (tmp_path / "run" / "weights.safetensors").is_file()
    assert "not empty" in refused(capsys, "load", str(path), "--out", str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", "--family", "swim"], "did you mean 'swin'"),
        (["list", "--max-macs", "many"], "many"),
        (["load", "missing.pth"], "does not exist"),
        (["load", "https://example.org/a.pth"], "https://example.org/a.pth is an address"),
        (["load", "."], "is a folder without model.safetensors"),
        (["compare", "swin_tiny", "swin"], "that is a family, whose variants are swin_tiny"),
        (["fit", "nowhere"], "nowhere"),
        (["fit", "fashion-sample", "--latency", "20"], "20ms"),
        (["fit", "fashion-sample", "--time", "soon"], "soon"),
        (["fit", "fashion-sample", "--resume"], "--out"),
        (["predict", "nowhere", "a.png"], "does not exist"),
        (["export", "nowhere", "--onnx"], "does not exist"),
        (["export", "nowhere"], "--onnx"),
        (["export", "nowhere", "--int8"], "--onnx"),
        (["explain", "nowhere", "a.png"], "does not exist"),
        (["train", "--set", "model=cvt_31", "--set", "data=fashion-sample"], "did you mean"),
        (
            ["train", "--set", "model=cvt_13", "--set", "data=x", "--set", "optimizer.rl=1"],
            "did you mean 'lr'",
        ),
        (
            ["train", "--set", "model=cvt_13", "--set", "data=x", "--set", "optimizer.lr=abc"],
            "optimizer.lr",
        ),
        (["train", "--set", "model=cvt_13"], "data="),
        (["train", "--set", "data=fashion-sample"], "model="),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_sentence(capsys, arguments, words):
    assert words in refused(capsys, *arguments)


def test_usage_errors_exit_with_two():
    assert run("fly") == 2
    assert run("fit") == 2


def test_a_new_knob_of_fit_is_a_field_and_not_an_option():
    """Data, budget, place and the like have options; all that tunes a training goes by --set."""
    options = {p.name for p in typer.main.get_command(app).commands["fit"].params}
    assert options == {
        "settings", "duplicates", "input",
        "data", "latency", "engine", "macs", "params", "time", "device", "devices", "threads",
        "seed", "pretrained", "out", "resume", "storage", "group_by", "task", "teacher", "add",
        "flexible", "pretrain", "against_scratch",
    }  # fmt: skip


def test_names_reach_the_terminal_without_control_characters(tmp_path, capsys):
    """Neither in a sentence nor in an answer: a file's name sets no title and turns no line."""
    evil = tmp_path / "a\x1b]0;pwn\x07\u202eb\n.png"
    told = refused(capsys, "explain", str(evil), "x.png")
    assert r"a\x1b]0;pwn\x07\u202eb" in told
    say("first\nb\x1b[2J")
    assert capsys.readouterr().out == "first\nb\\x1b[2J\n"
    show(("name", "n"), [("[red]\x1b[2Jx", "1")], left=("name",))
    assert r"[red]\x1b[2Jx" in capsys.readouterr().out


@pytest.mark.parametrize("columns", [60, 80])
def test_no_table_cuts_a_path_or_a_figure(capsys, monkeypatch, columns):
    from vitrail.commands import options

    monkeypatch.setattr(options, "console", lambda: Console(width=columns))
    path = "/a/folder/" + "x" * 90 + "/and another one/picture.png"
    rows = [(path, "a" * 30, "12,345,678.9 ms", "0.125")]
    options.show(("image", "class", "latency", "share"), rows, left=("image", "class"))
    shown = capsys.readouterr().out
    assert "…" not in shown and all(len(line) <= columns for line in shown.splitlines())
    assert shown.count("x") == 90 and "12,345,678.9" in shown and "0.125" in shown
