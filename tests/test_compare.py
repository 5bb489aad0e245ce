"""Comparing models: a fault that was put in is found where it is."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import vitrail
from vitrail import cli
from vitrail.errors import CheckpointError, ConfigError
from vitrail.jobs.compare import compare
from vitrail.models.vit import Config

SMALL = Config(dim=24, depth=3, heads=2, hidden=48, patch=8, image=(32, 48), classes=5)


def model():
    torch.manual_seed(0)
    made = vitrail.create(SMALL)
    nn.init.normal_(made.head.weight)
    return made


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    return int(stopped.value.code or 0)


def test_the_same_model_is_equal_in_every_layer():
    found = compare(model(), model())
    assert found.first is None and not found.parameters and found.paired == "name"
    assert len(found.layers) > 30 and found.said().startswith("equal: ")


@pytest.mark.parametrize(
    "fault",
    [
        ("blocks.1.norm2", lambda m: setattr(m.blocks[1].norm2, "eps", 1e-3)),
        ("blocks.2.ffn.fc1", lambda m: m.blocks[2].ffn.fc1.bias.data.add_(1e-4)),
        ("embed.proj", lambda m: m.embed.proj.weight.data.mul_(1.001)),
    ],
    ids=lambda f: f[0],
)
def test_a_fault_is_found_where_it_is(fault):
    name, spoil = fault
    spoiled = model()
    spoil(spoiled)
    first = compare(model(), spoiled).first
    # fc1 is read by `then`, whose result is the activation's: the ffn is the first to show it
    assert first is not None and first.name in (name, name.rpartition(".")[0])


def test_an_activation_shows_in_its_ffn():
    other = model()
    other.blocks[0].ffn.act = nn.GELU()
    found = compare(model(), other)
    assert found.first is not None and found.first.name.startswith("blocks.0.ffn")
    assert 0 < found.first.relative < 1e-2 and not found.parameters


def test_models_of_other_names_are_paired_by_shapes():
    plain = model()
    renamed = nn.Sequential(plain.embed, *plain.blocks, plain.norm, plain.pool, plain.head)
    found = compare(plain, renamed, image=(32, 48))
    assert found.paired == "shape" and found.first is None


def test_models_that_take_other_images():
    with pytest.raises(ConfigError, match="32x48 and 64x64: say which by --image"):
        compare(model(), vitrail.create(SMALL, image=(64, 64)))
    with pytest.raises(ConfigError, match="1 and 3 channels"):
        compare(model(), vitrail.create(SMALL, channels=1))
    with pytest.raises(ConfigError, match="image is 33x48"):
        compare(model(), model(), image=(33, 48))


def test_command(tmp_path, capsys):
    weights = vitrail.create("cct_2_3x2_32").state_dict()
    torch.save(weights, tmp_path / "a.pth")
    weights["blocks.1.ffn.fc2.bias"] = weights["blocks.1.ffn.fc2.bias"] + 1e-3
    torch.save(weights, tmp_path / "b.pth")
    a, b = str(tmp_path / "a.pth"), str(tmp_path / "b.pth")
    assert run("compare", a, a) == 0
    assert capsys.readouterr().out.startswith("equal: ")
    assert run("compare", a, b) == 1
    assert capsys.readouterr().out.startswith("first deviation: blocks.1.ffn")
    assert run("compare", a, f"cct_2_3x2_32={b}", "--json", "--tolerance", "0.5") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["equal"] and [it["name"] for it in told["parameters"]] == ["blocks.1.ffn.fc2.bias"]
    assert run("compare", a, b, "--image", "32") == 2
    assert "expected height x width" in capsys.readouterr().err
    assert run("compare", a, "cvt_14") == 2
    assert "did you mean cvt_21 or cvt_13" in capsys.readouterr().err


def test_a_file_that_is_no_model(tmp_path):
    torch.save({"x": torch.zeros(2)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="no model of the catalog"):
        compare(tmp_path / "x.pth", tmp_path / "x.pth")
