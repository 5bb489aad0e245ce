"""Processes that torchrun starts train one model, as those do that a training starts itself."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from vitrail.errors import ConfigError
from vitrail.jobs.fit import fit
from vitrail.jobs.pretrain import pretrain
from vitrail.jobs.search import search
from vitrail.jobs.train import train_recipe
from vitrail.training.crew import Crew, crew

SETTINGS = [
    "model=airbench94", "model.dims=8,16,16", "model.filters=8", "model.image=28,28",
    "data=fashion-sample", "steps.total=12", "steps.batch=64",
]  # fmt: skip


@pytest.fixture
def started(monkeypatch):
    """This process is one of two that torchrun started."""
    for name, value in {
        "TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)


def test_who_started_the_processes_is_known(started, monkeypatch):
    assert crew() == Crew(rank=1, size=2, here=1) and not Crew(1, 2, 1).first
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert crew() is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")  # another launcher's, of which nothing is known
    assert crew() is None


def test_what_one_process_does_is_refused_to_several(started, tmp_path):
    for job, what in (
        (lambda: fit("fashion-sample", out=tmp_path / "run"), "a fit"),
        (lambda: pretrain("fashion-sample", out=tmp_path / "run"), "a pretraining"),
        (lambda: search("vitas", "fashion-sample", out=tmp_path / "run"), "a search"),
    ):
        with pytest.raises(ConfigError, match=f"{what} is done by one: start it without torchrun"):
            job()
    with pytest.raises(ConfigError, match="devices is 2 under torchrun"):
        train_recipe(SETTINGS, out=tmp_path / "run", device="cpu", devices=2)
    assert not (tmp_path / "run").exists()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.slow
def test_two_machines_train_as_two_processes_of_one(tmp_path):
    port, words = free_port(), [f"--set={one}" for one in SETTINGS]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    where = ["--master-addr=127.0.0.1", f"--master-port={port}"]

    def machines(*more):
        both = [
            subprocess.Popen(
                [*torchrun, f"--node-rank={rank}", *where, "-m", "vitrail", "train", *words, *more,
                 "--device=cpu", "--out=run"],
                cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            for rank in (0, 1)
        ]  # fmt: skip
        for one in both:
            said, _ = one.communicate(timeout=500)
            assert one.returncode == 0, said

    machines()
    train_recipe(SETTINGS, out=tmp_path / "here", device="cpu", devices=2)
    found, expected = (
        load_file(tmp_path / name / "weights.safetensors") for name in ("run", "here")
    )
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    words = ["--set=steps.total=16"]
    machines("--resume")
    train_recipe(["steps.total=16"], out=tmp_path / "here", device="cpu", devices=2, resume=True)
    found, expected = (
        load_file(tmp_path / name / "weights.safetensors") for name in ("run", "here")
    )
    assert all(torch.equal(found[name], expected[name]) for name in expected)
