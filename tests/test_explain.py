"""What a model looked at: maps by hand, on toys, of every family, and as pictures."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from test_backbones import CLIPS, FAMILIES, build, image, tiny

import vitrail
from vitrail import cli
from vitrail.attribution import METHODS, explain, gradient, rollout
from vitrail.models.vit import Config
from vitrail.run.adopt import adopt


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    return int(stopped.value.code or 0)


def test_rollout_is_the_product_of_attention_with_its_skips():
    first = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.2, 0.3, 0.5]])
    second = torch.tensor([[0.1, 0.2, 0.7], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    eye = torch.eye(3)
    expected = ((second + eye) / 2) @ ((first + eye) / 2)
    assert torch.allclose(rollout([first, second], 1), expected[0, 1:])
    assert torch.allclose(rollout([first, second], 0), expected.mean(0))


def test_gradient_finds_the_patch_that_the_head_reads():
    """A network without depth whose class 1 is the brightness of all: the bright patch speaks."""
    config = Config(dim=8, depth=1, heads=2, hidden=8, patch=8, pool="mean", image=(32, 32))
    model = vitrail.create(config, position="sincos", classes=2).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.embed.proj.weight[0] = 1 / 64
        for norm in (model.blocks[0].norm1, model.blocks[0].norm2, model.norm):
            norm.weight.fill_(1)
        model.head.weight[1, 0] = 1
    x = torch.zeros(3, 32, 32)
    x[:, 8:16, 24:32] = 30
    heat = gradient(model, x, 1)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert heat.shape == (32, 32) and 8 <= row < 16 and 24 <= column < 32


@pytest.mark.parametrize("family", [f for f in FAMILIES if not f.endswith(CLIPS)])
def test_every_family_has_a_map(family):
    config = tiny(family)
    model = build(config)
    x = image(config)[0]
    heat, method = explain(model, x, 2)
    assert method in METHODS and heat.shape == config.image
    assert heat.min() >= 0 and heat.max() <= 1 and np.isfinite(heat).all()
    other, method = explain(model, x, 2, "gradient")
    assert method == "gradient" and other.shape == config.image


@pytest.mark.parametrize(
    ("family", "method"),
    [("cait", "class-attention"), ("xcit", "class-attention"), ("vit", "rollout"),
     ("deit", "rollout"), ("swin", "gradient"), ("resnet", "gradient")],
)  # fmt: skip
def test_what_suits_a_model(family, method):
    config = tiny(family)
    assert explain(build(config), image(config)[0], 0)[1] == method


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run"
    torch.manual_seed(0)
    adopt(path, vitrail.create("cct_2_3x2_32").eval(), source="random")
    return path


@pytest.fixture
def picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "cat.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    return path


def test_command(run_folder, picture, capsys):
    before = picture.read_bytes()
    assert run("explain", str(run_folder), str(picture), "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["method"] == "rollout" and told["picture"] == "cat-explained.png"
    made = Image.open("cat-explained.png")
    assert made.size[0] > made.size[1] > 300 and picture.read_bytes() == before
    assert run("explain", str(run_folder), str(picture)) == 2
    assert "cat-explained.png exists and is not overwritten" in capsys.readouterr().err
    name = json.loads((run_folder / "labels.json").read_text())["classes"][3]
    out = ("--out", "other.png", "--class", name, "--method", "occlusion")
    assert run("explain", str(run_folder), str(picture), *out) == 0
    assert f"for {name}, bright where hiding" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--method", "magic"), "method is 'magic': expected auto"),
        (("--method", "class-attention"), "this model has rollout, gradient, occlusion"),
        (("--class", "unicorn"), "class 'unicorn' is unknown to the run"),
    ],
)
def test_wrong_questions(run_folder, picture, arguments, said, capsys):
    assert run("explain", str(run_folder), str(picture), *arguments) == 2
    assert said in capsys.readouterr().err


def test_wrong_files(run_folder, picture, tmp_path, capsys):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    assert run("explain", str(run_folder), str(broken)) == 2
    assert "broken.png is no image that can be read" in capsys.readouterr().err
    assert run("explain", str(run_folder), str(picture), str(broken), "--out", "x.png") == 2
    assert "one picture for 2 images" in capsys.readouterr().err
    shutil.copytree(run_folder, tmp_path / "empty", ignore=shutil.ignore_patterns("weights*"))
    assert run("explain", str(tmp_path / "empty"), str(picture)) == 2
    assert "has no weights.safetensors" in capsys.readouterr().err
