"""Clips, sounds and sentences: what is read, what is shown, how it is judged, a run end to end."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
import soundfile
import torch
from rich.console import Console
from safetensors.torch import load_file
from support.clips import frames, write, write_heard
from support.quick import one_thread
from support.signals import deliver
from support.triples import RATE, TONES, table, tone
from test_cli import run as command

from vitrail.cli import main
from vitrail.data.augment import Augment
from vitrail.data.clip_pixels import clip_pixels
from vitrail.data.clip_table import Sounding, open_clip_table
from vitrail.data.clip_triples import Beside, TripleBatches
from vitrail.data.film_sounds import read_track
from vitrail.data.gate import inspect
from vitrail.data.sounds import BrokenSound
from vitrail.data.source import Sampling
from vitrail.data.split import Part, divide
from vitrail.data.waves import Waves, waves
from vitrail.data.words import learned, opened
from vitrail.errors import CheckpointError, ConfigError, DataError, RunError
from vitrail.jobs.clips import views
from vitrail.jobs.train import train_recipe
from vitrail.jobs.zero_shot import ZeroShot
from vitrail.layers.nce import nce
from vitrail.models import config_from_json, create, vatt_unified
from vitrail.models.parts.vatt_encoder import Sizes
from vitrail.models.parts.vatt_headed import name_in
from vitrail.models.parts.vatt_inputs import Inputs
from vitrail.models.vatt import Config
from vitrail.models.vatt_clips import of
from vitrail.objectives import MilNce
from vitrail.objectives.context import Context
from vitrail.recipes.build import restored
from vitrail.recipes.pretrained import start
from vitrail.run.view import View
from vitrail.tasks.multimodal import MultiModal
from vitrail.training.interrupt import Interrupted
from vitrail.training.objective import Step

SHOWN, HEARD = Sampling(4, 4), Sounding(512)
SIZES = ("dim=32", "depth=1", "hidden=64", "heads=1")
INPUTS = [
    "task=multimodal", "model.image=16,16", "model.frames=4", "model.patch=2,8,8",
    "model.samples=512", "model.wave=64", "model.words=10", "model.vectors=16",
    "model.spaces.fine=32", "model.spaces.coarse=16", "model.dropout=0", "task.stride=4",
    "steps.batch=14", "steps.ema=none", "schedule.warmup=1",
]  # fmt: skip
TOWERS = [f"model.{kind}.{one}" for kind in ("video", "audio", "text") for one in SIZES]
APART = ["model=vatt_bbs", *INPUTS, *TOWERS]
TOGETHER = [
    "model=vatt_unified_medium", *INPUTS, *(f"model.encoder.{one}" for one in SIZES),
    "model.width=32",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory):
    with one_thread(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A table of clips, sounds and sentences, some of them missing, with labels."""
    return table(tmp_path_factory.mktemp("triples"))


@pytest.fixture(scope="module")
def split(clips):
    """The divided clips, with a vocabulary of the training sentences."""
    found = inspect(open_clip_table(clips, SHOWN, HEARD), progress=False)
    parts = divide(found)
    said = [text for some in found.source.captions.of(parts.train.rows) for text in some]
    found.source.captions.settle(learned(said, 10, pad=0))
    return parts


def trained(out, *settings, resume=False):
    console = Console(file=StringIO(), width=200)
    return train_recipe(settings, out=out, resume=resume, threads=1, device="cpu", console=console)


@pytest.fixture(scope="module")
def run(clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return trained(out, *APART, f"data={clips}", "steps.total=60")


# ---- tables ------------------------------------------------------------------------------


def test_rows_of_a_clip_are_one_item_and_cells_may_be_empty(clips):
    source = open_clip_table(clips, SHOWN, HEARD)
    assert len(source) == 40 and source.classes == ("left", "right") and source.nouns == "clips"
    assert [len(some) for some in source.captions.texts[:6]] == [2, 1, 0, 1, 2, 1]
    assert source.tracks.keys[:3] == ("sounds/left00.wav", None, "sounds/left02.wav")
    assert not source.findings


def test_every_fault_of_a_table_is_told(tmp_path):
    for number in range(4):
        write(tmp_path / f"{number}.mp4", frames(number, "left"))
        tone(tmp_path / f"{number}.wav", "left", number)
    (tmp_path / "t.csv").write_text(
        "clip,sound,text,label,split\n0.mp4,0.wav,one,a,train\n0.mp4,1.wav,two,b,train\n"
        ",2.wav,three,a,train\nno.mp4,,four,a,train\n1.mp4,no.wav,,b,test\n2.mp4,,,a,train\n"
    )
    source = open_clip_table(tmp_path / "t.csv", SHOWN, HEARD)
    assert [item.key for item in source.items] == ["0.mp4", "1.mp4", "2.mp4"]
    assert [item.part for item in source.items] == ["train", "test", "train"]
    assert source.captions.texts == (("one", "two"), (), ())
    assert source.tracks.keys == ("0.wav", None, None)
    told = {finding.kind: finding for finding in source.findings}
    assert {kind: one.keys for kind, one in told.items()} == {
        "no clip": ("row 4",), "clip missing": ("no.mp4",), "sound missing": ("no.wav",),
        "several sounds": ("0.mp4",), "other label": ("0.mp4",),
        "nothing beside": ("1.mp4", "2.mp4"),
    }  # fmt: skip
    assert told["no clip"].message.startswith("1 row without a clip left out")


# What the gate has to say of a sound, by the name of its file.
KEY = {"silent.wav": "sound silent", "none.wav": "sound not a sound", "cut.wav": "sound truncated"}


def test_clips_with_broken_sounds_stay_without_them(tmp_path):
    rows = ["clip,sound,sentence"]
    tone(tmp_path / "whole.wav", "left", 0)
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    (tmp_path / "none.wav").write_text("no sound at all\n")
    (tmp_path / "cut.wav").write_bytes((tmp_path / "whole.wav").read_bytes()[:3000])
    tone(tmp_path / "fast.wav", "right", 1, rate=16_000)
    tone(tmp_path / "short.wav", "right", 2, seconds=0.1)
    for number, name in enumerate((*KEY, "whole.wav", "fast.wav", "short.wav")):
        write(tmp_path / f"{number}.mp4", frames(number, "left"))
        rows.append(f"{number}.mp4,{name},a square")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    found = inspect(open_clip_table(tmp_path / "t.csv", SHOWN, HEARD), progress=False, least=1)
    tracks = found.source.tracks
    assert tracks.rate == RATE and [key is None for key in tracks.keys] == 3 * [True] + 3 * [False]
    assert [tracks.lengths[row] for row in (3, 4, 5)] == [RATE, RATE, RATE // 10]
    told = {finding.kind: finding for finding in found.findings}
    assert {key: told[kind].keys for key, kind in KEY.items()} == {key: (key,) for key in KEY}
    assert told["sound silent"].message == "1 sound is silent, left out: their clips stay without"
    assert told["short sound"].keys == ("short.wav",)
    assert "resampled to 4,000 Hz" in told["rates"].message
    assert len(found) == 6


def test_a_track_in_an_unknown_code_is_named(tmp_path):
    wave = 0.4 * np.sin(2 * np.pi * 330 * np.arange(RATE) / RATE)
    film = write_heard(tmp_path / "film.mkv", frames(0, "left"), wave, RATE)
    assert read_track(film)[1].rate == RATE
    data = film.read_bytes()
    assert b"A_PCM" in data
    film.write_bytes(data.replace(b"A_PCM", b"A_XXX"))
    with pytest.raises(BrokenSound, match="in a code that nobody here knows"):
        read_track(film)


def test_a_video_may_be_heard_itself(tmp_path):
    time = np.arange(RATE) / RATE
    wave = 0.4 * np.sin(2 * np.pi * 330 * time)
    shown = frames(0, "left")  # a second
    write_heard(tmp_path / "own.mkv", shown, wave, RATE)
    write_heard(tmp_path / "late.mkv", shown, wave[: RATE // 2], RATE, late=0.5)
    write_heard(tmp_path / "long.mkv", shown, np.tile(wave, 2), RATE)
    write(tmp_path / "mute.mp4", shown)
    write_heard(tmp_path / "silent.mkv", shown, 0 * wave, RATE)
    names = ("own.mkv", "late.mkv", "long.mkv", "mute.mp4", "silent.mkv")
    rows = [f"{name},{name},a square" for name in names]
    (tmp_path / "t.csv").write_text("\n".join(["clip,sound,sentence", *rows]))
    found = inspect(open_clip_table(tmp_path / "t.csv", SHOWN, HEARD), progress=False, least=1)
    tracks = found.source.tracks
    lengths = {item.key: tracks.lengths.get(row) for row, item in enumerate(found.source.items)}
    assert lengths == {
        "own.mkv": RATE, "late.mkv": RATE, "long.mkv": RATE, "mute.mp4": None, "silent.mkv": None,
    }  # fmt: skip
    told = {finding.kind: finding for finding in found.findings}
    assert told["sound no sound"].keys == ("mute.mp4",)
    assert told["sound no sound"].message == (
        "1 sound is of a video that has none, left out: their clips stay without"
    )
    assert told["sound silent"].keys == ("silent.mkv",)
    part = Part(found.source, found.rows, found.digests)
    heard = waves(part, progress=False)
    keys = [found.source.items[row].key for row in part.rows]
    whole = dict(zip(keys, map(heard._whole, range(len(keys))), strict=True))
    np.testing.assert_allclose(whole["own.mkv"] / 32767, wave, atol=1e-3)
    np.testing.assert_allclose(whole["long.mkv"] / 32767, wave, atol=1e-3)
    half = RATE // 2
    assert not whole["late.mkv"][: half - 2].any()
    np.testing.assert_allclose(whole["late.mkv"][half:] / 32767, wave[:half], atol=1e-3)
    os.truncate(tmp_path / "own.mkv", 3000)
    with pytest.raises(DataError, match="has changed since it was inspected"):
        Waves(part, None).take([keys.index("own.mkv")], [0.0])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clip,colour\na.mp4,red", "has the columns clip, colour: expected clip, and sound or"),
        ("clip,text\n,red", r"names no clip .1 row without a clip left out"),
        ("clip,text\n0.mp4,", "there is nothing to compare clips with"),
    ],
)
def test_tables_that_are_none(tmp_path, text, said):
    write(tmp_path / "0.mp4", frames(0, "left"))
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        inspect(open_clip_table(tmp_path / "t.csv", SHOWN, HEARD), progress=False, least=1)


# ---- batches -------------------------------------------------------------------------------


def batches(split, **changes):
    order = {"batch": 10, "seed": 3, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    found = clip_pixels(split.train, (16, 16), progress=False)
    return TripleBatches(found, Beside(2, 0.01), **order, **changes)


def test_a_batch_is_a_function_of_its_number(split):
    one, other = (batches(split, augment=Augment(flip=0.0, shift=0.1)) for _ in range(2))
    batch, same = one.get(2, 1), other.get(2, 1)
    names = ("images", "targets", "told", "sounds", "heard", "indices")
    assert all(torch.equal(getattr(batch, name), getattr(same, name)) for name in names)
    shares = [one.get(2, 1, rank=rank, world=2) for rank in range(2)]
    for name in names:
        whole = torch.cat([getattr(share, name) for share in shares])
        assert torch.equal(whole, getattr(batch, name))
    texts = split.train.source.captions.of(split.train.rows)
    for at, row in enumerate(batch.indices.tolist()):
        own = split.train.source.captions.words(list(texts[row])).tolist() if texts[row] else []
        drawn = batch.targets[at][batch.told[at]].tolist()
        assert len(drawn) == min(2, len(own)) and all(ids in own for ids in drawn)
        assert batch.heard[at] == (split.train.rows[row] in split.train.source.tracks.lengths)
        assert bool(batch.sounds[at].abs().max() > 0.2) == bool(batch.heard[at])
    assert batch.images.shape == (10, 3, 4, 16, 16) and batch.sounds.shape == (10, 1, 512)


def test_the_sound_is_of_the_moment_that_is_seen(split):
    known = waves(split.train, progress=False)
    at = int(np.flatnonzero(known.there)[0])
    row = split.train.rows[at]
    name = split.train.source.root / split.train.source.tracks.keys[row]
    whole = soundfile.read(name, dtype="float32")[0]
    for share, begin in ((0.0, 0), (0.5, 2000), (0.99, 4000 - 512)):
        heard = known.take([at], [share])[0]
        np.testing.assert_allclose(heard, whole[begin : begin + 512], atol=2 / 32767)
    silent = int(np.flatnonzero(~known.there)[0])
    assert not known.take([silent], [0.0]).any()
    (name.parent / "kept.wav").write_bytes(name.read_bytes())
    label = "left" if "left" in name.name else "right"
    tone(name, label, 999)
    with pytest.raises(DataError, match="has changed since it was inspected"):
        streamed = type(known)(split.train, None)
        streamed.take([at], [0.0])
    (name.parent / "kept.wav").replace(name)
    assert set(TONES) == {"left", "right"}


# ---- the loss ------------------------------------------------------------------------------


def test_candidates_that_are_missing_are_as_if_there_were_none():
    torch.manual_seed(0)
    clips, partners = torch.randn(4, 6).double(), torch.randn(4, 3, 6).double()
    there = torch.tensor([[1.0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]])
    unit = torch.nn.functional.normalize
    cosines = torch.einsum("id,jld->ijl", unit(clips, dim=-1), unit(partners, dim=-1)) / 0.07
    found = nce(clips, partners, there)
    for i in range(4):
        right = [cosines[i, i, j] for j in range(3) if there[i, j]]
        if not right:
            assert found[i] == 0
            continue
        every = [cosines[i, j, k] for j in range(4) for k in range(3) if there[j, k]]
        every += [cosines[j, i, k] for j in range(4) for k in range(3) if there[i, k]]
        loss = torch.stack(every).logsumexp(0) - torch.stack(right).logsumexp(0)
        assert found[i].item() == pytest.approx(loss.item() * 4 / 3)
    whole = nce(clips, partners, there.amax(1))
    assert not torch.allclose(whole, found)
    torch.testing.assert_close(nce(clips, partners, torch.ones(4, 3)), nce(clips, partners))


# ---- a run ---------------------------------------------------------------------------------


def test_a_run_finds_clips_by_what_is_heard_and_said(run):
    result = json.loads((run / "result.json").read_text())
    test, chance = result["test"], result["chance"]
    assert test["clips"] == 6 and test["zero-shot accuracy"] > chance["zero-shot accuracy"]
    assert test["clip to sound, recall at 5"] >= chance["clip to sound, recall at 5"]
    assert result["model"]["towers"] == ["video", "audio", "text"] and result["rate"] == RATE
    page = (run / "report.html").read_text()
    assert "sound to clip" in page and "it goes to the" in page and "by chance" in page
    assert "pretrained=" in (run / "README.md").read_text()
    recipe = json.loads((run / "recipe.json").read_text())
    model = restored(recipe, run / "weights.safetensors")
    assert recipe["task"]["frames"] == 4 and recipe["task"]["samples"] == 512
    met = model(torch.zeros(2, 3, 4, 16, 16), torch.zeros(2, 1, 512))
    assert met.clip_sound.shape == (2, 32) and met.text is None
    state = load_file(run / "weights.safetensors")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_vectors_of_words_are_learned_or_kept(split):
    batch = batches(split).get(0, 0)
    for locked in (False, True):
        torch.manual_seed(0)
        inputs = Inputs(4, (16, 16), 3, (2, 8, 8), 512, 64, 10, 400, 16)
        size = Sizes(32, 1, 64, 1)
        model = create(Config(inputs=inputs, video=size, audio=size, text=size))
        loss = MilNce(words_locked=locked).build(model, Context())
        loss(model, batch, Step(0, 1, 0.0))["loss"].backward()
        vectors = model.towers["text"].vectors.weight
        assert vectors.requires_grad != locked
        assert locked or vectors.grad[batch.targets[batch.told]].abs().sum() > 0
    with pytest.raises(ConfigError, match=r"sound is 0\.0 and text 0\.0: give weights"):
        MilNce(sound=0.0, text=0.0)


def test_one_encoder_learns_from_what_a_table_has(clips, tmp_path):
    lines = [",".join(line.split(",")[::2]) for line in clips.read_text().splitlines()]
    silent = clips.parent / "silent.csv"
    silent.write_text("\n".join(lines))
    out = trained(
        tmp_path / "run", *TOGETHER, f"data={silent}", "steps.total=4", "model.keep=0.5",
        "objective.symmetric=true",
    )  # fmt: skip
    silent.unlink()
    recipe = json.loads((out / "recipe.json").read_text())
    assert recipe["model"]["towers"] == ["video", "text"]
    result = json.loads((out / "result.json").read_text())
    assert "text to clip, recall at 1" in result["test"] and result["test"]["sounds"] == 0
    again = restored(recipe, out / "weights.safetensors")
    told = again(torch.zeros(2, 3, 4, 16, 16), text=torch.ones(3, 10, dtype=torch.long))
    assert told.clip_text.shape == (2, 16) and told.text.shape == (3, 16)


def test_classes_of_clips_are_asked_for_in_words(run, clips, tmp_path, capsys):
    config = config_from_json(json.loads((run / "recipe.json").read_text())["model"])
    files = [clips.parent / f"clips/{way}1{n}.mp4" for way in ("left", "right") for n in range(4)]
    asked = ["predict", str(run), *map(str, files), "--classes", "left,right", "--json"]
    assert command(*asked) == 0
    answers = json.loads(capsys.readouterr().out)
    assert [one["path"] for one in answers] == [str(file) for file in files]
    for one in answers:
        assert sum(each["p"] for each in one["classes"]) == pytest.approx(1, abs=1e-3)
    # The probability is that of cosines over the temperature of the training.
    asked = ZeroShot(run, ("left", "right"), prompts=("it goes to the {}",))
    [found] = asked.predict(files[0])
    model = restored(json.loads((run / "recipe.json").read_text()), run / "weights.safetensors")
    words = opened(run / "tokenizer.json", config.inputs.words, pad=0)
    ids = torch.from_numpy(words(["it goes to the left", "it goes to the right"]))
    seen = asked.labels.normalised(views(files[0], asked.labels))
    with torch.inference_mode():
        met = model(video=seen, text=ids)
    cosines = torch.cosine_similarity(met.clip_text, met.text)
    shares = dict(zip(("left", "right"), (cosines / 0.07).softmax(0).tolist(), strict=True))
    assert dict(found.ranked) == pytest.approx(shares, abs=1e-5)
    for name in ("labels.json", "weights.safetensors"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "recipe.json").write_text('{"model": {}, "task": {"kind": "video"}}')
    with pytest.raises(RunError, match="knows its classes and reads no sentences"):
        ZeroShot(tmp_path, ("a", "b"))


@pytest.mark.slow  # trains and reports a second time
def test_a_stopped_training_goes_on_with_the_same_bits(run, clips, tmp_path, monkeypatch):
    step = View.step

    def stop(view, name, number, until):
        step(view, name, number, until)
        if number == 25:
            deliver(signal.SIGTERM)

    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(View, "step", stop)
        with pytest.raises(Interrupted, match="vitrail train --resume"):
            trained(out, *APART, f"data={clips}", "steps.total=60")
    trained(out, resume=True)
    ours, theirs = (load_file(one / "weights.safetensors") for one in (out, run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def said(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([*map(str, arguments)])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_bad_input_is_told_in_a_sentence(run, clips, tmp_path, capsys):
    def train(*settings, data=clips):
        words = [word for one in (*settings, f"data={data}") for word in ("--set", one)]
        return said(capsys, "train", *words, "--out", tmp_path / "none")

    told = train("task=multimodal", "model=resnet_18")
    assert "this task trains on clips with sounds and sentences: take model=vatt_bbs" in told
    assert "clips use flip" in train(*APART, "augment.mixup=0.2")
    assert "has several towers: leave them out" in train(*APART, "methods=freeze")
    assert "objective cross_entropy is not for task multi_modal" in train(
        *APART, "objective=cross_entropy"
    )
    assert "give a weight above 0 for one of them" in train(
        *APART, "objective.sound=0", 'model.towers=["video","audio"]'
    )
    assert "does not exist: give a table" in train(*APART, data=tmp_path / "no.csv")
    assert not (tmp_path / "none").exists()
    clip = clips.parent / "clips/left00.mp4"
    assert "has no classes of its own: ask it by" in said(capsys, "predict", run, clip)
    with pytest.raises(ConfigError, match=r"prompts are .*: give at least one"):
        MultiModal(prompts=("a video",))


def test_a_tower_of_clips_begins_with_the_weights_of_a_run(run):
    config = config_from_json(json.loads((run / "recipe.json").read_text())["model"])
    model, theirs = (
        start(replace(of(config), classes=3), str(run)),
        load_file(run / "weights.safetensors"),
    )
    body = {n: v for n, v in model.state_dict().items() if not n.startswith("head.")}
    assert all(
        torch.equal(value, theirs[name_in(name, "video", 0)]) for name, value in body.items()
    )
    wider = replace(of(config), encoder=Sizes(64, 1, 64, 1))
    with pytest.raises(CheckpointError, match="of the tower of clips: take its own sizes"):
        start(wider, str(run))


@pytest.mark.slow  # trains, exports and reports a second time
def test_classes_of_clips_are_learned_from_such_a_run(run, clips, tmp_path):
    folder = tmp_path / "videos"
    for number, label in ((n, label) for label in ("left", "right") for n in range(6)):
        write(folder / label / f"{number}.mp4", frames(500 + 10 * number + len(label), label))
    own = [
        "task=video", f"model={run}/recipe.json", f"pretrained={run}", f"data={folder}",
        "steps.total=2", "steps.batch=4", "steps.ema=none", "schedule.warmup=1", "head=random",
        "optimizer.lr=1e-9",
    ]  # fmt: skip
    out = trained(tmp_path / "run", *own)
    theirs, ours = (load_file(one / "weights.safetensors") for one in (run, out))
    body = {name: value for name, value in ours.items() if not name.startswith("head.")}
    same = [torch.allclose(v, theirs[name_in(n, "video", 0)], atol=1e-6) for n, v in body.items()]
    assert same and all(same)
    assert json.loads((out / "recipe.json").read_text())["model"]["family"] == "vatt_clips"
    assert (out / "model.onnx").is_file()


def test_the_tower_of_clips_is_what_it_was_in_one_encoder():
    size = Sizes(32, 1, 64, 1)
    inputs = Inputs(4, (16, 16), 3, (2, 8, 8), 512, 64, 10, 400, 16)
    for config in (
        Config(inputs=inputs, video=size, audio=size, text=size),
        vatt_unified.Config(inputs=inputs, encoder=size, width=24),
    ):
        whole, tower = create(config).eval(), create(replace(of(config), classes=3)).eval()
        state, behind = whole.state_dict(), tower.config.behind
        own = {n: state[name_in(n, "video", behind)] for n in tower.state_dict() if n[:4] != "head"}
        tower.load_state_dict(own, strict=False)
        seen = torch.randn(2, 3, 4, 16, 16)
        torch.testing.assert_close(tower.embedding(seen), whole.read("video", seen).pooled)
        depths = {tower.depth_of(name) for name, _ in tower.named_parameters()}
        assert depths == {0, 1, 2} and tower.depth == 2
        torch.testing.assert_close(tower.features(seen)[0], whole.features(seen)[0])
