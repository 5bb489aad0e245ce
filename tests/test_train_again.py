"""A training that goes on: stopped or finished, with another number of steps."""

import json
import signal
from io import StringIO

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from support.pictures import write_classes
from support.signals import deliver

from vitrail.errors import ConfigError
from vitrail.jobs.train import train_recipe
from vitrail.run.view import View
from vitrail.training.interrupt import Interrupted

MODEL = [
    "model=cct_2_3x2_32", "model.image=16,16", "model.dim=16", "model.depth=1", "steps.batch=8",
    "schedule.warmup=1", "schedule.hold=100", "steps.ema=none",
]  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_classes(tmp_path_factory.mktemp("data") / "photos", {"cat": 20, "dog": 20})


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(out, *settings, resume=False, said=None):
    console = Console(file=said or StringIO(), width=200)
    return train_recipe(settings, out=out, resume=resume, threads=1, device="cpu", console=console)


@pytest.mark.slow  # trains, exports and reports three times
def test_a_finished_training_takes_more_steps(photos, tmp_path):
    """With the same bits as one that was to take as many from the start."""
    data = f"data={photos}"
    trained(tmp_path / "whole", *MODEL, data, "steps.total=6")
    out = trained(tmp_path / "run", *MODEL, data, "steps.total=4")
    before = load_file(out / "weights.safetensors")
    said = StringIO()
    trained(out, resume=True, said=said)
    assert "is finished" in said.getvalue()
    trained(out, "steps.total=6", resume=True)
    ours = load_file(out / "weights.safetensors")
    theirs = load_file(tmp_path / "whole" / "weights.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not all(torch.equal(ours[name], before[name]) for name in before)
    result = json.loads((out / "result.json").read_text())
    assert result["command"].endswith(f"&& vitrail train --resume --set steps.total=6 --out {out}")
    assert json.loads((out / "recipe.json").read_text())["steps"]["total"] == 6
    with pytest.raises(ConfigError, match=r"too small: .* has made 6 steps"):
        trained(out, "steps.total=6", resume=True)
    assert (out / "result.json").is_file()


def test_a_stopped_training_may_end_sooner(photos, tmp_path, monkeypatch):
    step = View.step

    def stop(view, name, number, until):
        step(view, name, number, until)
        if number == 3:
            deliver(signal.SIGTERM)

    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(View, "step", stop)
        with pytest.raises(Interrupted, match="go on with `vitrail train --resume"):
            trained(out, *MODEL, f"data={photos}", "steps.total=50")
    with pytest.raises(ConfigError, match=r"steps\.total=3 is too small: .* made 4 steps"):
        trained(out, "steps.total=3", resume=True)
    with pytest.raises(ConfigError, match=r"optimizer\.lr=1 changes a training .* only steps\.tot"):
        trained(out, "optimizer.lr=1", resume=True)
    trained(out, "steps.total=5", resume=True)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines) == 5
    assert (out / "report.html").is_file()
