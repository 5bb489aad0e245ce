"""What a model looked at: maps by hand, on toys, of every family, and as pictures."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_backbones import CLIPS, FAMILIES, build, image, tiny

import vitrail
from vitrail import cli
from vitrail.attribution import METHODS, explain, gradient, overlay, photograph, rollout
from vitrail.jobs.explain import picture_names
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


@pytest.mark.parametrize("read", [0, 1])
def test_a_cell_that_reads_one_of_its_inputs_has_a_map(read):
    """A search may find cells that leave out the map before or the one before that."""
    genotype = (("sep_3x3", read), ("max_3x3", read))
    config = replace(tiny("pnasnet"), genotype=genotype)
    heat = gradient(build(config), image(config)[0], 1)
    assert heat.shape == config.image and heat.min() >= 0 and np.isfinite(heat).all()


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


def test_files_of_the_same_name_get_pictures_of_their_own(run_folder, picture, capsys):
    wide = Image.fromarray(np.zeros((30, 120, 3), np.uint8))
    for folder in ("a", "b"):
        Path(folder).mkdir()
        wide.save(f"{folder}/0.png")
    assert run("explain", str(run_folder), "a/0.png", "b/0.png") == 0
    assert sorted(p.name for p in Path().glob("*-explained.png")) == [
        "a-0-explained.png", "b-0-explained.png",
    ]  # fmt: skip
    told = capsys.readouterr().out
    assert "a-0-explained.png shows" in told and "b-0-explained.png shows" in told


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["x/cat.jpg"], ["cat"]),
        (["x/a/0.png", "y/a/0.jpg", "y/b.png"], ["x-a-0", "y-a-0", "b"]),
        (["a.png", "a.jpg", "a.png"], ["a", "a-2", "a-3"]),
        (["/0.png", "/q/0.png"], ["0", "q-0"]),
        (["a/0.png", "a/0.jpg", "b/0.png"], ["a-0", "a-0-2", "b-0"]),
    ],
)
def test_names_of_pictures(paths, names):
    assert picture_names(paths) == [f"{name}-explained.png" for name in names]


def test_a_map_lies_on_the_photograph_in_its_own_shape(tmp_path):
    """The map of a square input is stretched back over a wide and a turned photograph."""
    heat = np.zeros((28, 28), np.float32)
    heat[:14, 14:] = 1  # the upper right quarter of what the model saw
    file, exif = tmp_path / "wide.png", Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    for turned, shape in ((False, (60, 200)), (True, (200, 60))):
        noise = np.full((60, 200, 3), 60, np.uint8)
        Image.fromarray(noise).save(file, exif=exif if turned else Image.Exif())
        shown = photograph(file.read_bytes())
        assert shown.shape == (*shape, 3)
        glow = np.asarray(Image.open(io.BytesIO(overlay(shown, heat)))).astype(int).sum(2)
        h, w = glow.shape
        assert h * shape[1] == w * shape[0]
        bright = glow > (glow.min() + glow.max()) / 2
        assert bright[: h // 2, w // 2 :].mean() > 0.9 and bright[h // 2 :].mean() < 0.1
        assert bright[: h // 2, : w // 2].mean() < 0.1
    large = np.zeros((900, 3000, 3), np.uint8)
    Image.fromarray(large).save(file)
    assert photograph(file.read_bytes(), 300).shape == (90, 300, 3)


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
    assert "broken.png is not an image that can be identified" in capsys.readouterr().err
    assert run("explain", str(run_folder), str(picture), "nothing.png") == 2
    assert "image nothing.png does not exist: give image files" in capsys.readouterr().err
    assert run("explain", str(run_folder), str(tmp_path)) == 2
    assert "is not a file: give image files" in capsys.readouterr().err
    assert not list(tmp_path.glob("*-explained.png"))
    assert run("explain", str(run_folder), str(picture), str(broken), "--out", "x.png") == 2
    assert "one picture for 2 images" in capsys.readouterr().err
    shutil.copytree(run_folder, tmp_path / "empty", ignore=shutil.ignore_patterns("weights*"))
    assert run("explain", str(tmp_path / "empty"), str(picture)) == 2
    assert "has no weights.safetensors" in capsys.readouterr().err
