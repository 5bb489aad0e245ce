"""Counts against sums by hand, latency against a known wait, and what a machine says."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from vitrail.measure.counts import counts
from vitrail.measure.latency import (
    Latency,
    alternate,
    eager_latency,
    onnx_latency,
    remembered,
    threads_set,
)
from vitrail.measure.machine import crowding, machine
from vitrail.run.reserve import reserve


class Attention(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)

    def forward(self, x):
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).unsqueeze(1).chunk(3, -1)
        return nn.functional.scaled_dot_product_attention(q, k, v)


def test_counts_of_a_convolution_and_attention_are_those_by_hand():
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), Attention(8))
    found = counts(model, (10, 14), 3)
    tokens = 5 * 7
    by_hand = tokens * 8 * 27 + tokens * 8 * 24 + 2 * tokens * tokens * 8
    assert found.macs == by_hand
    assert found.params == (8 * 27 + 8) + 16 + (8 * 24 + 24)
    assert model.training


def test_latency_sees_a_wait_and_threads_come_back():
    class Wait(nn.Module):
        def forward(self, x):
            self.threads = torch.get_num_threads()
            time.sleep(0.004)
            return x

    before = torch.get_num_threads()
    model = Wait()
    found = eager_latency(model, (8, 8), 1, threads=before + 1, seconds=0.05)
    assert 0.004 <= found.p50_s <= found.p90_s
    assert found.n >= 5
    assert model.threads == before + 1
    assert torch.get_num_threads() == before


def test_threads_come_back_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), threads_set(before + 1):
        raise RuntimeError
    assert torch.get_num_threads() == before


def test_alternating_calls_take_turns():
    order = []
    alternate([lambda: order.append("a"), lambda: order.append("b")], seconds=0.001)
    measured = order[-10:]
    assert measured == ["a", "b"] * 5


def test_a_remembered_latency_is_measured_once_per_key(tmp_path, monkeypatch):
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path))
    measured = []

    def measure():
        measured.append(1)
        return Latency(0.1, 0.2, len(measured))

    first = remembered({"config": [1]}, measure)
    assert remembered({"config": [1]}, measure) == first == Latency(0.1, 0.2, 1)
    assert remembered({"config": [2]}, measure).n == 2


def test_an_exported_file_is_measured(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Cast", ["image"], ["out"], to=TensorProto.FLOAT)],
        "cast",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "h", "w", 3])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    found = onnx_latency(tmp_path / "model.onnx", threads=1, seconds=0.02, image=(9, 5))
    assert 0 < found.p50_s <= found.p90_s


def test_the_machine_is_described_without_its_name():
    found = machine()
    assert found["cores"] >= 1
    assert found["versions"]["torch"] == torch.__version__.split("+")[0]
    assert socket.gethostname() not in json.dumps(found)


def test_a_crowded_core_is_noticed():
    """Beside two programs on one core everything takes about three times as long."""
    own = os.sched_getaffinity(0)
    core = min(own)
    code = f"import os; os.sched_setaffinity(0, {{{core}}}); print(flush=True)\nwhile True: pass"
    others = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(2)
    ]
    try:
        for other in others:
            other.stdout.readline()
        os.sched_setaffinity(0, {core})
        assert crowding() > 2
    finally:
        os.sched_setaffinity(0, own)
        for other in others:
            other.kill()
            other.wait()


def test_what_follows_a_training_gets_more_time_on_a_crowded_machine(monkeypatch):
    for crowd, wanted in ((1.0, 30), (2.0, 60), (9.0, 120)):
        monkeypatch.setattr("vitrail.run.reserve.crowding", lambda crowd=crowd: crowd)
        assert reserve(3600.0) == wanted
    assert reserve(20.0) == 10
