"""Images and sentences: what is read, what is drawn, how it is judged, a run from end to end."""

from __future__ import annotations

import json
import math
import signal
from io import StringIO

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from support.quick import one_thread
from support.signals import deliver
from typer.testing import CliRunner

import vitrail
from vitrail import checkpoint
from vitrail.cli import app, main
from vitrail.data.augment import Augment
from vitrail.data.cache import pixels
from vitrail.data.captioned import open_captions
from vitrail.data.captions import CaptionBatches
from vitrail.data.gate import inspect
from vitrail.data.split import divide
from vitrail.data.words import learned, opened
from vitrail.errors import ConfigError, DataError
from vitrail.jobs.train import train_recipe
from vitrail.models import config_json
from vitrail.models.vit import Config
from vitrail.run.view import View
from vitrail.tasks.image_text import ImageText
from vitrail.tasks.pairing import Pairs, by_chance, figures, prompted, ranks, recalls
from vitrail.training.interrupt import Interrupted

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230)}
SAYINGS = ("a {} picture", "everything is {}", "a photo of {}")
SMALL = [
    "task=image_text", "model=vit_ti16", "model.image=16,16", "model.patch=8", "model.dim=32",
    "model.depth=1", "model.heads=2", "model.hidden=64", "model.text.depth=1", "steps.batch=16",
    "steps.ema=none", "schedule.warmup=1",
]  # fmt: skip
UNLOCKED = [*SMALL, "objective.locked=false"]


def picture(path, colour, random):
    """A field of a colour under noise, so that no two are alike."""
    noise = random.normal(0, 30, (16, 16, 3))
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Fields of three colours with a sentence or two, labels, an empty sentence, a lost file."""
    folder, random = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    (folder / "img").mkdir()
    rows = ["image,caption,label"]
    for number in range(72):
        name = list(COLOURS)[number % 3]
        picture(folder / f"img/{number:02}.png", COLOURS[name], random)
        for saying in random.permutation(SAYINGS)[: 1 + number % 2]:
            rows.append(f"img/{number:02}.png,{saying.format(name)},{name}")
    rows += ["img/00.png,,red", "img/lost.png,a blue picture,blue"]
    (folder / "captions.csv").write_text("\n".join(rows))
    return folder / "captions.csv"


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory):
    with one_thread(tmp_path_factory.mktemp("cache")):
        yield


def trained(out, *settings, resume=False):
    console = Console(file=StringIO(), width=200)
    return train_recipe(settings, out=out, resume=resume, threads=1, device="cpu", console=console)


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return trained(out, *UNLOCKED, f"data={table}", "steps.total=60")


@pytest.fixture(scope="module")
def parts(table):
    """The divided pairs, with a vocabulary of the training sentences."""
    source = open_captions(table)
    split = divide(inspect(source, progress=False))
    words = learned([t for some in source.captions.of(split.train.rows) for t in some], 8)
    source.captions.settle(words)
    return split


# ---- sentences -----------------------------------------------------------------------------


def test_words_end_again_and_again(tmp_path):
    words = learned(["a red shirt", "a blue bag"] * 3, 6)
    ids = words(["a red bag", "Something ELSE entirely, écru", ""])
    assert ids.shape == (3, 6) and ids.dtype == np.int64 and ids.max() < words.size
    assert ids[0].tolist() == words(["A  Red bag".replace("  ", " ")])[0].tolist()
    assert (ids[0] == 1).sum() >= 2 and (ids[2] == 1).all() and (ids[:, -1] == 1).all()
    assert words.cut(["a red bag", "Something ELSE entirely, écru"]) == 1
    assert words(["a red bag"]).tolist() == ids[:1].tolist()
    (tmp_path / "tokenizer.json").write_text(words.text())
    again = opened(tmp_path / "tokenizer.json", 6)
    assert again.size == words.size and np.array_equal(again(["a red bag"]), ids[:1])
    assert learned(["a red shirt", "a blue bag"] * 3, 6).text() == words.text()
    with pytest.raises(ConfigError, match="vocabulary is 20: every byte is a piece"):
        learned(["a"], 6, most=20)
    with pytest.raises(DataError, match="is not a tokenizer"):
        opened(tmp_path / "none.json", 6)


def test_rules_of_a_tokenizer_that_contradict_themselves_are_told(tmp_path):
    """The library panics, which is not an ordinary exception."""
    rules = json.loads(learned(["a shirt", "a bag"], 6).text())
    rules["post_processor"]["special_tokens"] = {}
    (tmp_path / "tokenizer.json").write_text(json.dumps(rules))
    words = opened(tmp_path / "tokenizer.json", 6)
    for asked in (words, words.cut):
        with pytest.raises(DataError, match="rules contradict themselves"):
            asked(["a shirt"])


def test_a_table_says_what_is_wrong_with_it(table):
    source = open_captions(table)
    assert len(source) == 72 and source.classes == ("blue", "green", "red")
    assert source.items[1].key == "img/01.png" and source.classes[source.items[1].label] == "green"
    assert [len(some) for some in source.captions.texts[:4]] == [1, 2, 1, 2]
    told = {finding.kind: finding for finding in source.findings}
    assert told["empty caption"].keys == ("img/00.png",)
    assert told["image missing"].keys == ("img/lost.png",)
    assert told["empty caption"].severity == told["image missing"].severity == "error"
    assert "share a sentence" in told["same caption"].message


def test_text_files_lie_beside_images(tmp_path):
    random = np.random.default_rng(1)
    for part, number in (("train", 0), ("train", 1), ("test", 2), ("train", 3), ("train", 4)):
        (tmp_path / part).mkdir(exist_ok=True)
        picture(tmp_path / part / f"{number}.png", COLOURS["red"], random)
    texts = {"train/0": "one\n\ntwo words ", "train/1": " \n", "test/2": "three", "train/9": "none"}
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text)
    (tmp_path / "train/4.txt").write_text("four")
    source = open_captions(tmp_path)
    assert [item.key for item in source.items] == ["test/2.png", "train/0.png", "train/4.png"]
    assert source.captions.texts == (("three",), ("one", "two words"), ("four",))
    assert [item.part for item in source.items] == ["test", "train", "train"]
    assert source.classes == ("all",)
    told = {finding.kind: finding.keys for finding in source.findings}
    assert told == {
        "empty caption": ("train/1.png",), "image without caption": ("train/3.png",),
        "caption without image": ("train/9.txt",),
    }  # fmt: skip


def test_lines_of_json(tmp_path):
    picture(tmp_path / "a.png", COLOURS["red"], np.random.default_rng(2))
    lines = [{"file_name": "a.png", "text": ["one", "two"]}, {"file_name": "a.png", "text": None}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = open_captions(tmp_path)
    assert source.captions.texts == (("one", "two"),)
    assert [finding.kind for finding in source.findings] == ["empty caption"]


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("a.csv", "image,colour\na.png,red", "has the columns image, colour: expected image and"),
        ("a.csv", "image,caption\nno.png,red", "holds no image with a sentence .1 image that is n"),
        ("a.jsonl", "[1]", "line 1 is not a JSON object"),
        ("a.doc", "image", "is a file of another kind"),
    ],
)
def test_tables_that_are_none(tmp_path, file, text, said):
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=said):
        open_captions(tmp_path / file)


def test_what_holds_no_sentence(tmp_path):
    with pytest.raises(DataError, match="does not exist: give a table of image and caption"):
        open_captions(tmp_path / "none")
    picture(tmp_path / "a.png", COLOURS["red"], np.random.default_rng(2))
    with pytest.raises(DataError, match=r"holds no image with a sentence .1 image without a text"):
        open_captions(tmp_path)


# ---- batches -------------------------------------------------------------------------------


def test_a_batch_is_a_function_of_its_number(parts):
    train = pixels(parts.train, (16, 16), 3, progress=False)
    order = {"batch": 12, "seed": 5, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    batches = CaptionBatches(train, augment=Augment(flip=0.5), **order)
    again = CaptionBatches(train, augment=Augment(flip=0.5), **order)
    captions, seen = train.part.source.captions, set()
    for epoch in range(4):
        batch, other = batches.get(epoch, 1), again.get(epoch, 1)
        assert batch.images.equal(other.images) and batch.targets.equal(other.targets)
        shares = [batches.get(epoch, 1, rank=r, world=2).targets for r in range(2)]
        assert torch.cat(shares).equal(batch.targets)
        for row, ids in zip(batch.indices.tolist(), batch.targets.tolist(), strict=True):
            own = captions.words(list(captions.of(train.part.rows)[row])).tolist()
            assert ids in own
            seen.add((row, own.index(ids), len(own)))
    # Of two sentences both are seen in the course of some epochs.
    assert {place for _, place, many in seen if many == 2} == {0, 1}
    with pytest.raises(ConfigError, match="sentences of two images do not mix"):
        CaptionBatches(train, augment=Augment(mixup=0.2), **order)


def test_sentences_belong_to_what_a_part_is_known_by(table, parts):
    source = open_captions(table)
    assert divide(inspect(source, progress=False)).train.digest == parts.train.digest
    lines = table.read_text().replace("everything is", "all of it is")
    (table.parent / "other.csv").write_text(lines)
    other = open_captions(table.parent / "other.csv")
    assert divide(inspect(other, progress=False)).train.digest != parts.train.digest
    (table.parent / "other.csv").unlink()


# ---- figures -------------------------------------------------------------------------------


def test_ranks_by_hand():
    found = torch.eye(4)
    asked = torch.tensor([[0.9, 0.3, 0.2, 0.1], [0.1, 0.5, 0.9, 0.3], [0.5, 0.5, 0, 0]])
    own = torch.tensor([[0, 0], [1, 1], [1, 3], [2, 1]])
    # The second image's best own is in second place; a tie counts against the third.
    assert ranks(asked, found, own).tolist() == [1, 2, 2]
    assert recalls(torch.tensor([1, 2, 7, 40])) == {1: 0.25, 5: 0.5, 10: 0.75}


def test_chance_is_what_random_order_gives():
    own = torch.tensor([[i, j] for i in range(30) for j in range(i % 3 + 1)])
    told = by_chance(own, 30, 20)
    for k in (1, 5, 10):
        missed = sum(math.comb(20 - right, k) / math.comb(20, k) for right in (1, 2, 3)) / 3
        assert told[k] == pytest.approx(1 - missed)
    assert by_chance(torch.tensor([[0, 0]]), 1, 1) == {1: 1.0, 5: 1.0, 10: 1.0}


def test_figures_of_both_directions():
    images, texts = torch.eye(3), torch.eye(3)[[0, 1, 1]]
    own = torch.tensor([[0, 0], [1, 1], [2, 2]])
    classes = torch.eye(3)[[1, 0, 2]]
    pairs = Pairs(images, torch.tensor([1, 0, 0]), texts, ("a", "b", "c"), own, 0.0, classes)
    told = figures(pairs)
    assert told["zero-shot accuracy"] == pytest.approx(2 / 3)
    # Two sentences are alike: the second image's is tied with a foreign one.
    assert told["image to text, recall at 1"] == pytest.approx(1 / 3)
    assert told["text to image, recall at 1"] == pytest.approx(2 / 3)
    assert told["text to image, recall at 5"] == 1


def test_articles_are_the_names_own():
    assert prompted("an owl", ["a photo of a {}.", "the {}"]) == ["a photo of an owl.", "an owl"]
    assert prompted("owl", ["a photo of a {}.", "{}"]) == ["a photo of a owl.", "owl"]
    with pytest.raises(ConfigError, match=r"prompts are .*: give at least one"):
        ImageText(prompts=("a photo",))


# ---- a run ---------------------------------------------------------------------------------


def test_a_run_tells_colours_that_it_was_never_given_as_labels(run):
    result = json.loads((run / "result.json").read_text())
    test, chance = result["test"], result["chance"]
    assert test["zero-shot accuracy"] >= 0.9 and chance["zero-shot accuracy"] == pytest.approx(
        1 / 3
    )
    assert test["text to image, recall at 5"] > chance["text to image, recall at 5"]
    page = (run / "report.html").read_text()
    assert "empty sentence" in page and "everything is" in page and "by chance" in page
    assert "--classes" in (run / "README.md").read_text()


def test_classes_are_asked_for_in_words(run, table):
    images = [str(table.parent / f"img/0{n}.png") for n in range(3)]
    asked = ["predict", str(run), *images, "--classes", "a blue, red,green", "--json"]
    told = CliRunner().invoke(app, asked)
    assert told.exit_code == 0
    answers = json.loads(told.stdout)
    assert [one["classes"][0]["class"] for one in answers] == ["red", "green", "a blue"]
    for one in answers:
        assert sum(each["p"] for each in one["classes"]) == pytest.approx(1, abs=1e-3)
    other = CliRunner().invoke(app, [*asked, "--prompts", "a {} picture,everything is {}"])
    assert other.exit_code == 0 and json.loads(other.stdout) != answers


@pytest.mark.slow  # trains and reports a second time
def test_a_stopped_training_goes_on_with_the_same_bits(run, table, tmp_path, monkeypatch):
    step = View.step

    def stop(view, name, number, until):
        step(view, name, number, until)
        if number == 25:
            deliver(signal.SIGTERM)

    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(View, "step", stop)
        with pytest.raises(Interrupted, match="vitrail train --resume"):
            trained(out, *UNLOCKED, f"data={table}", "steps.total=60")
    trained(out, resume=True)
    ours, theirs = (load_file(one / "weights.safetensors") for one in (out, run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_locked_tower_stays_as_it_came(table, tmp_path):
    torch.manual_seed(0)
    config = Config(32, 1, 2, 64, 8, image=(16, 16), classes=5)
    tower = vitrail.create(config)
    file = tmp_path / "tower.safetensors"
    checkpoint.save(file, tower.state_dict(), metadata={"config": config_json(config)})
    out = trained(tmp_path / "run", *SMALL, f"data={table}", f"pretrained={file}", "steps.total=3")
    after = load_file(out / "weights.safetensors")
    body = {n: v for n, v in tower.state_dict().items() if not n.startswith("head.")}
    assert body and all(torch.equal(after[f"tower.{name}"], v) for name, v in body.items())
    assert json.loads((out / "result.json").read_text())["model"]["locked"]


def said(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([*map(str, arguments)])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_bad_input_is_told_in_a_sentence(run, table, tmp_path, capsys):
    def train(*settings, data=table):
        words = [word for one in (*settings, f"data={data}") for word in ("--set", one)]
        return said(capsys, "train", *words, "--out", tmp_path / "none")

    image = table.parent / "img/00.png"
    assert "a locked image tower learns nothing" in train("task=image_text", "model=vit_ti16")
    told = train("task=image_text", "model=resnet_18", "objective.locked=false")
    assert "model resnet has no text tower beside it" in told
    assert "sentences of two images do not mix" in train(*UNLOCKED, "augment.cutmix=1")
    assert "set model.bias=true" in train(*UNLOCKED, "objective.loss=sigmoid")
    assert "methods change a network of images" in train(*UNLOCKED, "methods=freeze")
    told = train(*UNLOCKED, f"task.tokenizer={image}")
    assert "is not a tokenizer" in told
    assert not (tmp_path / "none").exists()
    assert "has no classes of its own" in said(capsys, "predict", run, image)
    assert "has no classes of its own" in said(capsys, "evaluate", run)
    assert "at least two different classes" in said(
        capsys, "predict", run, image, "--classes", "red"
    )
    told = said(capsys, "predict", run, image, "--classes", "a,b", "--prompts", "a photo")
    assert "prompt 'a photo' has no {}" in told
    assert "--prompts are sentences for classes" in said(
        capsys, "predict", run, image, "--prompts", "a {}"
    )
    told = said(capsys, "predict", run, image, "--classes", "a,b", "--dial", 0.5)
    assert "--dial is for files of a run" in told
