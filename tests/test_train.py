"""The loop: it learns, and stopping, killing, filling the disk or a bad batch cost nothing."""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
import random
import signal
import socket
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import toy
from torch import nn

from vitrail.data.batches import Batches
from vitrail.errors import CheckpointError, ConfigError, RunError
from vitrail.objectives.cross_entropy import CrossEntropyLoss
from vitrail.tasks.metrics import accuracy
from vitrail.training import snapshot
from vitrail.training.evaluate import predict
from vitrail.training.journal import Journal
from vitrail.training.learner import Learner
from vitrail.training.loop import Interrupted, Place, Plan, Steps, train
from vitrail.training.objective import Frozen, Objective, Second
from vitrail.training.optimizer import AdamW, Sgd
from vitrail.training.schedule import Schedule


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def last(folder) -> dict[str, torch.Tensor]:
    return load_file(sorted((folder / "checkpoint").glob("step-*.safetensors"))[-1])


# ---- learning --------------------------------------------------------------------------


DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.mps.is_available()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("optimizer", [AdamW(lr=1e-2), Sgd(lr=0.1)])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_learns(tmp_path, device, optimizer, precision):
    outcome = train(
        Learner(toy.net(), CrossEntropyLoss()),
        toy.batches(64),
        Plan(optimizer, Schedule(5, 5), Steps(120, 64, ema=0.9, precision=precision)),
        Place(tmp_path, device=device),
    )
    data = toy.batches(50, shuffle=False, drop_last=False)
    logits, labels = predict(outcome.best, data, device=device)
    assert outcome.step == 120
    assert next(outcome.model.parameters()).device.type == device
    assert outcome.samples_per_s > 0
    assert outcome.best is outcome.ema_model and not outcome.ema_model.training
    assert torch.equal(labels, torch.from_numpy(toy.pixels().labels))
    assert accuracy(logits, labels).value > 0.9


def test_accumulation_is_the_same_step(tmp_path):
    """Two micro-batches of 16 make the gradient of their 32 images."""
    whole = toy.batches(32, augment=None)

    class Halves:
        seed, batch, steps_per_epoch = whole.seed, 16, 2 * whole.steps_per_epoch

        def iterate(self, step, *, stop, workers=0, rank=0, world=1):
            for at in range(step, stop):
                epoch, number = divmod(at // 2, whole.steps_per_epoch)
                yield whole.get(epoch, number, rank=at % 2, world=2)

    outcomes = [
        train(
            Learner(toy.net(plain=True), CrossEntropyLoss()),
            data,
            Plan(Sgd(lr=0.1), Schedule(0, 8), Steps(8, 32, accumulate=parts, clip=0.5)),
            Place(tmp_path / str(parts), device="cpu"),
        )
        for data, parts in ((whole, 1), (Halves(), 2))
    ]
    for one, other in zip(*(o.model.parameters() for o in outcomes), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_an_average_may_follow_less_often(tmp_path):
    """Once in five steps: the one after ten has seen two, with the weights of a young average."""
    seen = []
    plan = Plan(Sgd(lr=0.1), Schedule(0, 10), Steps(10, 32, ema=0.9, ema_every=5))
    for until in (5, 10):
        learner = Learner(toy.net(plain=True), CrossEntropyLoss())
        start = learner.model.stem.bias.detach().clone()
        place = Place(tmp_path / str(until), device="cpu", until=until)
        outcome = train(learner, toy.batches(32), plan, place)
        seen.append((outcome.model.stem.bias.detach(), outcome.ema_model.stem.bias))
    average = start
    for number, (weights, _) in enumerate(seen):
        decay = min(0.9, (1 + number) / (10 + number))
        average = decay * average + (1 - decay) * weights
        torch.testing.assert_close(seen[number][1], average)


def test_average_follows_the_weights(tmp_path):
    seen = []

    class Watch(CrossEntropyLoss):
        def after_step(self, model, step):
            seen.append(model.head.weight.detach().clone())

    start = toy.net().head.weight.detach().clone()
    outcome = train(
        Learner(toy.net(), Watch()),
        toy.batches(32),
        Plan(AdamW(), Schedule(0, 0), Steps(5, 32, ema=0.3)),
        Place(tmp_path, device="cpu"),
    )
    expected = start
    for step, weight in enumerate(seen):
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(outcome.ema_model.head.weight, expected)
    assert outcome.ema_model.norm.num_batches_tracked == 5


def test_methods_and_callback_hear_every_step(tmp_path):
    heard, told = [], []

    class Method:
        def before_step(self, model, step):
            heard.append((step.number, step.total, step.epoch))

    toy.run(tmp_path, methods=[Method()], on_step=lambda *now: told.append(now))
    assert [number for number, _, _ in heard] == list(range(24))
    assert heard[16] == (16, 24, 1.0)
    assert [step for step, *_ in told] == list(range(1, 25))
    assert told[0][2] == pytest.approx(3e-3 / 4)


def test_journal_tells_the_curve_once(tmp_path):
    toy.run(tmp_path, until=11)
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.write(11, val_score=0.5)
    journal.write(19, loss=9.0)
    with open(journal.path, "a") as file:
        file.write('{"step": 20, "lo')
    toy.run(tmp_path, resume=True)
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == list(range(1, 25))
    assert all(line["loss"] < 9 for line in lines if "loss" in line)
    assert journal.read()[10]["val_score"] == 0.5 and "loss" in journal.read()[10]
    assert lines[-1].keys() == {"step", "epoch", "loss", "lr", "samples_per_s"}


# ---- the objective's own weights -------------------------------------------------------


class Projected(Objective):
    """A loss through a projection head of its own, with a teacher that never moves."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(4, 4)
        self.teacher = Frozen(toy.net(seed=5))
        self.register_buffer("centre", torch.zeros(4))

    def forward(self, model, batch, step):
        outputs = self.project(model(batch.images))
        wish = self.teacher(batch.images).softmax(1)
        self.centre.lerp_(outputs.detach().mean(0), 0.1)
        loss = nn.functional.cross_entropy(outputs, wish)
        return {"loss": loss, "spread": outputs.std(), "agreement": (outputs * wish).sum(1).mean()}


def projected(folder, *, until=None, resume=False, objective=None):
    torch.manual_seed(1)
    learner = Learner(toy.net(), objective or Projected())
    outcome = train(
        learner,
        toy.batches(32, augment=toy.AUGMENT),
        Plan(AdamW(lr=1e-2, layer_decay=0.9), Schedule(), Steps(12, 32)),
        Place(
            folder,
            journal=Journal(folder / "metrics.jsonl"),
            device="cpu",
            until=until,
            resume=resume,
        ),
    )
    return learner, outcome


def test_an_objective_s_own_weights_learn_and_its_teacher_stays(tmp_path):
    torch.manual_seed(1)
    toy.net()
    before = Projected()
    learner, _ = projected(tmp_path)
    after = learner.objective
    assert not torch.equal(before.project.weight, after.project.weight)
    assert same(before.teacher.inner, after.teacher.inner)
    assert not after.teacher.inner.training
    tensors = last(tmp_path)
    assert {"objective.project.weight", "objective.centre"} <= tensors.keys()
    assert "optimizer.exp_avg.objective/project.weight" in tensors
    assert not [name for name in tensors if "teacher" in name]


def test_the_journal_keeps_every_term(tmp_path):
    projected(tmp_path)
    for line in Journal(tmp_path / "metrics.jsonl").read():
        assert {"loss", "lr", "spread", "agreement"} <= line.keys()
        assert math.isfinite(line["spread"])


def test_an_objective_s_weights_resume_bit_by_bit(tmp_path):
    whole, _ = projected(tmp_path / "whole")
    projected(tmp_path / "parts", until=7)
    parts, _ = projected(tmp_path / "parts", resume=True)
    assert same(whole.objective, parts.objective)
    assert same(whole.model, parts.model)


def test_what_is_frozen_stays_in_eval_mode():
    net = toy.net()
    net.norm.requires_grad_(False)
    Learner(net, Projected()).train()
    assert not net.norm.training and net.dropout.training and net.training


class Adversary(Objective):
    """A second optimizer moves a shift of the logits against the model."""

    two = Second(Sgd(lr=0.5, momentum=0.0, nesterov=False), ("objective.shift",), every=2)

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(4))
        self.seen = []

    def forward(self, model, batch, step):
        logits = model(batch.images) + self.shift.detach()
        return {"loss": nn.functional.cross_entropy(logits, batch.targets)}

    def second(self, model, batch, step):
        self.seen.append((step.number, batch.indices.tolist()))
        logits = model(batch.images).detach() + self.shift
        return {"loss": -nn.functional.cross_entropy(logits, batch.targets)}


def adversarial(folder, **more):
    learner = Learner(toy.net(plain=True), Adversary())
    data = toy.batches(32)
    other = Batches(toy.pixels(), batch=32, seed=11, mean=(0.3,), std=(0.2,))
    plan = Plan(AdamW(), Schedule(), Steps(6, 32))
    train(learner, data, plan, Place(folder, device="cpu", **more), other)
    return learner, other


def test_a_second_optimizer_has_its_own_weights_and_images(tmp_path):
    learner, other = adversarial(tmp_path)
    assert learner.objective.shift.abs().max() > 0
    assert [number for number, _ in learner.objective.seen] == [0, 2, 4]
    expected = [other.get(0, number).indices.tolist() for number in range(3)]
    assert [indices for _, indices in learner.objective.seen] == expected
    assert not [
        name for name in last(tmp_path) if name.startswith("optimizer.") and "shift" in name
    ]
    adversarial(tmp_path / "parts", until=3)
    parts, _ = adversarial(tmp_path / "parts", resume=True)
    assert torch.equal(parts.objective.shift, learner.objective.shift)
    assert same(parts.model, learner.model)


def test_a_second_optimizer_needs_a_second_stream(tmp_path):
    with pytest.raises(ConfigError, match="give a second stream of batches"):
        train(
            Learner(toy.net(), Adversary()),
            toy.batches(32),
            Plan(AdamW(), Schedule(), Steps(6, 32)),
            Place(tmp_path, device="cpu"),
        )


def test_a_batch_norm_of_one_value_is_one_sentence(tmp_path):
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(144, 4), nn.BatchNorm1d(4))

        def forward(self, image):
            return self.body(image)

    with pytest.raises(ConfigError, match=r"a BatchNorm .* give a larger steps.batch"):
        train(
            Learner(Flat(), CrossEntropyLoss()),
            toy.batches(1),
            Plan(AdamW(), Schedule(), Steps(2, 1)),
            Place(tmp_path, device="cpu"),
        )


# ---- going on --------------------------------------------------------------------------


def test_resumed_is_bit_identical(tmp_path):
    whole = toy.run(tmp_path / "whole")
    for until in (5, 6, 17, 24):
        parts = toy.run(tmp_path / "parts", until=until, resume=True, workers=2)
        assert parts.step == until
    assert same(whole.model, parts.model)
    assert same(whole.ema_model, parts.ema_model)
    assert parts.loss == whole.loss
    assert len(list((tmp_path / "parts/checkpoint").iterdir())) == 2


def test_nothing_left_to_do(tmp_path):
    whole = toy.run(tmp_path)
    again = toy.run(tmp_path, resume=True)
    assert again.step == 24 and again.loss == whole.loss
    assert same(again.ema_model, whole.ema_model)


def test_killed_at_any_moment_ends_bit_identical(tmp_path):
    """SIGKILL at random moments of one epoch, with everything random switched on."""
    steps = toy.changed(total=32, batch=16, save_s=0.0)
    whole = toy.run(tmp_path / "whole", steps=steps)
    folder, kills, told = tmp_path / "killed", 0, 0
    for target in (3, 9, 14, 22, 27, 99):
        receive, send = multiprocessing.Pipe(duplex=False)
        process = toy.child(toy.train_slowly, folder, steps, send)
        send.close()
        before, told = told, receive.recv()
        assert told == "done" or told >= before, "a step that was saved is done again"
        while told != "done" and told < target:
            told = receive.recv()
        if told == "done":
            break
        time.sleep(random.random() * 0.04)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    process.join()
    assert told == "done" and kills >= 3
    model = {k.removeprefix("model."): v for k, v in last(folder).items() if k.startswith("model.")}
    average = {k.removeprefix("ema."): v for k, v in last(folder).items() if k.startswith("ema.")}
    assert all(torch.equal(v, model[k]) for k, v in whole.model.state_dict().items())
    assert all(torch.equal(v, average[k]) for k, v in whole.ema_model.state_dict().items())
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 33))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_says_how_to_go_on(tmp_path, number):
    """In a process of its own: one in which OpenVINO has computed dies of a signal that Python
    handles, and other tests may have asked it to."""
    alone = toy.child(stopped, tmp_path, number)
    alone.join()
    assert alone.exitcode == 0


def stopped(folder, number):
    whole = toy.run(folder / "whole")

    def after_seven(step, *_):
        if step == 7:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=r"after step 8 of 24.*--resume"):
        toy.run(folder / "stopped", on_step=after_seven)
    assert signal.getsignal(number) is before
    assert snapshot.newest(folder / "stopped/checkpoint").state["step"] == 8
    assert same(toy.run(folder / "stopped", resume=True).ema_model, whole.ema_model)


def test_shorter_plan_goes_on_as_a_longer_one(tmp_path):
    """Before `hold`, what was trained does not depend on the total."""
    outcomes = []
    for name, rungs in (("race", (12, 24)), ("full", (24,))):
        for total in rungs:
            outcome = train(
                Learner(toy.net(), CrossEntropyLoss()),
                toy.batches(32, augment=toy.AUGMENT),
                Plan(AdamW(), Schedule(3, 12), Steps(total, 32)),
                Place(tmp_path / name, device="cpu", resume=True),
            )
        outcomes.append(outcome)
    assert same(outcomes[0].model, outcomes[1].model)


def test_snapshots_in_the_way(tmp_path):
    toy.run(tmp_path, until=2)
    with pytest.raises(RunError, match="snapshots of an earlier training"):
        toy.run(tmp_path)


def test_other_settings_are_refused(tmp_path):
    toy.run(tmp_path, until=2)
    with pytest.raises(CheckpointError, match=r"batch=32, now 64"):
        toy.run(tmp_path, steps=toy.changed(batch=64), resume=True)


def test_whatever_identifies_a_training_is_compared_field_by_field(tmp_path):
    def go(identity, **more):
        plan = Plan(AdamW(), Schedule(), Steps(4, 32), identity=identity)
        place = Place(tmp_path, device="cpu", **more)
        return train(Learner(toy.net(), CrossEntropyLoss()), toy.batches(32), plan, place)

    go({"data": {"digest": "abc", "mean": (0.3, 0.2)}}, until=2)
    go({"data": {"digest": "abc", "mean": (0.3, 0.2)}}, until=3, resume=True)
    with pytest.raises(CheckpointError, match=r"data.digest='abc', now 'abd'; data.mean="):
        go({"data": {"digest": "abd", "mean": (0.3, 0.4)}}, resume=True)


# ---- snapshots -------------------------------------------------------------------------


def test_damaged_snapshot_falls_back(tmp_path):
    whole = toy.run(tmp_path / "whole")
    for damage in ("torn", "flipped", "empty"):
        folder = tmp_path / damage
        toy.run(folder, until=5)
        toy.run(folder, until=9, resume=True)
        path = folder / "checkpoint/step-000000009.safetensors"
        content = bytearray(path.read_bytes())
        if damage == "flipped":
            content[-1000] ^= 1
        path.write_bytes(content[: {"torn": 5000, "flipped": None, "empty": 0}[damage]])
        with pytest.warns(UserWarning, match="damaged"):
            outcome = toy.run(folder, resume=True)
        assert same(outcome.ema_model, whole.ema_model)


def test_all_snapshots_damaged(tmp_path):
    toy.run(tmp_path, until=5)
    for path in (tmp_path / "checkpoint").iterdir():
        path.write_bytes(b"nothing")
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match="none of the 2 snapshots"):
        toy.run(tmp_path, resume=True)


@pytest.mark.parametrize("failing", ["save_file", "replace"])
def test_full_disk_keeps_the_snapshot_before(tmp_path, monkeypatch, failing):
    whole = toy.run(tmp_path / "whole")
    folder = tmp_path / "full"
    toy.run(folder, until=8)

    def full(source, target, **_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        place = snapshot if failing == "save_file" else os
        patch.setattr(place, failing, full)
        if failing == "replace":
            patch.setattr(Journal, "truncate", lambda *_: None)
        with pytest.raises(RunError, match=r"No space left on device.*--resume") as caught:
            toy.run(folder, until=16, resume=True)
    assert "\n" not in str(caught.value)
    assert snapshot.newest(folder / "checkpoint").state["step"] == 8
    assert len(list((folder / "checkpoint").iterdir())) == 2
    assert same(toy.run(folder, resume=True).ema_model, whole.ema_model)


def test_really_full_disk(tmp_path):
    """A file-size limit makes the kernel itself refuse the write."""
    toy.run(tmp_path, until=4)
    receive, send = multiprocessing.Pipe(duplex=False)
    process = toy.child(toy.train_with_full_disk, tmp_path, send)
    send.close()
    assert "cannot be written" in receive.recv()
    process.join()
    assert snapshot.newest(tmp_path / "checkpoint").state["step"] == 4
    assert len(list((tmp_path / "checkpoint").iterdir())) == 2


def test_strict_loading_lists_what_differs(tmp_path):
    toy.run(tmp_path, until=3)
    path = sorted((tmp_path / "checkpoint").iterdir())[-1]
    good = snapshot.read(path)
    changes = {
        "missing": ("ema.head.bias", "optimizer.exp_avg_sq.head.weight"),
        "unexpected": ("model.neck.weight", "optimizer.exp_avg.neck.weight"),
        "misshaped": ("model.head.weight", "optimizer.exp_avg.stem.weight"),
    }
    for kind, names in changes.items():
        for name in names:
            tensors = dict(good.tensors)
            if kind == "missing":
                del tensors[name]
            else:
                tensors[name] = torch.zeros(7, 7)
            snapshot.write(path.parent, tensors, good.state)
            with pytest.raises(CheckpointError, match=rf"1 {kind} \({name}"):
                toy.run(tmp_path, resume=True)


def test_snapshot_holds_tied_and_strided_tensors(tmp_path):
    base = torch.arange(24.0).reshape(2, 3, 4)
    tensors = {
        "whole": base,
        "same": base,
        "part": base[1],
        "turned": base.permute(2, 0, 1),
        "scalar": torch.tensor(3),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "none": torch.zeros(0, 2),
    }
    found = snapshot.read(snapshot.write(tmp_path, tensors, {"step": 1}))
    assert found.state["step"] == 1
    assert found.tensors.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found.tensors[name].dtype == value.dtype
        assert torch.equal(found.tensors[name], value)


# ---- a loss that is not finite ---------------------------------------------------------


class Poisoned(CrossEntropyLoss):
    """A loss that is infinite in one step, for the first `times` times, or while rates are full."""

    def __init__(self, at: int, times: int) -> None:
        super().__init__()
        self.at, self.times, self.calls = at, times, []

    def forward(self, model, batch, step):
        loss = super().forward(model, batch, step)["loss"]
        if step.number == self.at and len(self.calls) < self.times:
            self.calls.append(batch.indices.tolist())
            loss = loss * math.inf
        return {"loss": loss}


def poisoned(folder, objective, rates, **more):
    return train(
        Learner(toy.net(), objective),
        toy.batches(16),
        Plan(AdamW(), Schedule(0, 20), Steps(20, 16)),
        Place(
            folder,
            journal=Journal(folder / "metrics.jsonl"),
            device="cpu",
            on_step=lambda step, loss, lr, speed: rates.append((step, lr)),
            **more,
        ),
    )


def test_not_finite_once_goes_back_with_half_the_rate(tmp_path):
    rates, objective = [], Poisoned(12, 1)
    poisoned(tmp_path, objective, rates, until=10)
    with pytest.warns(UserWarning, match=r"in step 13 \(epoch 0, batch 12, samples"):
        outcome = poisoned(tmp_path, objective, rates, resume=True)
    assert outcome.step == 20 and math.isfinite(outcome.loss)
    assert [step for step, _ in rates] == [*range(1, 13), *range(11, 21)]
    assert [lr for _, lr in rates[:12]] == [1e-3] * 12
    assert [lr for _, lr in rates[12:]] == [5e-4] * 10
    assert all(p.isfinite().all() for p in outcome.model.state_dict().values())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    (fault,) = (line for line in lines if "fault" in line)
    assert fault["step"] == 10 and fault["samples"] == objective.calls[0]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 21))


def test_half_the_rate_outlives_a_stop(tmp_path):
    rates = []
    with pytest.warns(UserWarning, match="back to step 0"):
        poisoned(tmp_path, Poisoned(3, 1), rates, until=8)
    poisoned(tmp_path, Poisoned(3, 0), rates, until=12, resume=True)
    assert {lr for step, lr in rates if step > 8} == {5e-4}
    with pytest.raises(RunError, match=r"in step 15 .* second time"):
        poisoned(tmp_path, Poisoned(14, 1), rates, resume=True)


def test_not_finite_twice_gives_up(tmp_path):
    objective = Poisoned(5, 9)
    with pytest.warns(UserWarning), pytest.raises(RunError) as caught:
        poisoned(tmp_path, objective, [])
    message = str(caught.value)
    assert "in step 6 (epoch 0, batch 5, samples" in message and "second time" in message
    assert str(objective.calls[0][0]) in message
    assert len(objective.calls) == 2
    kept = snapshot.newest(tmp_path / "checkpoint")
    assert kept.state["step"] == 0 and all(v.isfinite().all() for v in kept.tensors.values())


def test_gradient_that_is_not_finite(tmp_path):
    class Steep(CrossEntropyLoss):
        def forward(self, model, batch, step):
            loss = super().forward(model, batch, step)["loss"]
            at_zero = (model.head.weight - model.head.weight).sum()
            return {"loss": loss + at_zero.sqrt() if step.number == 3 else loss}

    with pytest.warns(UserWarning), pytest.raises(RunError, match=r"the gradient is nan in step 4"):
        poisoned(tmp_path, Steep(), [])


# ---- several processes -----------------------------------------------------------------


def test_two_processes_are_one(tmp_path):
    """Same loss curve within 1e-4, stopped and resumed half-way; 101 samples counted once each."""
    steps = toy.changed(total=40)
    found = {}
    for world in (1, 2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        pipes = [multiprocessing.Pipe(duplex=False) for _ in range(world)]
        processes = []
        for rank, (_, send) in enumerate(pipes):
            arguments = (rank, world, port, tmp_path / str(world), steps, send)
            processes.append(toy.child(toy.train_together, *arguments))
            send.close()
        found[world] = [receive.recv() for receive, _ in pipes]
        for process in processes:
            process.join()
            assert process.exitcode == 0
    ((said, losses, logits, labels),) = found[1]
    first, second = found[2]
    assert "by SIGTERM after step 20 of 40" in said and "by SIGTERM after step 20" in first[0]
    assert "by a signal to another process after step 20" in second[0]
    assert len(losses) == len(first[1]) == 40 and second[1] == []
    np.testing.assert_allclose(first[1], losses, atol=1e-4)
    assert losses[-1] < losses[0] - 0.1
    for _, _, theirs, truth in (first, second):
        assert theirs.shape == logits.shape == (101, 4)
        np.testing.assert_array_equal(truth, labels)
        np.testing.assert_allclose(theirs, logits, atol=1e-3)
    np.testing.assert_array_equal(labels, toy.pixels(101).labels)


# ---- evaluation and settings -----------------------------------------------------------


def test_evaluation_is_of_each_sample_once_in_order():
    model = toy.net().train()
    data = toy.batches(7, n=30, shuffle=False, drop_last=False)
    logits, labels = predict(model, data, device="cpu", workers=1)
    assert model.training
    model.eval()
    images = torch.cat([data.get(0, n).images for n in range(5)])
    torch.testing.assert_close(logits, model(images).detach())
    assert torch.equal(labels, torch.from_numpy(toy.pixels(30).labels))
    shuffled = toy.batches(7, n=30, drop_last=False)
    assert torch.allclose(predict(model, shuffled, device="cpu")[0], logits, atol=1e-6)

    class Twice(Batches):
        def iterate(self, step=0, *, stop, workers=0, rank=0, world=1):
            return iter([self.get(0, 0), self.get(0, 1), self.get(0, 1)])

    parts = {"batch": 10, "mean": (0.3,), "std": (0.2,)}
    for wrong in (toy.batches(7, n=30), Twice(toy.pixels(30), **parts, shuffle=False)):
        with pytest.raises(RunError, match="did not see each of them once"):
            predict(model, wrong, device="cpu")


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"batch": 33}, "does not divide into 2 parts"),
        ({"total": 0}, "must each be 1 or more"),
        ({"precision": "16"}, "give one of 32-true"),
        ({"ema": 1.0}, r"ema 1.0 is not in"),
        ({"clip": 0.0}, "clip 0.0 is not above 0"),
    ],
)
def test_impossible_steps(changes, said):
    with pytest.raises(ConfigError, match=said):
        toy.changed(**changes)


def test_impossible_trainings(tmp_path):
    with pytest.raises(ConfigError, match="give auto, cpu, cuda"):
        toy.run(tmp_path, device="toaster")
    with pytest.raises(ConfigError, match="'cuda:99' is not available on this machine"):
        toy.run(tmp_path, device="cuda:99")
    with pytest.raises(ConfigError, match="make batches of 32"):
        train(
            Learner(toy.net(), CrossEntropyLoss()),
            toy.batches(16),
            Plan(AdamW(), Schedule(0, 0), Steps(4, 64, accumulate=2)),
            Place(tmp_path, device="cpu"),
        )
