"""A class for every sound: the gate, spectrograms, a run and its file, and broken folders."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from support import noises
from support.visible import of_pictures, prose, visible
from test_cli import run as command

import vitrail
from vitrail.data.gate import inspect
from vitrail.data.hearing import Hearing, Wanted
from vitrail.data.opening import open_sounds, task_of_data
from vitrail.data.sounds import BrokenSound, read_sound
from vitrail.data.split import divide, unseal
from vitrail.errors import ConfigError, DataError
from vitrail.jobs.check import check
from vitrail.jobs.export import export_run
from vitrail.jobs.predict import Predictor
from vitrail.jobs.train import train_recipe
from vitrail.models import config_name, vatt_spectrogram
from vitrail.recipes.recipe import Data, Recipe, amend, read
from vitrail.runs import Run
from vitrail.search.sound_space import sound_candidates
from vitrail.tasks import Audio
from vitrail.training.steps import Steps

TOWER = {
    "family": "vatt_spectrogram", "dim": 32, "depth": 1, "hidden": 64, "heads": 1,
    "patch": [8, 8], "dropout": 0.0, "image": [32, 32], "channels": 1, "classes": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return noises.write(tmp_path_factory.mktemp("sounds") / "tones")


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    return noises.write_broken(tmp_path_factory.mktemp("broken") / "tones")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    settings = [
        "task=audio", f"model={json.dumps(TOWER)}", f"data={data}", "data.group_by=([a-z]+)_",
        "steps.total=60", "steps.batch=8", "task.bands=32", "optimizer.lr=0.003",
    ]  # fmt: skip
    return train_recipe(settings, out=tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def inspected(broken):
    return inspect(open_sounds(broken, Wanted()), progress=False)


# ---- spectrograms ----------------------------------------------------------------------


def test_a_tone_is_white_at_its_pitch_and_nowhere_else():
    ear = Hearing.of(rate=8_000, seconds=0.5)
    centres = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 4_000 / 700), 66) / 2595) - 1)
    band = 30
    pitch = centres[1 + band]
    tone = np.sin(2 * np.pi * pitch * np.arange(4_000) / 8_000).astype(np.float32)
    picture = ear.picture(0.01 * tone)
    assert picture.shape == ear.image == (64, 50) and picture.dtype == np.uint8
    nearest = 63 - band
    middle = picture[:, 10:40]
    assert (middle.argmax(0) == nearest).all() and middle[nearest].min() > 240
    assert middle[:20].max() == 0
    # Loudness is beside the loudest sample, so that a volume changes nothing.
    assert np.array_equal(picture, ear.picture(tone))


def test_time_runs_from_left_to_right_and_pitch_upwards():
    ear = Hearing.of(rate=8_000, seconds=0.4)
    picture = ear.picture(noises.sweep(400, 1_500, np.random.default_rng(0)))
    loudest = picture[:, 5:-5].argmax(0)
    assert loudest[0] > loudest[-1] + 10


def test_long_sounds_lose_their_ends_and_short_ones_lie_in_silence():
    ear = Hearing.of(rate=8_000, seconds=0.1)
    wave = np.arange(1, 1_003, dtype=np.float32)
    assert np.array_equal(ear.clip(wave), wave[101:901])
    short = ear.clip(wave[:799])
    assert len(short) == 800 and np.array_equal(short[np.flatnonzero(short)], wave[:799])
    assert Hearing.of(rate=16_000, seconds=5.0).image == (64, 128)


def test_a_rate_changes_the_picture_little():
    ear, random = Hearing.of(rate=8_000, seconds=0.4), np.random.default_rng(0)
    low = noises.sweep(400, 900, random)
    from scipy.signal import resample_poly

    high = read_sound(noises.encoded(resample_poly(low, 2, 1).astype(np.float32), 16_000))
    one, other = ear.picture(low), ear.picture(high.at(8_000))
    assert np.abs(one[20:].astype(int) - other[20:]).mean() < 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rate": 10}, "rate is 10"),
        ({"bands": 256}, "bands are 256"),
        ({"seconds": 100.0}, "sounds of 800000 samples"),
    ],
)
def test_what_makes_no_picture_is_named(changes, said):
    with pytest.raises(ConfigError, match=said):
        Hearing.of(**{"rate": 8_000, "seconds": 0.5} | changes)


# ---- the gate --------------------------------------------------------------------------


def test_broken_sounds_are_left_out_each_with_its_reason(inspected):
    """The answer key of a folder of broken sounds: all of them, and no other."""
    found = {one.key.rpartition("/")[2]: one.kind for one in inspected.broken}
    assert found == noises.BROKEN
    assert "channels that cancel" in next(
        one.reason for one in inspected.broken if "opposed" in one.key
    )


def test_odd_sounds_stay_and_are_told(inspected):
    told = {one.kind: {key.rpartition("/")[2] for key in one.keys} for one in inspected.findings}
    for name, kind in noises.ODD.items():
        assert name in told[kind], kind
    assert told["clipped"] == {"clipped.wav"} and told["low rate"] == {"other.wav"}
    assert told["channels"] == {"stereo.wav"} and told["quiet"] == {"quiet.wav"}
    rates = next(one for one in inspected.findings if one.kind == "rates")
    assert "3 rates" in rates.message and "resampled to 8,000 Hz" in rates.message
    assert inspected.source.hearing.rate == 8_000


def test_copies_stay_together(inspected):
    """The same file twice, and the same sound in another format at another rate."""
    group = {
        item.key.rpartition("/")[2]: twin
        for item, twin in zip(inspected.items, inspected.twins.tolist(), strict=True)
        if item.key.startswith("rise/")
    }
    assert group["again.wav"] == group["ann_0.wav"]
    assert group["higher.flac"] == group["bob_0.wav"]
    assert len(set(group.values())) == len(group) - 2


def test_nothing_is_written_beside_sounds(broken):
    before = sorted(broken.rglob("*"))
    found = check(broken)
    assert isinstance(found.task, Audio) and sorted(broken.rglob("*")) == before
    assert "sounds of 2 classes" in found.lines()[0]


def test_a_folder_without_any_sound_is_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for at in range(3):
            (tmp_path / name / f"{at}.wav").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"none of the 6 files of .* cannot be read as a sound"):
        inspect(open_sounds(tmp_path, Wanted()), progress=False)
    with pytest.raises(DataError, match="digits is of images"):
        open_sounds("digits", Wanted())


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_formats(form):
    wave = noises.sweep(400, 900, np.random.default_rng(0), seconds=0.5)
    sound = read_sound(noises.encoded(wave, form=form))
    assert sound.rate == noises.RATE and sound.channels == 1 and sound.clipped == 0
    assert len(sound.wave) == pytest.approx(len(wave), abs=1_200)
    assert sound.peak == pytest.approx(np.abs(wave).max(), rel=0.2)


def test_a_wav_of_a_pipe_that_leaves_its_length_open_is_whole():
    wave = noises.sweep(400, 900, np.random.default_rng(0))
    data = bytearray(noises.encoded(wave))
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff\xff\xff\xff"
    assert len(read_sound(bytes(data)).wave) == len(wave)
    with pytest.raises(BrokenSound, match="ends 100 bytes before its end"):
        read_sound(noises.encoded(wave)[:-100])


def test_the_data_tell_the_task(data, tmp_path):
    assert task_of_data(data) == "audio"
    shutil.copytree(data, tmp_path / "mixed")
    (tmp_path / "mixed" / "fall" / "a.png").write_bytes(b"")
    assert task_of_data(tmp_path / "mixed") is None and task_of_data(tmp_path / "none") is None


# ---- task, space, model ----------------------------------------------------------------


def test_sounds_are_neither_mirrored_nor_cropped():
    recipe = amend(Recipe({}, Data(""), Steps(1, 1)), ["task=audio", "task.rate=16000"])
    assert recipe.task == Audio(rate=16_000)
    assert (recipe.augment.flip, recipe.augment.scale) == (0.0, None)
    own = amend(Recipe({}, Data(""), Steps(1, 1)), ["augment.shift=0.2", "task=audio"])
    assert own.augment.shift == 0.2
    with pytest.raises(ConfigError, match="rate=-1"):
        amend(recipe, ["task.rate=-1"])


def test_vatts_towers_race_beside_backbones_of_images():
    found = []
    for one in sound_candidates((64, 50), 1, 3, 0, ["resnet"]):
        found.append(one)
        if len(found) == 8:
            break
    families = [one.family for one in found]
    assert families.count("vatt_spectrogram") == 4 and families.count("resnet") == 4
    assert len({one.name for one in found}) == 8
    assert all(one.params > 0 and one.macs > 0 for one in found)


def test_the_tower_of_spectrograms():
    config = vatt_spectrogram.Config(
        dim=64, depth=2, hidden=96, heads=1, image=(20, 40), classes=3, dropout=0.0
    )
    model = vitrail.create(config)
    pictures = torch.randn(2, 1, 20, 40)
    assert model(pictures).shape == (2, 3) and config_name(config).startswith("vatt_spectrogram-")
    # 40 steps make two patches of 16, the rest is left out.
    assert model.features(pictures)[0].shape == (2, 4, 2, 64)
    model(pictures).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    biases = [name for name, _ in model.named_parameters() if name.endswith("bias")]
    assert all("norm" in name or name == "head.bias" for name in biases)
    with pytest.raises(ConfigError, match="image is 4x40; patches are 5x16"):
        vitrail.create(config, image=(4, 40))


# ---- a run -----------------------------------------------------------------------------


def test_a_run_tells_rising_from_falling_tones(run, data):
    result = Run(run).result
    assert result["test"]["accuracy"] > 0.8
    recipe = read(run / "recipe.json")
    split = _divided(recipe, data)
    voices = [
        {key.rpartition("/")[2].split("_")[0] for key in part.keys}
        for part in (split.train, split.val, unseal(split.test))
    ]
    assert not voices[0] & voices[1] and not voices[0] & voices[2] and not voices[1] & voices[2]
    page = visible((run / "report.html").read_text())
    assert re.search(r"\bsounds\b", page) and re.search(r"for a spectrogram of \d+x\d+", page)
    assert not of_pictures(page) + of_pictures(prose((run / "README.md").read_text()))
    labels = Predictor(run).labels
    assert labels.hearing is not None and labels.hearing.bands == 32


def _divided(recipe, data):
    found = inspect(recipe.task.source(data), progress=False)
    return divide(found, group_by=recipe.data.group_by, seed=recipe.data.seed)


def test_the_file_takes_waveforms_of_any_length_and_answers_as_the_run(run, data, tmp_path):
    session = onnxruntime.InferenceSession(run / "sound.onnx")
    predictor = Predictor(run)
    for path in [*sorted((data / "rise").iterdir())[:4], *sorted((data / "fall").iterdir())[:4]]:
        [found] = predictor.predict(path)
        wave = read_sound(path.read_bytes()).wave
        (shares,) = session.run(["probabilities"], {"sounds": wave[None]})
        assert predictor.labels.classes[shares[0].argmax()] == found.ranked[0][0]
        assert shares[0].max() == pytest.approx(found.ranked[0][1], abs=0.01)
    several = np.zeros((3, 1_000), np.float32)
    assert session.run(["probabilities"], {"sounds": several})[0].shape == (3, 2)


@pytest.mark.slow
def test_an_export_writes_both_files_again(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    before = (copy / "sound.onnx").read_bytes()
    (copy / "sound.onnx").unlink()
    export_run(copy)
    assert (copy / "sound.onnx").read_bytes() == before


def test_folders_of_sounds_are_predicted(run, data, broken, capsys):
    assert command("predict", str(run), str(data / "rise"), "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 24
    [one] = vitrail.predict(run, broken / "rise" / "silent.wav")
    assert one.error == "is silent" and one.answer is None
    [one] = vitrail.predict(run, np.zeros((8, 8), np.uint8))
    assert one.error.startswith("cannot be read as a sound")


def test_what_is_for_images_says_so(run, data):
    sound = data / "rise" / "ann_0.wav"
    with pytest.raises(ConfigError, match="tells sounds, which are not explained so far"):
        vitrail.explain(run, [sound])
    with pytest.raises(ConfigError, match="tells sounds, which are judged by the run's own"):
        vitrail.evaluate(run, data)
