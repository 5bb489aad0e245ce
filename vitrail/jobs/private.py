"""`vitrail private RUN image.jpg`: an answer that two parties compute on secrets.

image -> patches, the client's; weights -> arrays, the server's -> both on an engine for secure
computation, as processes that talk over the loopback -> the answer to the client -> beside the
plain one, and beside what was predicted
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.config import nearest
from vitrail.data.decode import BrokenImage, decode, read_file
from vitrail.data.labels import Labels
from vitrail.errors import ConfigError, DataError
from vitrail.layers.switches import counts, switches
from vitrail.methods import PriViT
from vitrail.methods.private_cost import LAN, Network, Operations, operations
from vitrail.private.environment import python
from vitrail.private.meeting import Met, meet
from vitrail.private.plan import plan
from vitrail.report.private import PrivateFacts
from vitrail.run.folder import RunFolder
from vitrail.units import seconds

Weights = Literal["shared", "public"]
Protocol = Literal["semi2k", "cheetah"]


def private(
    run: str | os.PathLike,
    image: str | os.PathLike,
    *,
    weights: str = "shared",
    protocol: str = "semi2k",
    network: Network = LAN,
    shown: bool = False,
) -> PrivateFacts:
    """Answer for an image that only a client sees, with weights that only a server has.

    `weights` are "shared", or "public" where both may know them, which is cheaper; `protocol` is
    "semi2k" or "cheetah" of the engine SPU; `network` is what the prediction is for; with `shown`
    one sees that it waits. Raises ConfigError for a run that is not a ViT or DeiT of one class an
    image, DataError for an image that cannot be read, RunError for a missing engine and where a
    party dies.

    Examples:
        >>> found = private("run", "cat.jpg")
        >>> found.ranked[0][0], found.measured["messages"]
        ('cat', 1876)
    """
    _require_known("--weights", weights, get_args(Weights))
    _require_known("--protocol", protocol, get_args(Protocol))
    model, labels = _opened(run)
    planned = plan(model)
    python()
    seen = _image(image, labels)
    with _waiting(shown):
        met = meet(planned, planned.patches(seen), weights=weights, protocol=protocol)
    with torch.no_grad():
        plain = model(seen[None])[0].double().numpy()
    switched, dear = _switched(model)
    return PrivateFacts(
        image=str(image),
        run=str(run),
        ranked=_ranked(met.logits, labels),
        plain=_ranked(plain, labels),
        off=float(np.abs(met.logits - plain).max()),
        largest=float(np.abs(plain).max()),
        weights=weights,
        protocol=protocol,
        gelus=(dear[0], _all(switched)[0]),
        softmaxes=(dear[1], _all(switched)[1]),
        measured=_measured(met),
        predicted=_predicted(operations(switched, weights), network),
        shared_bytes=met.shared_bytes,
        start_s=met.start_s,
        kinds=[(k.name, k.calls, k.seconds, k.bytes, k.messages) for k in met.kinds],
        network=f"{8 * network.bandwidth / 1e6:.4g} Mbit/s and {seconds(network.round_trip)}",
    )


def _opened(run: str | os.PathLike) -> tuple[nn.Module, Labels]:
    """Return a run's model and labels. Raises ConfigError where they are not classes of images."""
    model, _, labels = RunFolder.open(run).load_model()
    if labels.maps or labels.several:
        raise ConfigError(f"{run} does not tell one class of an image: give a run that does")
    return model, labels


def _require_known(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"{option} {value!r} is unknown: {nearest(value, known)}")


def _waiting(shown: bool) -> AbstractContextManager[Any]:
    """Show, while two parties compute, that they do."""
    if not shown:
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status("two parties compute on secrets")


def _switched(model: nn.Module) -> tuple[nn.Module, tuple[int, int]]:
    """Return a model with its switches, which are all on where it has none, and what is on."""
    if not all(switches(model)):
        model = PriViT().apply(deepcopy(model))
    return model, counts(model)


def _all(model: nn.Module) -> tuple[int, int]:
    """Return how many switches of GELUs and of softmaxes a model has."""
    gelus, softmaxes = (sum(one.numel() for one in kind) for kind in switches(model))
    return gelus, softmaxes


def _ranked(logits: np.ndarray, labels: Labels) -> list[tuple[str, float]]:
    """Return all classes with their probabilities, likeliest first."""
    found = labels.probabilities(torch.from_numpy(logits)).tolist()
    return sorted(zip(labels.classes, found, strict=True), key=lambda pair: -pair[1])


def _measured(met: Met) -> dict[str, float]:
    return {
        "bytes": met.bytes, "messages": met.messages, "processor_s": met.processor_s,
        "wall_s": met.run_s,
    }  # fmt: skip


def _predicted(found: Operations, network: Network) -> dict[str, float]:
    return {
        "bytes": found.bytes, "messages": found.messages, "processor_s": found.compute_s,
        "wall_s": found.latency_s(network),
    }  # fmt: skip


def _image(image: str | os.PathLike, labels: Labels) -> Tensor:
    """Return an image as the model takes it (C, H, W). Raises DataError."""
    try:
        pixels = decode(read_file(Path(image)), labels.image, labels.channels)
    except (BrokenImage, OSError) as error:
        raise DataError(f"{image} cannot be read: {error}") from error
    return labels.normalised(pixels[None])[0]
