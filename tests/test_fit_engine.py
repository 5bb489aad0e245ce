"""`fit --engine`: whose latency counts, what is said of it, and the files that it leaves."""

# ruff: noqa: F811
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.signals import deliver
from test_cli import refused
from test_fit import photos, quick  # noqa: F401
from test_report import some_facts
from test_run_folder import small

from vitrail import engines
from vitrail.config import parse
from vitrail.data.labels import Labels
from vitrail.engines.apart import Apart
from vitrail.errors import ConfigError, ExportError, RunError
from vitrail.jobs import fitting
from vitrail.jobs.arguments import Arguments, ask
from vitrail.jobs.fit import fit
from vitrail.measure.latency import Latency
from vitrail.models import config_json
from vitrail.report.card import render_card
from vitrail.report.page import render
from vitrail.report.timings import EngineFacts, LatencyFacts, PictureFacts
from vitrail.run import exported
from vitrail.run.budget import Budget
from vitrail.run.folder import RunFolder
from vitrail.run.pictures import Decoding, Pictures
from vitrail.search import rescue
from vitrail.search.candidate import candidate
from vitrail.training.interrupt import Interrupted

LABELS = Labels(("cat", "dog", "cow"), (28, 28), 1, (0.5,), (0.25,), 2.0)


def asked(engine=None):
    words = {"time": "10m", "threads": 1}
    return ask("photos", words | ({} if engine is None else {"engine": engine}), (), "run")


def test_an_engine_is_kept_with_the_arguments():
    assert asked().command == "vitrail fit photos --time 10m --threads 1 --out run"
    assert asked().budget == Budget(threads=1)
    assert asked("auto").budget.engine == "auto"
    assert "--engine auto" in asked("auto").command
    # A run of before there was a choice.
    assert parse(Arguments, {"data": "photos"}).engine == "onnxruntime"


def test_an_unknown_engine_is_one_sentence(photos, tmp_path, capsys):
    said = refused(capsys, "fit", str(photos), "--engine", "openvin", "--out", str(tmp_path / "a"))
    assert said == "vitrail: --engine is 'openvin': did you mean 'openvino'?"
    with pytest.raises(ConfigError, match="known are onnxruntime, openvino, auto"):
        fit(photos, engine="tflite", out=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_an_engine_that_is_not_installed(photos, tmp_path, monkeypatch):
    assert engines.rivals("auto") == engines.ENGINES
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"not installed: pip install '.*openvino>="):
        fit(photos, engine="openvino", out=tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert engines.rivals("auto") == engines.rivals("onnxruntime") == ("onnxruntime",)


# ---- another process ---------------------------------------------------------------------


def test_another_process_answers_and_may_die():
    with Apart() as apart:
        other = apart.call(os.getpid)
        assert other != os.getpid() and apart.call(os.getpid) == other
        with pytest.raises(ValueError, match="invalid literal"):
            apart.call(int, "x")
        with pytest.raises(RunError, match="ended with status 3: use another --engine"):
            apart.call(os._exit, 3)
        assert apart.call(os.getpid) != other
        other = apart.call(os.getpid)
    with pytest.raises(ProcessLookupError):
        os.kill(other, 0)


# ---- which engine counts -----------------------------------------------------------------


class Faked:
    """An OpenVINO whose runs take `times`, and whose logits are `off` by so much."""

    def __init__(self, model, times, off=0.0, least=2e-3):
        self.model, self.times, self.off, self.called = model, times, off, []
        self.least = least

    def call(self, function, *arguments):
        self.called.append(function.__name__)
        return getattr(self, function.__name__)(*arguments)

    def converted(self, name, onnx, labels, scratch):
        for file in ("model.xml", "model.bin"):
            (scratch / file).write_text("faked")
        return scratch / "model.xml"

    def logits(self, name, path, labels, images):
        with torch.no_grad():
            return self.model(labels.normalised(images)).numpy() + self.off

    def timed(self, files, labels, images, threads, seconds):
        assert images[0].shape == (1, 28, 28, 1)
        own = {"model.onnx": [*[2e-3] * 39, self.least], "model.xml": list(self.times)}
        # Another size costs the graph's resize 9 ms, the one before the other file 1 ms.
        other = {"model.onnx": [11e-3] * 40, "model.xml": [time + 1e-3 for time in self.times]}
        return [own, other][: len(images)]


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """What is found of a model whose runs take 2 ms in ONNX Runtime, in tmp_path / "scratch"."""
    monkeypatch.setattr(exported, "onnx_latency", lambda *_, **__: Latency(2e-3, 2e-3, 40))
    (tmp_path / "scratch").mkdir()

    def measure(engine, times, off=0.0, least=2e-3, **limits):
        model = small()
        apart = Faked(model, times, off, least)
        images = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), dtype=np.uint8)
        budget = Budget(threads=1, engine=engine, **limits)
        files = tmp_path / "model.onnx", tmp_path / "scratch"
        found = exported.measured(model, files[0], LABELS, images, budget, files[1], apart)
        return found, budget, apart

    return measure


NOISY = [1e-3, 3e-3] * 20


@pytest.mark.parametrize(
    ("engine", "times", "counts", "said"),
    [
        ("auto", [1e-3] * 40, "openvino", " in OpenVINO (ONNX Runtime: 2 ms, slower)"),
        ("auto", [4e-3] * 40, "onnxruntime", " in ONNX Runtime (OpenVINO: 4 ms, slower)"),
        ("auto", NOISY, "onnxruntime", " in ONNX Runtime (OpenVINO: 3 ms, the same within noise)"),
        ("openvino", [4e-3] * 40, "openvino", " in OpenVINO (ONNX Runtime: 2 ms, faster)"),
        ("openvino", NOISY, "openvino", " in OpenVINO (ONNX Runtime: 2 ms, the same within noise)"),
    ],
)
def test_the_engine_that_counts(measure, engine, times, counts, said):
    found, budget, _ = measure(engine, times)
    assert (found.engine, found.said(budget)) == (counts, said)
    assert found.latency == found.latencies[counts]
    assert found.facts(budget).engine == engines.engine(counts).title
    assert [e.name for e in found.others(budget) if e.counts] == [counts]


def test_an_engine_does_not_win_on_a_busy_machine(measure):
    found, budget, _ = measure("auto", [1e-3] * 40, least=1e-4)
    assert found.engine == "onnxruntime" and found.gains["openvino"][1] > 1
    assert found.said(budget).endswith("(OpenVINO: 1 ms, the machine too busy to compare them)")


def test_a_latency_over_the_limit_is_measured_again(measure):
    _, _, apart = measure("openvino", [4e-3] * 40, latency_s=3e-3)
    assert apart.called == ["converted", "logits"] + ["timed"] * exported.TRIES


def test_onnx_runtime_alone_asks_no_other_process(measure):
    found, budget, apart = measure("onnxruntime", [])
    assert not apart.called and found.engine == "onnxruntime"
    assert (found.said(budget), found.others(budget)) == ("", [])


def test_a_file_that_is_not_the_model_is_refused(measure):
    with pytest.raises(ExportError, match="OpenVINO: the exported file does not compute"):
        measure("openvino", [1e-3] * 40, off=1e-3)
    found, budget, _ = measure("auto", [1e-3] * 40, off=1e-3)
    assert found.engine == "onnxruntime" and "OpenVINO" not in found.said(budget)


def test_the_engine_counts_that_is_faster_with_the_resize(measure, tmp_path):
    # ONNX Runtime is twice as fast at the model's size, and slower for a larger picture.
    of = Pictures((56, 50), 1, inside=False)
    found, budget, apart = measure("auto", [4e-3] * 40, pictures=of)
    assert found.engine == "openvino" and found.latency.p50_s == pytest.approx(5e-3)
    assert found.alone.engine == "onnxruntime" and found.model_s == 4e-3
    told = found.facts(budget, Decoding(0.02, "JPEG")).picture
    assert told == PictureFacts((56, 50), 4e-3, pytest.approx(1e-3), 0.02, "JPEG")
    assert found.held_s(budget) == pytest.approx(5e-3)
    assert found.held_s(replace(budget, beyond=True)) == 4e-3
    with RunFolder.create(tmp_path / "run") as run:
        run.save_model(apart.model, {"model": config_json(apart.model.config)}, LABELS)
        found.settle(run, tmp_path / "scratch", budget, 5)
    record = json.loads(run.engines.read_text())["openvino"]  # of images of the model's size
    assert record["latency"]["model.xml"]["p50_s"] == 4e-3 and record["gain"]["model.xml"][0] == 0.5


def test_pictures_of_the_model_s_size_are_timed_as_before(measure):
    found, budget, apart = measure("onnxruntime", [], pictures=Pictures((28, 28)))
    assert not apart.called and found.alone is None and found.latency.p50_s == 2e-3
    assert found.facts(budget).picture == PictureFacts((28, 28), 2e-3, 0.0)


@pytest.mark.parametrize(("times", "left"), [([1e-3] * 40, True), ([4e-3] * 40, False)])
def test_the_winner_s_file_and_record_stay(measure, tmp_path, times, left):
    found, budget, apart = measure("auto", times)
    with RunFolder.create(tmp_path / "run") as run:
        run.save_model(apart.model, {"model": config_json(apart.model.config)}, LABELS)
        found.settle(run, tmp_path / "scratch", budget, 5)
    assert (run.path / "model.xml").is_file() == (run.path / "model.bin").is_file() == left
    assert run.engines.is_file() == left
    if left:
        record = json.loads(run.engines.read_text())["openvino"]
        assert record["use"] == "model.xml" and record["gain"]["model.xml"][0] == 2


# ---- the second look ---------------------------------------------------------------------


def late(*latencies):
    one = candidate(small().config, params=1, macs=1)
    return [replace(one, name=str(at), latency_s=s) for at, s in enumerate(latencies)]


def test_what_torch_finds_too_slow_is_looked_at_again(monkeypatch):
    budget = Budget(latency_s=1.0, engine="auto")
    monkeypatch.setattr(rescue, "_exported", lambda one, *_: Latency(one.latency_s / 5, 1, 1))
    arguments = {"seconds": 60, "apart": Apart()}
    found = rescue.as_exported(late(2.0, 3.0), budget, **arguments)
    assert [(c.name, c.latency_s) for c in found] == [("0", 0.4), ("1", pytest.approx(0.6))]
    assert not rescue.as_exported(late(2.0), replace(budget, latency_s=None), **arguments)
    assert not rescue.as_exported(late(2.0), budget, **arguments | {"seconds": 3})

    def broken(*_):
        raise ExportError("no such operator")

    monkeypatch.setattr(rescue, "_exported", broken)
    assert not rescue.as_exported(late(2.0), budget, **arguments)


def test_a_look_is_remembered(monkeypatch, tmp_path):
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path))
    calls = []

    def measured(*_):
        calls.append(1)
        return exported.Timed("onnxruntime", {"onnxruntime": Latency(0.5, 0.6, 9)}, {}, {}, {})

    monkeypatch.setattr(rescue, "measured", measured)
    monkeypatch.setattr(Apart, "start", lambda self: None)
    for engine in ("auto", "auto", "openvino", "onnxruntime", "onnxruntime"):
        budget = Budget(latency_s=1.0, engine=engine)
        (found,) = rescue.as_exported(late(2.0), budget, seconds=60, apart=Apart())
        assert found.latency_s == 0.5
    assert len(calls) == 3


# ---- what is told ------------------------------------------------------------------------


def test_the_report_names_the_engine():
    turn = (
        EngineFacts("onnxruntime", "ONNX Runtime", 2e-3, 3e-3, 40, False, 2e-3),
        EngineFacts("openvino", "OpenVINO", 1e-3, 2e-3, 40, True, 1e-3, (2.0, 1.9, 2.1), 3e-7),
    )
    won = replace(some_facts(), latency=LatencyFacts(1e-3, 2e-3, 40, "OpenVINO"), engines=turn)
    page, card = render(won), render_card(won)
    assert "OpenVINO is faster than ONNX Runtime here: ratio 2.00, 95 % interval 1.90" in page
    assert "OpenVINO, CPU, 1 thread; ONNX Runtime 2" in page
    assert "OpenVINO, CPU, 1 thread, batch 1" in card and "| in ONNX Runtime | 2 ms |" in card
    assert "vitrail predict . image.jpg --engine openvino`" in card
    level = [turn[0], replace(turn[1], counts=False, gain=(1.1, 0.9, 1.2))]
    page, card = (f(replace(some_facts(), engines=level)) for f in (render, render_card))
    assert "OpenVINO is no faster and no slower beyond noise than ONNX Runtime" in page
    assert "image.jpg --engine" not in card
    busy = render(replace(some_facts(), engines=[turn[0], replace(turn[1], quickest_s=3e-3)]))
    assert "The machine was too busy to compare OpenVINO with ONNX Runtime here" in busy
    alone = render(replace(some_facts(), engines=turn[:1]))
    assert "no other engine was installed or could run it" in alone


# ---- whole fits --------------------------------------------------------------------------


@pytest.mark.long
def test_a_fit_by_openvino_survives_a_signal_and_goes_on(photos, quick, tmp_path, monkeypatch):
    """The signal comes when OpenVINO has computed."""
    whole, out = fitting, tmp_path / "run"
    monkeypatch.setattr(exported, "SECONDS", 0.1)
    wanted = {"latency": "80ms", "params": "200k", "time": "5s", "threads": 1}
    with monkeypatch.context() as m:
        m.setattr(whole, "train_in_full", lambda *_, **__: deliver(signal.SIGINT))
        with pytest.raises(Interrupted, match="nothing is lost"):
            fit(photos, **wanted, engine="openvino", out=out, console=quick)
    assert json.loads((out / "fit.json").read_text())["arguments"]["engine"] == "openvino"
    assert fit(photos, resume=True, out=out, console=quick) == out

    result = json.loads((out / "result.json").read_text())
    assert result["latency"]["engine"] == "OpenVINO"
    assert [e["name"] for e in result["engines"]] == ["onnxruntime", "openvino"]
    assert result["engines"][1]["max_logit_difference"] < 1e-4
    assert "--engine openvino" in result["command"]
    assert "as exported in OpenVINO (ONNX Runtime: " in quick.file.getvalue()
    assert "; OpenVINO, CPU" in (out / "report.html").read_text()
    files = {p.name for p in out.iterdir()}
    assert {"model.onnx", "model.xml", "model.bin", "engine.json"} <= files
    assert not [name for name in files if name.startswith((".engine", "tmp"))]
    # OpenVINO computes here, so in a process of its own.
    image = str(photos / "below" / "3.png")
    code = f"from vitrail.cli import app; app(['predict', {str(out)!r}, {image!r}, '--json'"
    answers = [
        json.loads(subprocess.check_output([sys.executable, "-c", code + more]))[0]["classes"]
        for more in ("])", ", '--engine', 'openvino'])")
    ]
    assert [c["class"] for c in answers[0]] == [c["class"] for c in answers[1]]
    assert [c["p"] for c in answers[0]] == pytest.approx([c["p"] for c in answers[1]], abs=1e-4)


def test_the_default_says_and_leaves_what_it_did(photos, quick, tmp_path):
    run = fit(photos, latency="80ms", params="200k", time="5s", threads=1,
              out=tmp_path / "run", console=quick)  # fmt: skip
    result = json.loads((run / "result.json").read_text())
    assert result["latency"]["engine"] == "ONNX Runtime" and "engines" not in result
    assert " as exported, batch 1, 1 thread" in quick.file.getvalue()
    assert not (run / "engine.json").exists() and not (run / "model.xml").exists()
    assert "OpenVINO" not in (run / "report.html").read_text()
