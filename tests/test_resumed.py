"""Resuming with other data or other words than a job was begun with: told, never passed over."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from vitrail import study as studies
from vitrail.config import to_json
from vitrail.errors import ConfigError, DataError
from vitrail.jobs import adapt, compress, cutting, fit, pretrain, pretraining, search
from vitrail.jobs.adapt_wanted import Wanted
from vitrail.jobs.arguments import Arguments
from vitrail.jobs.searched import want
from vitrail.run.folder import RunFolder
from vitrail.run.state import State, here


def made(out: Path, *, finished: bool, **values) -> Path:
    """A folder with what `values` say was asked for, stopped or finished."""
    with RunFolder.create(out) as run:
        State.new(out / "fit.json", images="abc", **values)
        run.write_json(out / "asked.json", values.get("asked", {}))
        if finished:
            run.write_json(run.result, {})
    return out


def quiet() -> Console:
    return Console(file=StringIO())


def fitted(out, finished):
    asked = to_json(Arguments("photos", macs=1000, time_s=60.0, threads=2))
    return made(out, finished=finished, arguments=asked, shortlist={})


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("data", ["others", "/nowhere", "photos/deeper"])
def test_a_fit_of_other_data_is_not_the_one_that_was_begun(data, finished, tmp_path):
    out = fitted(tmp_path / "run", finished)
    with pytest.raises(
        ConfigError, match=rf"data {data} is not what .*run was begun with \(photos"
    ):
        fit.fit(data, out=out, resume=True, console=quiet())


@pytest.mark.parametrize(
    ("words", "settings", "said"),
    [
        ({"macs": "2k"}, (), "another --macs changes nothing any more: fit again"),
        ({"time": "9m"}, (), "another --time changes nothing"),
        ({"latency": "5ms"}, (), "another --latency changes nothing"),
        ({"engine": "openvino"}, (), "another --engine changes nothing"),
        ({"seed": 3}, (), "--seed cannot change"),
        ({}, ("augment.flip=0",), "--set augment.flip=0 cannot change"),
    ],
)
def test_a_finished_fit_says_that_it_does_not_change(words, settings, said, tmp_path):
    out = fitted(tmp_path / "run", True)
    with pytest.raises(ConfigError, match=said):
        fit.fit("photos", settings=settings, out=out, resume=True, console=quiet(), **words)


def test_a_finished_fit_that_was_asked_for_as_before_is_shown(tmp_path, monkeypatch):
    out = fitted(tmp_path / "run", True)
    monkeypatch.chdir(tmp_path)
    for data in ("photos", tmp_path / "photos", "./photos/"):
        assert fit.fit(data, out=out, resume=True, console=quiet(), macs="1k", time="1m") == out


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    ("pictures", "given", "said"),
    [
        ("others", {}, "pictures others is not .*pictures"),
        ("pictures", {"method": "sit"}, r"--method sit is not .*\(mae\)"),
        ("pictures", {"time": "9m"}, r"--time 540 is not .*\(60\)"),
        ("pictures", {"model": "deit_tiny"}, r"--model deit_tiny is not .*\(none\)"),
        ("pictures", {"labels": True}, r"--labels True is not .*\(False\)"),
        ("pictures", {"seed": 0}, r"--seed 0 is not .*\(3\)"),
        ("pictures", {"settings": ["steps.batch=8"]}, r"--set steps.batch=8 is not .*\(none\)"),
    ],
)
def test_a_pretraining_goes_on_as_it_was_begun(pictures, given, said, finished, tmp_path):
    asked = pretraining.Asked("pictures", "mae", time_s=60.0, labels=False, seed=3)
    out = made(tmp_path / "run", finished=finished, pretraining=to_json(asked))
    with pytest.raises(ConfigError, match=said):
        pretrain.pretrain(pictures, out=out, resume=True, console=quiet(), **given)
    if finished:
        same = {"method": "mae", "time": "1m", "labels": False, "seed": 3}
        assert pretrain.pretrain("pictures", out=out, resume=True, console=quiet(), **same) == out


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"base": "other"}, r"base other is not .*\(base\)"),
        ({"base": "base", "data": "others"}, r"data others is not .*\(photos\)"),
        ({"only": ("linear",)}, r"--only linear is not .*\(linear,lora\)"),
        ({"params": 0.5}, r"--params 0.5 is not .*\(none\)"),
        ({"epochs": 3}, r"--epochs 3 is not .*\(10\)"),
        ({"time_s": 60.0}, r"--time 60 is not .*\(none\)"),
        ({"group_by": "x"}, r"--group-by x is not .*\(none\)"),
    ],
)
def test_ways_to_adapt_go_on_as_they_were_begun(given, said, finished, tmp_path):
    wanted = Wanted("base", "photos", only=("linear", "lora"))
    out = made(tmp_path / "run", finished=finished, adapting=to_json(wanted))
    with pytest.raises(ConfigError, match=said):
        adapt.resume(out, quiet(), given=given)
    if finished:
        same = {"base": "base", "data": "photos", "epochs": 10, "seed": None}
        assert adapt.resume(out, quiet(), given=same) == out


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    ("run", "given", "said"),
    [
        ("other", {}, r"run other is not .*\(big\)"),
        ("big", {"method": "magnitude"}, r"--method magnitude is not .*\(up\)"),
        ("big", {"epochs": 3.0}, r"--epochs 3 is not .*\(none\)"),
        ("big", {"seed": 1}, r"--seed 1 is not .*\(0\)"),
        ("big", {"macs": "30%"}, r"--macs 300 is not .*\(500\)"),
        ("big", {"params": "50"}, r"--params 50 is not .*\(none\)"),
    ],
)
def test_a_smaller_run_goes_on_as_it_was_begun(run, given, said, finished, tmp_path, monkeypatch):
    kept = {"asked": to_json(cutting.Asked("big", "up", macs=500))}
    out = made(tmp_path / "run", finished=finished, compress=kept)
    figures = type("Subject", (), {"macs": 1000, "params": 100})()
    old = type("Before", (), {"subject": figures, "result": {"latency": {"p50_s": 0.1}}})()
    monkeypatch.setattr(compress, "before", lambda *_: old)
    with pytest.raises(ConfigError, match=said):
        compress.compress(run, out=out, resume=True, console=quiet(), **given)
    if finished:
        same = {"method": "up", "macs": "50%", "seed": 0}
        assert compress.compress("big", out=out, resume=True, console=quiet(), **same) == out


@pytest.mark.parametrize("finished", [False, True])
def test_the_images_of_a_run_that_is_made_smaller_may_move_until_it_is_finished(
    finished, tmp_path, monkeypatch
):
    kept = {"asked": to_json(cutting.Asked("big", "up", macs=500))}
    out = made(tmp_path / "run", finished=finished, compress=kept)
    asked = []

    def before(*given):
        asked.append(given)
        raise DataError("read")

    monkeypatch.setattr(compress, "before", before)
    words = {"data": "others", "out": out, "resume": True, "console": quiet()}
    if finished:
        with pytest.raises(ConfigError, match=r"data others is not .*\(none\)"):
            compress.compress("big", **words)
    else:
        with pytest.raises(DataError, match="read"):
            compress.compress("big", **words)
    assert asked == ([] if finished else [("big", "others")])


@pytest.fixture(autouse=True)
def there(tmp_path, monkeypatch):
    """A working directory in which the data of all jobs are still where they were."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "pictures"):
        (tmp_path / name).mkdir()


def test_data_that_are_no_longer_there_are_looked_for_where_they_are_given(there, tmp_path):
    asked = pretraining.Asked("moved", "mae", time_s=60.0, seed=3)
    wanted = Wanted("base", "moved", only=("linear",))
    found = want("vitas", "photos", {"macs": "20M"}, (), None).public
    found = replace(found, limits=replace(found.limits, data="moved"))
    outs = [
        made(tmp_path / "a", finished=False, pretraining=to_json(asked)),
        made(tmp_path / "b", finished=False, adapting=to_json(wanted)),
        made(tmp_path / "c", finished=False, search=to_json(found)),
    ]
    with pytest.raises(DataError, match="elsewhere"):
        pretrain.pretrain("elsewhere", out=outs[0], resume=True, console=quiet())
    with pytest.raises(DataError, match="elsewhere"):
        adapt.resume(outs[1], quiet(), given={"data": "elsewhere"})
    with pytest.raises(DataError, match="elsewhere"):
        search.search("vitas", "elsewhere", out=outs[2], resume=True, console=quiet())
    assert here("moved", "elsewhere") == "elsewhere" and here("moved", None) == "moved"
    assert here("photos", "elsewhere") == "photos"
    # A name that is built in lies nowhere, and is not gone.
    assert here("fashion-sample", "elsewhere") == "fashion-sample"


@pytest.mark.parametrize("finished", [False, True])
def test_a_search_of_other_data_is_not_the_one_that_was_begun(finished, tmp_path):
    wanted = want("vitas", "photos", {"macs": "20M"}, (), None)
    out = made(tmp_path / "run", finished=finished, search=to_json(wanted.public))
    with pytest.raises(ConfigError, match=r"data others is not what .*run was begun with \(photos"):
        search.search("vitas", "others", out=out, resume=True, console=quiet())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "early-convolutions"}, r"name early-convolutions is not .*\(attention-modules\)"),
        ({"data": "others"}, r"data others is not .*\(photos\)"),
        ({"seeds": 5}, r"--seeds 5 is not .*\(3\)"),
        ({"only": ("SE",)}, r"--only SE is not .*\(none\)"),
    ],
)
def test_a_study_goes_on_as_it_was_begun(given, said, tmp_path):
    asked = to_json(studies.Asked("attention-modules", "photos", threads=1))
    out = made(tmp_path / "run", finished=False, asked=asked)
    assert json.loads((out / "asked.json").read_text())["seeds"] == 3
    with pytest.raises(ConfigError, match=said):
        studies.resume(out, quiet(), given=given)
