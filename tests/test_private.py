"""Answers on secrets: what parties are told is the model, who dies is told, and no one waits."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from math import prod

import numpy as np
import pytest
import torch
from test_backbones import build, image

from vitrail.errors import ConfigError, RunError
from vitrail.layers.switches import keep, switches
from vitrail.methods import PriViT
from vitrail.methods.private_cost import operations
from vitrail.models import cait, deit, vit
from vitrail.private import environment, party
from vitrail.private.meeting import PATIENCE_S, meet
from vitrail.private.plan import plan

SMALL = {"dim": 12, "depth": 2, "heads": 3, "hidden": 10, "patch": 8, "classes": 5}
CONFIGS = {
    "class token": deit.Config(**SMALL, image=(32, 24)),
    "mean": vit.Config(**SMALL, image=(32, 24), pool="mean", position="sincos"),
}


def switched(config):
    """A model some of whose switches are on."""
    torch.manual_seed(1)
    model = PriViT().apply(build(config, torch.float32))
    for kind, count in zip(switches(model), (9, 31), strict=True):
        for one in kind:
            torch.nn.init.uniform_(one)
        keep(kind, count)
    return model.eval()


def read(told, weights, patches, gelu):
    """What the parties compute, in float64: the slow twin of `party.network`, whose GELU is the
    tanh form of ViT."""
    w = {name: torch.from_numpy(value).double() for name, value in weights.items()}
    x = torch.from_numpy(patches).double() @ w["stem"]
    prefix = told["tokens"] - len(x)
    x = torch.cat([w["base"][:prefix], x + w["base"][prefix:]])

    def affine(x, name):
        return x @ w[name][:-1] + w[name][-1]

    def norm(x, name, eps):
        return torch.nn.functional.layer_norm(x, x.shape[-1:], w[name][0], w[name][1], eps)

    for n, block in enumerate(told["blocks"]):
        heads, tokens = block["heads"], len(x)
        qkv = affine(norm(x, f"{n}.norm1", block["eps"]), f"{n}.qkv")
        q, k, v = qkv.view(tokens, 3, heads, -1).permute(1, 2, 0, 3)
        scores = (q @ k.mT).reshape(heads * tokens, tokens)
        rows = scores.square() / tokens
        rows[block["softmaxes"]] = scores[block["softmaxes"]].softmax(-1)
        mixed = (rows.view(heads, tokens, tokens) @ v).transpose(0, 1).reshape(tokens, -1)
        x = x + affine(mixed, f"{n}.proj")
        inside = affine(norm(x, f"{n}.norm2", block["eps"]), f"{n}.fc1")
        on = block["gelus"]
        inside[on] = gelu(inside[on])
        x = x + affine(inside, f"{n}.fc2")
    x = norm(x, "norm", told["eps"])
    return affine(x.mean(0) if told["pool"] == "mean" else x[0], "head")


@pytest.mark.parametrize("name", CONFIGS)
def test_the_plan_is_the_model(name):
    model = switched(CONFIGS[name])
    made, seen = plan(model), image(CONFIGS[name], 1)[0]
    with torch.no_grad():
        expected = model.double()(seen[None].double())[0]
    found = read(
        made.told, made.weights, made.patches(seen), model.get_submodule("blocks.0.ffn.act")
    )
    assert torch.allclose(found, expected, atol=1e-5)
    assert {n: tuple(s) for n, s in made.told["arrays"].items()} == {
        n: value.shape for n, value in made.weights.items()
    }
    plain = plan(build(CONFIGS[name], torch.float32))  # has no switches: all are on
    assert len(plain.told["blocks"][0]["gelus"]) == made.told["tokens"]


def test_rows_that_are_on_and_off_come_back_in_their_order(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", type(sys)("jax"))
    monkeypatch.setitem(sys.modules, "jax.numpy", np)
    x = np.arange(10.0).reshape(5, 2)
    found = party.switched(x, [1, 4], lambda s: s + 100, lambda s: -s)
    assert found.tolist() == [[0, -1], [102, 103], [-4, -5], [-6, -7], [108, 109]]
    assert (party.switched(x, [], None, lambda s: -s) == -x).all()


def test_shares_are_packed_as_bytes_and_no_code():
    parts = [b"", b"meta", bytes(range(256)) * 9]
    assert party.unpacked(party.packed(parts)) == parts


def test_what_is_predicted_by_shapes_is_what_the_engine_counted():
    """SPU 0.9.5, SEMI2K, of a ViT of 48, four blocks, three heads, 64 tokens and their mean, and of
    single operations."""
    config = vit.Config(
        dim=48, depth=4, heads=3, hidden=192, patch=4, image=(32, 32), classes=10, pool="mean"
    )
    model = PriViT().apply(build(config, torch.float32))
    shared, public = operations(model), operations(model, "public")
    assert (shared.bytes, shared.messages) == (58_642_600, 1015)
    assert (public.bytes, public.messages) == (56_580_136, 988)
    norms = [call.bytes for call in shared.calls if call.kind == "norm"]
    assert norms == [212_288] * 9


@pytest.mark.parametrize(
    ("tokens", "messages"), [(4, 243), (9, 259), (16, 259), (25, 275), (36, 275), (64, 275)]
)
def test_the_rounds_of_a_softmax_are_those_that_the_engine_counted(tokens, messages):
    """SPU 0.9.5, SEMI2K, of a ViT of 8, one block, one head, and the mean of its tokens."""
    side = 4 * math.isqrt(tokens)
    config = vit.Config(
        dim=8, depth=1, heads=1, hidden=8, patch=4, image=(side, side), classes=2, pool="mean"
    )
    assert operations(PriViT().apply(build(config, torch.float32))).messages == messages


def test_a_party_hears_at_once_that_the_other_is_gone(tmp_path):
    code = (
        "import importlib.util, sys, time\n"
        "spec = importlib.util.spec_from_file_location('party', sys.argv[1])\n"
        "party = importlib.util.module_from_spec(spec); spec.loader.exec_module(party)\n"
        "watch = party.Watch(int(sys.argv[2]), int(sys.argv[3])); print('met', flush=True)\n"
        "time.sleep(60)\n"
    )
    from vitrail.private.meeting import _free_ports

    (port,) = _free_ports(1)
    client, server = (
        subprocess.Popen(
            [sys.executable, "-c", code, party.__file__, str(rank), str(port)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    )  # fmt: skip
    try:
        assert client.stdout and client.stdout.readline() == "met\n"
        server.kill()
        _, said = client.communicate(timeout=30)
    finally:
        client.kill()
        server.communicate()
    assert client.returncode == party.GONE
    assert said == "party: the server is gone before the answer was there\n"


@pytest.fixture
def hollow(tmp_path, monkeypatch):
    """An environment with a Python and no engine."""
    (tmp_path / "spu" / "bin").mkdir(parents=True)
    (tmp_path / "spu" / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setenv(environment.VARIABLE, str(tmp_path / "spu"))


def test_a_party_that_fails_ends_the_other(hollow):
    model = switched(CONFIGS["mean"])
    made = plan(model)
    started = time.monotonic()
    with pytest.raises(RunError, match=r"the (client|server) failed \(.*No module named .*; ask"):
        meet(made, made.patches(torch.zeros(3, 32, 24)))
    assert time.monotonic() - started < PATIENCE_S + 30


def test_what_cannot_be_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv(environment.VARIABLE, str(tmp_path / "none"))
    with pytest.raises(RunError, match="get it by `vitrail private --install`"):
        environment.python()
    for config in (
        cait.Config(dim=12, depth=1, heads=3, hidden=8, patch=8, image=(16, 16), classes=5),
        vit.Config(**SMALL, image=(32, 24), pool="map"),
    ):
        with pytest.raises(ConfigError, match="cannot be computed on secrets: give a run of a ViT"):
            plan(build(config, torch.float32))


@pytest.mark.slow  # compiles, and computes on secrets, in two processes
@pytest.mark.skipif(environment.VARIABLE not in os.environ, reason="needs VITRAIL_SPU")
@pytest.mark.parametrize("weights", ["shared", "public"])
def test_two_parties_answer_as_the_model_does(weights):
    model = switched(CONFIGS["class token"])
    made, seen = plan(model), image(CONFIGS["class token"], 1)[0]
    with torch.no_grad():
        expected = model(seen[None])[0].numpy()
    met = meet(made, made.patches(seen), weights=weights)
    assert np.abs(met.logits - expected).max() < 0.05
    told = operations(model, weights)
    assert met.messages == told.messages
    assert met.bytes == pytest.approx(told.bytes, rel=0.01)
    assert met.shared_bytes > 8 * prod(made.told["arrays"]["stem"])
