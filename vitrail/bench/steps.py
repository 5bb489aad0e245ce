"""One call of each contestant: a forward pass, or a whole training step.

A peer trains as timm's script does by default (its AdamW groups and its average of weights);
vitrail as its own loop does: fused AdamW, average by foreach, cheap activations made again, and
the norm of the gradient, by which the loop sees faults. Both compute cross entropy of the same
images.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.bench.peers import logits
from vitrail.training.average import Average
from vitrail.training.lean import Lean
from vitrail.training.optimizer import AdamW, build

DECAY = 0.9999
Call = Callable[[], Any]


def forward(model: nn.Module, images: Tensor) -> Call:
    """Return a call that does inference of one batch."""
    model.eval()

    def call() -> None:
        with torch.inference_mode():
            model(images)
        wait(images.device)

    return call


def training(model: nn.Module, images: Tensor, labels: Tensor, *, bf16: bool = False) -> Call:
    """Return a call that does a training step of vitrail's loop."""
    optimizer, average = build(AdamW(), model), Average(model, DECAY)
    parameters, less = list(model.parameters()), Lean(model)

    def call() -> None:
        model.train()
        with _autocast(images.device, bf16), less():
            loss = _loss(model(images), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, float("inf"))
        optimizer.step()
        optimizer.zero_grad()
        average.update(0)
        wait(images.device)

    return call


def peer_training(model: nn.Module, images: Tensor, labels: Tensor, *, bf16: bool = False) -> Call:
    """Return a call that does a training step of timm's script on any library's model."""
    from timm.optim import create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage]
    from timm.utils import ModelEmaV3  # pyright: ignore[reportPrivateImportUsage]

    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
    average = ModelEmaV3(model, decay=DECAY)

    def call() -> None:
        model.train()
        with _autocast(images.device, bf16):
            loss = _loss(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update(model, step=1)
        wait(images.device)

    return call


def wait(device: torch.device) -> None:
    """Wait until an accelerator has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _loss(output: Any, labels: Tensor) -> Tensor:
    """Return the cross entropy, of the mean of both heads where a distilled model has two."""
    if isinstance(output, tuple):
        output = sum(output) / len(output)
    elif not isinstance(output, Tensor):
        output = logits(output)
    return nn.functional.cross_entropy(output.float(), labels)


def _autocast(device: torch.device, wanted: bool) -> contextlib.AbstractContextManager:
    return torch.autocast(device.type, torch.bfloat16) if wanted else contextlib.nullcontext()
