"""A class for every sound, told from its samples; what a run of clips with sounds becomes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from support.quick import one_thread
from support.triples import RATE, TONES, table, tone
from test_cli import run as command
from test_multimodal import APART, TOGETHER, trained

import vitrail
from vitrail.data.augment import Augment
from vitrail.data.gate import inspect
from vitrail.data.hearing import Hearing, Wanted
from vitrail.data.inputs import inputs
from vitrail.data.opening import open_sounds
from vitrail.data.sound_waves import SoundWaves, WaveBatches
from vitrail.data.sounds import read_sound
from vitrail.data.split import Part
from vitrail.errors import CheckpointError, ConfigError
from vitrail.jobs.fit import fit
from vitrail.jobs.predict import Predictor
from vitrail.jobs.senses import heard_as
from vitrail.layers.normal import Normal
from vitrail.models import config_from_json, create, vatt_images, vatt_sounds, vatt_unified
from vitrail.models.parts.vatt_encoder import Sizes
from vitrail.models.parts.vatt_headed import name_in
from vitrail.models.parts.vatt_inputs import Inputs
from vitrail.models.parts.vatt_tokens import resampled
from vitrail.models.vatt import Config
from vitrail.recipes.pretrained import start
from vitrail.recipes.recipe import Data, Recipe, amend
from vitrail.runs import Run
from vitrail.search.shelf import shelf
from vitrail.tasks import Waveform
from vitrail.tasks.task import Order
from vitrail.training.steps import Steps

TOWER = {
    "family": "vatt_sounds", "encoder": {"dim": 64, "depth": 1, "hidden": 64, "heads": 1},
    "wave": 64, "dropout": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory):
    with one_thread(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Pulses that push and pulses that pull, which one linear layer can tell from samples."""
    root = tmp_path_factory.mktemp("pulses")
    for sign, name in ((1, "push"), (-1, "pull")):
        (root / name).mkdir()
        for take in range(16):
            random = np.random.default_rng([take, sign + 1])
            n = int(random.integers(1_800, 2_000))
            wave = 0.02 * random.standard_normal(n)
            wave[:: int(random.integers(7, 12))] += 0.4 * sign
            soundfile.write(root / name / f"{take}.wav", wave, RATE)
    return root


@pytest.fixture(scope="module")
def run(sounds, tmp_path_factory):
    settings = [
        "task=waveform", f"model={json.dumps(TOWER)}", f"data={sounds}", "steps.total=40",
        "steps.batch=8", "optimizer.lr=0.003",
    ]  # fmt: skip
    return trained(tmp_path_factory.mktemp("run") / "run", *settings)


@pytest.fixture(scope="module")
def threefold(tmp_path_factory):
    """A short training of clips, sounds and sentences."""
    clips = table(tmp_path_factory.mktemp("triples"))
    return trained(
        tmp_path_factory.mktemp("runs") / "run", *APART, f"data={clips}", "steps.total=2"
    )


def opened(root, **wanted):
    found = inspect(open_sounds(root, Wanted(**{"form": "waveform"} | wanted)), progress=False)
    part = Part(found.source, found.rows, found.digests)
    return found, inputs(part, (1, 1), 1, progress=False)


# ---- data --------------------------------------------------------------------------------


def test_samples_come_from_the_cache_as_they_are_heard(sounds):
    found, waves = opened(sounds)
    ear = found.source.hearing
    assert found.source.kind == "waves" and found.source.nouns == "sounds"
    assert isinstance(waves, SoundWaves) and waves.image == (1, ear.samples)
    assert waves.images is not None and waves.statistics() == ((0.0,), (1.0,))
    taken = waves.take([0, 5, 3])
    assert taken.dtype == np.float32 and taken.shape == (3, ear.samples)
    for row, wave in zip([0, 5, 3], taken, strict=True):
        heard = ear.clip(read_sound((sounds / waves.keys[row]).read_bytes()).at(ear.rate))
        np.testing.assert_allclose(wave, heard, atol=2 / 32767)
    streamed = SoundWaves(waves.part, waves.image, 1, None)
    assert np.array_equal(streamed.take([0, 5, 3]), taken)
    told = {finding.kind: finding.message for finding in found.findings}
    assert f"as waveforms of {ear.samples:,} samples" in told["hearing"]


def test_batches_are_shifted_and_mixed_and_a_function_of_their_place(sounds):
    _, waves = opened(sounds)
    normal, order = Normal((0.0,), (1.0,)), Order(8, 3, Augment(flip=0, shift=0.1, mixup=0.5))
    batches, plain = Waveform().training(waves, normal, order), Waveform().watching(waves, normal)
    one, same = batches.get(1, 2), batches.get(1, 2)
    assert torch.equal(one.images, same.images) and torch.equal(one.targets, same.targets)
    assert one.images.shape == (8, 1, waves.image[1]) and one.targets.shape == (8, 2)
    halves = [batches.get(1, 2, rank=rank, world=2).images for rank in (0, 1)]
    assert torch.equal(torch.cat(halves), one.images)
    assert torch.equal(plain.get(0, 0).images[:, 0], torch.from_numpy(waves.take(range(32))))
    moved = WaveBatches(
        waves, batch=8, seed=3, augment=Augment(flip=0, shift=0.1), mean=(0.0,), std=(1.0,)
    )
    shown = moved.get(0, 0)
    for wave, row in zip(shown.images[:, 0].numpy(), shown.indices.tolist(), strict=True):
        [own] = waves.take([row])
        reach = waves.image[1] // 10 + 1
        shifts = [np.roll(np.pad(own, reach), by)[reach:-reach] for by in range(-reach, reach + 1)]
        assert min(np.abs(wave - shift).max() for shift in shifts) == 0


@pytest.mark.parametrize("name", ["flip=0.5", "cutmix=1", "scale=0.5,1"])
def test_what_is_of_pictures_is_refused(name):
    recipe = Recipe({}, Data(""), Steps(1, 1))
    with pytest.raises(ConfigError, match="it is of pictures, for waveforms use"):
        amend(recipe, ["task=waveform", f"augment.{name}"])


# ---- a run -------------------------------------------------------------------------------


def test_a_run_tells_pulses_from_samples(run, sounds, capsys):
    result = Run(run).result
    assert result["test"]["accuracy"] > 0.8
    labels = Predictor(run).labels
    assert labels.takes == "waves" and labels.image == (1, labels.hearing.samples)
    page, card = (run / "report.html").read_text(), (run / "README.md").read_text()
    assert "waveforms of" in page and "of the spectrogram" in page
    assert "hears the middle of longer ones" in card and "microphone, room" in card
    assert command("predict", str(run), str(sounds / "push"), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told) == 16
    [one] = vitrail.predict(run, run / "recipe.json")
    assert one.error == "cannot be read as a sound file"


def test_the_file_hears_sounds_of_any_length_as_the_run_does(run, sounds):
    session = onnxruntime.InferenceSession(run / "sound.onnx")
    predictor = Predictor(run)
    ear: Hearing = predictor.labels.hearing
    for path in sorted((sounds / "pull").iterdir())[:6]:
        [found] = predictor.predict(path)
        wave = read_sound(path.read_bytes()).wave
        assert len(wave) != ear.samples
        (shares,) = session.run(["probabilities"], {"sounds": wave[None]})
        assert predictor.labels.classes[shares[0].argmax()] == found.ranked[0][0]
        assert shares[0].max() == pytest.approx(found.ranked[0][1], abs=1e-5)
    assert session.run(["probabilities"], {"sounds": np.zeros((3, 9), np.float32)})[0].shape == (
        3,
        2,
    )


def test_an_export_writes_both_files_again(run):
    before = (run / "sound.onnx").read_bytes()
    (run / "sound.onnx").unlink()
    vitrail.export(run)
    assert (run / "sound.onnx").read_bytes() == before


# ---- towers of a run of three inputs -----------------------------------------------------


def test_towers_are_what_they_were_in_one_encoder_or_three():
    size = Sizes(32, 1, 64, 1)
    given = Inputs(4, (16, 16), 3, (2, 8, 8), 512, 64, 10, 400, 16)
    for config in (
        Config(inputs=given, video=size, audio=size, text=size),
        vatt_unified.Config(inputs=given, encoder=size, width=24),
    ):
        whole = create(config).eval()
        state = whole.state_dict()
        sounds = create(replace(vatt_sounds.of(config), classes=3)).eval()
        own = {
            n: state[name_in(n, "audio", sounds.config.behind)]
            for n in sounds.state_dict()
            if n[:4] != "head"
        }
        sounds.load_state_dict(own, strict=False)
        heard = torch.randn(2, 1, 512)
        torch.testing.assert_close(sounds.embedding(heard), whole.read("audio", heard).pooled)
        assert sounds.features(heard)[0].shape == (2, 1, 8, sounds.width)
        images = create(replace(vatt_images.of(config), classes=3)).eval()
        own = {n: v for n, v in images.state_dict().items() if n[:4] != "head"}
        for name in own:
            own[name] = state[name_in(name, "video", images.config.behind)]
        time = "tower.placed.position.tables.0"
        own[time] = resampled(own[time], 1)
        images.load_state_dict(own, strict=False)
        seen = torch.randn(2, 3, 16, 16)
        still = seen[:, :, None].expand(-1, -1, 2, -1, -1)
        torch.testing.assert_close(images.embedding(seen), whole.read("video", still).pooled)
        assert images.features(seen)[0].shape == (2, 2, 2, images.width)
    with pytest.raises(ConfigError, match="sounds are 512 samples; patches are 600"):
        create(replace(vatt_sounds.of(config), wave=600))
    with pytest.raises(ValueError, match="has no tower of sounds"):
        vatt_sounds.of(Config(towers=("video", "text")))


def test_a_tower_of_sounds_begins_with_the_weights_of_a_run(threefold):
    config = config_from_json(json.loads((threefold / "recipe.json").read_text())["model"])
    theirs = load_file(threefold / "weights.safetensors")
    tower = replace(vatt_sounds.of(config), classes=3)
    for samples in (512, 1_024):
        model = start(replace(tower, samples=samples), str(threefold))
        for name, value in model.state_dict().items():
            if name.startswith("head."):
                continue
            own = theirs[name_in(name, "audio", 0)]
            wanted = resampled(own, samples // 64) if ".tables." in name else own
            torch.testing.assert_close(value, wanted)
    with pytest.raises(CheckpointError, match="of the tower of sounds: take its own sizes"):
        start(replace(tower, encoder=Sizes(64, 1, 64, 1)), str(threefold))
    # A network of images begins with the tower of clips.
    model = start(replace(vatt_images.of(config), classes=3), str(threefold))
    assert torch.equal(model.tower.token, theirs["towers.video.token"])


def test_a_recipe_hears_as_the_run_did(threefold, sounds):
    empty = Recipe({}, Data(""), Steps(1, 1))
    own = [f"model={threefold}/recipe.json", f"pretrained={threefold}"]
    made = amend(empty, ["task=waveform", *own])
    assert made.model["family"] == "vatt_sounds"
    assert (made.task.rate, made.task.seconds) == (RATE, 512 / RATE)
    assert amend(empty, ["task=waveform", "task.rate=8000", *own]).task.rate == 8000
    assert amend(empty, own).model["family"] == "vatt_images"
    with pytest.raises(ConfigError, match="hears waveforms: add --set task=waveform"):
        _ = amend(empty, ["task=audio", *own]).config
    assert heard_as(threefold) == [
        "task=waveform", f"task.rate={RATE}", f"task.seconds={512 / RATE}",
    ]  # fmt: skip
    for takes, size, family in (
        ("images", (16, 16), "vatt_images"), ("waves", (1, 900), "vatt_sounds"),
    ):  # fmt: skip
        found, left_out = shelf(threefold, image_size=size, classes=3, takes=takes)
        assert {one.family for one in found} == {family} and not left_out
        assert size in {one.image for one in found}
    assert heard_as(None) == heard_as("hub") == heard_as(sounds) == ["task=audio"]


@pytest.mark.slow  # trains, exports and reports a second time
def test_classes_of_sounds_are_learned_from_a_run_of_one_encoder(tmp_path):
    clips = table(tmp_path)
    three = trained(tmp_path / "three", *TOGETHER, f"data={clips}", "steps.total=2")
    for label in TONES:
        for number in range(8):
            tone(tmp_path / f"tones/{label}/{number}.wav", label, 500 + number)
    own = [
        "task=waveform", f"model={three}/recipe.json", f"pretrained={three}",
        f"data={tmp_path}/tones", "steps.total=2", "steps.batch=4", "steps.ema=none",
        "schedule.warmup=1", "head=random", "optimizer.lr=1e-9",
    ]  # fmt: skip
    out = trained(tmp_path / "run", *own)
    theirs, ours = (load_file(one / "weights.safetensors") for one in (three, out))
    body = {name: value for name, value in ours.items() if not name.startswith("head.")}
    same = [torch.allclose(v, theirs[name_in(n, "audio", 32)], atol=1e-6) for n, v in body.items()]
    assert same and all(same)
    assert (out / "sound.onnx").is_file()


@pytest.mark.slow  # a race
def test_a_fit_of_sounds_begins_with_such_a_run(threefold, tmp_path):
    for label in TONES:
        for number in range(12):
            tone(tmp_path / f"tones/{label}/{number}.wav", label, 500 + number)
    made = fit(
        tmp_path / "tones", task="audio", pretrained=threefold, time="40s", out=tmp_path / "run"
    )
    recipe = json.loads((made.path / "recipe.json").read_text())
    assert recipe["model"]["family"] == "vatt_sounds" and recipe["task"]["rate"] == RATE
    page = (made.path / "report.html").read_text()
    assert "pretrained" in page
