"""What Windows has not got is not needed: every module imports without it, and a run is written."""

from __future__ import annotations

import subprocess
import sys

import pytest

HIDDEN = """
import os, signal, sys
# What we stand on may use what its platform has; it is loaded before anything is hidden.
import filelock, lightning_fabric, lightning_fabric.strategies.ddp, matplotlib.figure, numpy, onnx
import onnxruntime, optuna, PIL.Image, pydantic, rich.live, safetensors.torch, torch
import sklearn.metrics, torch.distributed, torchvision, typer, multiprocessing.popen_spawn_posix
import torch.onnx, onnxscript

for module in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"):
    sys.modules[module] = None
for name in (
    "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_DIRECTORY", "fork", "setsid", "killpg",
    "getuid", "geteuid", "sched_getaffinity", "sysconf", "sysconf_names", "mkfifo", "wait3",
):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGCHLD", "setitimer", "alarm"):
    if hasattr(signal, name):
        delattr(signal, name)
"""

IMPORTS = """
import importlib, pkgutil
import vitrail
names = [m.name for m in pkgutil.walk_packages(vitrail.__path__, "vitrail.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names))
"""

WRITES = """
import json
from pathlib import Path
import numpy as np
import vitrail
from vitrail import models
from vitrail.data.labels import Labels
from vitrail.engines.onnx import export_onnx, synthetic
from vitrail.errors import RunError
from vitrail.jobs.predict import Predictor
from vitrail.run.folder import RunFolder
from vitrail.run.state import State
from vitrail.run.stopping import interruptible
from vitrail.training import snapshot
from vitrail.training.interrupt import Stopping
from vitrail.training.journal import Journal

out = Path(sys.argv[1])
RunFolder.check_free(out)
config = next(models.small_configs("resnet", image=(28, 28), channels=1, classes=3))
torch.manual_seed(0)
model = vitrail.create(config).eval()
labels = Labels(("a", "b", "c"), (28, 28), 1, (0.3,), (0.4,), 1.5)
with RunFolder.create(out) as run, interruptible("again"), Stopping():
    state = State.new(out / "fit.json", seconds={"data": 1.0})
    with state.phase("training"):
        snapshot.write(run.checkpoints, model.state_dict(), {"step": 1})
        Journal(run.metrics).write(1, loss=0.5)
    with run.scratch() as scratch:
        export_onnx(model, labels, scratch / "model.onnx", images=synthetic(labels)[:8])
        (scratch / "model.onnx").replace(run.onnx)
    run.save_model(model, {"model": models.config_json(config)}, labels)
    try:
        RunFolder.create(out, resume=True)
    except RunError as error:
        assert f"process {os.getpid()}" in str(error), error
    else:
        raise SystemExit("the lock was taken twice")
(out / ".lock").unlink()
os.symlink(out / "recipe.json", out / ".lock")
try:
    RunFolder.create(out, resume=True)
except RunError as error:
    assert "is a link" in str(error), error
else:
    raise SystemExit("a link was followed")
assert Journal(out / "metrics.jsonl").read() == [{"step": 1, "loss": 0.5}]
image = PIL.Image.fromarray(np.arange(784, dtype=np.uint8).reshape(28, 28))
image.save(out / "image.png")
print(Predictor(out).predict([out / "image.png"])[0].ranked[0][0])
"""


def run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN + code, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_module_imports():
    assert int(run(IMPORTS)) > 150


@pytest.mark.slow
def test_a_run_is_written_locked_and_read(tmp_path):
    assert run(WRITES, str(tmp_path / "run")) in ("a", "b", "c")
