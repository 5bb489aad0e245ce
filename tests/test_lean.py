"""Lean training keeps less and computes the same; a process may keep the memory that it frees."""

from __future__ import annotations

import gc
import json
import platform
import subprocess
import sys
import weakref
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from support.toy import STEPS, run
from test_run_folder import small
from torch import nn

import vitrail
from vitrail import heap
from vitrail.measure import memory
from vitrail.measure.memory import peak_bytes
from vitrail.search import timing
from vitrail.search.candidate import candidate
from vitrail.training import activations, lean, machine
from vitrail.training.lean import Lean


@pytest.fixture(autouse=True)
def everything_counts(monkeypatch):
    lean.trouble()  # its own nets are not to be counted
    monkeypatch.setattr(lean, "LEAST_BYTES", 0)


class Kept:
    """How many tensors of a graph are kept by themselves, and how many are made again."""

    def __init__(self, monkeypatch) -> None:
        self.saved: list = []
        pack = lean._Keeper.pack

        def noted(keeper, tensor):
            found = pack(keeper, tensor)
            if isinstance(found, lean._Saved) and all(s is not found for s in self.saved):
                self.saved.append(found)
            return found

        monkeypatch.setattr(lean._Keeper, "pack", noted)

    @property
    def counts(self) -> tuple[int, int]:
        again = sum(saved.make is not None for saved in self.saved)
        return len(self.saved) - again, again


@pytest.fixture
def kept(monkeypatch):
    return Kept(monkeypatch)


def gradients(make, x: torch.Tensor, *, leanly: bool) -> list[torch.Tensor | None]:
    """Of the input and all parameters of a network made with one seed."""
    torch.manual_seed(0)
    net = make().double().train()
    x = x.clone().requires_grad_()
    with Lean(net)() if leanly else nullcontext():
        out = net(x)
    out.square().mean().backward()
    return [x.grad, *(p.grad for p in net.parameters())]


def same(some: list[torch.Tensor | None], others: list[torch.Tensor | None]) -> bool:
    """Bit by bit."""
    pairs = zip(some, others, strict=True)
    return all(a is not None and b is not None and torch.equal(a, b) for a, b in pairs)


class Residual(nn.Module):
    """A basic residual block of convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x):
        y = self.norm1(self.one(x)).relu_()
        return self.norm2(self.two(y)).add_(x).relu_()


class Greatest(nn.Module):
    """The maximum's gradient goes where the input equals it."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.norm = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)

    def forward(self, x):
        return self.norm(self.read(x)).relu_().amax(1)


class Frozen(nn.BatchNorm2d):
    """With the statistics that it was given."""

    def train(self, mode: bool = True):
        return super().train(False)


class Turned(nn.Module):
    """A map whose channels lie last is read as rows, without its first image."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.read = nn.BatchNorm2d(6), nn.Linear(6, 3)

    def forward(self, x):
        y = self.norm(x.contiguous(memory_format=torch.channels_last))
        return self.read(y.permute(0, 2, 3, 1).flatten(1, 2)[1:])


NETS = {
    "gelu": lambda: nn.Sequential(nn.Linear(8, 8), nn.GELU("tanh"), nn.Linear(8, 8)),
    "silu": lambda: nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 8)),
    "hardswish": lambda: nn.Sequential(nn.Linear(8, 8), nn.Hardswish(), nn.Linear(8, 8)),
    "layer norm": lambda: nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)),
    "layer norm without shift": lambda: nn.Sequential(
        nn.LayerNorm(8, bias=False), nn.Linear(8, 8)
    ),
    "layer norm of numbers": lambda: nn.Sequential(
        nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 8)
    ),
    "dropout": lambda: nn.Sequential(
        nn.Linear(8, 8), nn.GELU(), nn.Dropout(0.5), nn.Linear(8, 8)
    ),
}  # fmt: skip
MAPS = {
    "norm and relu": lambda: nn.Sequential(
        nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3)
    ),
    "norm without parameters": lambda: nn.Sequential(
        nn.BatchNorm2d(6, affine=False), nn.ReLU(), nn.Conv2d(6, 6, 3)
    ),
    "frozen norm": lambda: nn.Sequential(
        nn.Conv2d(6, 6, 3), Frozen(6), nn.ReLU(), nn.Conv2d(6, 6, 3)
    ),
    "two norms in a row": lambda: nn.Sequential(
        nn.BatchNorm2d(6), nn.BatchNorm2d(6), nn.GELU(), nn.Conv2d(6, 6, 3)
    ),
    "residual blocks": lambda: nn.Sequential(*[Residual(6) for _ in range(5)]),
    "maximum": Greatest,
    "views": Turned,
}  # fmt: skip
# The mask of a dropout is drawn once, and norms without parameters have no name to know them by.
STAY = {"dropout", "layer norm of numbers", "norm without parameters"}


@pytest.mark.parametrize("name", NETS)
def test_rows_are_equal(name, kept):
    x = torch.randn(5, 8, dtype=torch.float64)
    plain = gradients(NETS[name], x, leanly=False)
    assert same(gradients(NETS[name], x, leanly=True), plain)
    assert kept.counts[1] == (0 if name in STAY else 1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", MAPS)
def test_maps_are_equal(name, layout, kept):
    x = torch.randn(3, 6, 9, 7, dtype=torch.float64).to(memory_format=layout)
    plain = gradients(MAPS[name], x, leanly=False)
    assert same(gradients(MAPS[name], x, leanly=True), plain)
    assert kept.counts[1] >= (0 if name in STAY else 1)


def test_every_other_end_of_a_block_is_kept(kept):
    """An identity shortcut reads the end before it, which must be there."""
    x = torch.randn(2, 6, 8, 8, dtype=torch.float64)
    gradients(lambda: nn.Sequential(*[Residual(6) for _ in range(6)]), x, leanly=True)
    # Made are the relus inside and every other end; the first reads the input, which no relu made.
    assert kept.counts[1] == 6 + 3


def test_a_graph_may_be_run_twice():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 1)).double()
    x = torch.randn(4, 8, dtype=torch.float64)
    with Lean(net)():
        loss = net(x).square().mean()
    once = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)
    twice = torch.autograd.grad(loss, list(net.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


def test_a_change_in_place_is_an_error_and_no_wrong_gradient():
    net = nn.Linear(8, 8)
    hidden = torch.randn(4, 8, requires_grad=True) * torch.ones(8)
    with Lean(net)():
        loss = net(hidden).square().mean()
    hidden.add_(1)
    with pytest.raises(RuntimeError, match="changed in place after it was used"):
        loss.backward()


def test_bfloat16_keeps_its_type():
    torch.manual_seed(0)
    net = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 8))
    x, found = torch.randn(16, 64), []
    for leanly in (False, True):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16), Lean(net)() if leanly else nullcontext():
            loss = net(x).float().square().mean()
        loss.backward()
        found.append([p.grad for p in net.parameters()])
    assert same(found[1], found[0])


def test_nothing_is_recorded_without_a_gradient(kept):
    net = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
    with Lean(net)(), torch.no_grad():
        net(torch.randn(2, 8))
    assert kept.counts == (0, 0)


@pytest.mark.parametrize("name", MAPS)
def test_a_graph_that_nobody_runs_goes_away(name, kept):
    net = MAPS[name]()
    with Lean(net)():
        out = net(torch.randn(2, 6, 9, 7))
    alive = [weakref.ref(saved) for saved in kept.saved]
    kept.saved.clear()
    del out
    gc.collect()
    assert alive and all(one() is None for one in alive)


def test_a_step_takes_a_quarter_less_memory():
    torch.manual_seed(0)
    model = vitrail.create("deit_tiny", image=(96, 96)).train()
    images, less = torch.randn(16, 3, 96, 96), Lean(model)

    def step(leanly: bool) -> None:
        with less() if leanly else nullcontext():
            loss = model(images).square().mean()
        loss.backward()
        model.zero_grad()

    assert peak_bytes(lambda: step(True)) < 0.75 * peak_bytes(lambda: step(False))


PAGES = """
import json, resource, sys
import torch
from vitrail import heap
told = heap.keep() if sys.argv[1] == "keep" else None
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(16 << 20)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(4):
    faults()
print(json.dumps([told, faults()]))
"""


def test_freed_memory_stays():
    if platform.libc_ver()[0] != "glibc":
        assert heap.keep() is False
        return

    def run(how: str, **env: str):
        done = subprocess.run(
            [sys.executable, "-c", PAGES, how],
            capture_output=True, text=True, check=True, env={"PATH": "/usr/bin", **env},
        )  # fmt: skip
        return json.loads(done.stdout)

    _, anew = run("leave")
    told, after = run("keep")
    assert told is True
    assert after < anew / 20
    # Whoever has set the allocator knows what for.
    assert run("keep", MALLOC_ARENA_MAX="4")[0] is False


# ---- a torch that calls things otherwise -----------------------------------------------


@pytest.fixture
def untried():
    """The trial is made anew, and again for whoever comes after."""
    lean.trouble.cache_clear()
    yield
    lean.trouble.cache_clear()


def test_nothing_is_wrong_with_this_torch(untried):
    before = torch.random.get_rng_state()
    assert lean.trouble() is None
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ({"GeluBackward0": lambda node: node._saved_of_another_name}, "GELU.*AttributeError"),
        ({"SiluBackward0": lambda node: node._saved_self.sigmoid()}, "SiLU.*gradients differ"),
        ({"HardswishBackward0": None}, "Hardswish.*nothing is left out"),
    ],
)
def test_what_torch_renamed_switches_it_off_with_a_word(untried, kept, monkeypatch, kinds, said):
    for name, make in kinds.items():
        if make is None:
            monkeypatch.delitem(lean._ACTIVATIONS, name)
        else:
            monkeypatch.setitem(lean._ACTIVATIONS, name, make)
    with pytest.warns(UserWarning, match=f"takes more memory .*{said}"):
        assert lean.trouble() is not None
    kept.saved.clear()
    x = torch.randn(5, 8, dtype=torch.float64)
    plain = gradients(NETS["gelu"], x, leanly=False)
    assert same(gradients(NETS["gelu"], x, leanly=True), plain)
    assert kept.counts == (0, 0)  # autograd keeps all by itself


def test_a_norm_whose_node_changed_switches_it_off(untried, monkeypatch):
    monkeypatch.setattr(lean._Keeper, "_layer_norm", lambda keeper, node: node._saved_eps)
    with pytest.warns(UserWarning, match="LayerNorm.*AttributeError"):
        assert lean.trouble() is not None


def test_what_is_kept_is_counted_without_computing():
    net = nn.Sequential(nn.Linear(256, 128), nn.GELU(), nn.Linear(128, 8))
    # The input, what goes into the activation and what comes out of it, in float32.
    expected = 4 * 32 * (256 + 128 + 128)
    assert activations.kept_bytes(net, (32, 256)) == expected
    assert activations.worth(net, (32, 256), 2 * expected - 2)
    assert not activations.worth(net, (32, 256), 2 * expected)
    assert all(parameter.grad is None for parameter in net.parameters())


class Reads(nn.Module):
    """A layer that looks at values, which a model without any cannot."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_a_model_that_cannot_be_counted_trains_lean():
    assert activations.worth(nn.Sequential(nn.Linear(8, 8), Reads()), (2, 8), 1 << 60)


def test_counting_leaves_the_model_and_the_random_state_alone():
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
    net[1].eval()
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    assert activations.kept_bytes(net, (4, 8)) > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training and not net[1].training


@pytest.fixture
def chosen(monkeypatch):
    """For each training or timing, whether it was lean; `chosen(free)` sets the free memory."""
    made, context = [], activations.saving

    def saving(*arguments):
        found = context(*arguments)
        made.append(isinstance(found, Lean))
        return found

    def free(amount):
        made.clear()
        monkeypatch.setattr(activations, "free_bytes", lambda device: amount)
        return made

    monkeypatch.setattr(machine, "saving", saving)
    monkeypatch.setattr(timing, "saving", saving)
    return free


def test_memory_decides_where_nobody_does(chosen):
    net, cpu = nn.Sequential(nn.Linear(256, 128), nn.GELU(), nn.Linear(128, 8)), torch.device("cpu")
    need = 4 * 32 * (256 + 128 + 128)
    for wish, free, share, expected in (
        (None, 2 * need, 1, False),
        (None, 2 * need - 2, 1, True),
        (None, 4 * need - 4, 2, True),
        (True, 1 << 60, 1, True),
        (False, 0, 1, False),
    ):
        chosen(free)
        found = activations.saving(wish, net, (32, 256), cpu, share)
        assert isinstance(found, Lean) == expected


@pytest.mark.parametrize("wish", [None, True, False])
def test_a_training_is_lean_only_where_memory_is_short(chosen, tmp_path, wish):
    found, steps = [], replace(STEPS, total=2, lean=wish)
    for free, short in ((1 << 60, False), (0, True)):
        made = chosen(free)
        found.append(run(tmp_path / str(short), steps=steps, workers=0).model.state_dict())
        assert made == [short if wish is None else wish]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_candidates_are_timed_as_they_train(chosen):
    one = candidate(small().config, params=1, macs=10**6)
    for free, short in ((1 << 60, False), (0, True)):
        made = chosen(free)
        assert timing.training_rate(one, batch=8) > 0
        assert made == [short]


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ({"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    5 kB\n"}, 5 * 1024),
        ({"/proc/meminfo": "MemAvailable: 5 kB\n", "max": "4096\n", "current": "1024\n"}, 3072),
        ({"/proc/meminfo": "MemAvailable: 5 kB\n", "max": "max\n", "current": "9\n"}, 5 * 1024),
        ({"/proc/meminfo": "MemAvailable: 5 kB\n", "max": "9\n", "current": "99\n"}, 0),
        ({}, 0),
    ],
)
def test_free_memory_is_what_the_system_and_its_container_leave(monkeypatch, contents, expected):
    def text(path):
        return contents.get(path, contents.get(path.rpartition(".")[2], ""))

    monkeypatch.setattr(memory, "_read", text)
    assert memory.free_bytes(torch.device("cpu")) == expected
