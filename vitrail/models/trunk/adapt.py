"""Weights and their config: what sizes they are for, and how they move to others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.errors import CheckpointError


def shared_out(kernel: Tensor, channels: int) -> Tensor:
    """Share a stem's kernel (C', C, ...) out among another number of channels, (C', channels, ...).

    Fewer channels take the sums of the old ones in turn: a single one takes the sum of all.
    More repeat the old ones in turn, each copy its share of the weight. Either way an image
    whose channels are all equal gives what it gave before.
    """
    have = kernel.shape[1]
    if channels <= have:
        return torch.stack([kernel[:, j::channels].sum(1) for j in range(channels)], 1)
    turn = torch.arange(channels) % have
    copies = turn.bincount(minlength=have)[turn]
    return kernel[:, turn] / copies.to(kernel).view(-1, *[1] * (kernel.ndim - 2))


def rechannelled(
    state: Mapping[str, Tensor], old: nn.Module, new: nn.Module, channels: tuple[int, int]
) -> dict[str, Tensor]:
    """Return `state` of the model `old` for the model `new`, which differs in `channels` (from,
    to).

    Raises CheckpointError where more than convolutions of the image depends on channels.
    """
    moved, shapes = dict(state), {k: v.shape for k, v in new.state_dict().items()}
    for name, value in old.state_dict().items():
        if value.shape == shapes[name]:
            continue
        expected = (value.shape[0], channels[1], *value.shape[2:])
        if value.ndim < 4 or value.shape[1] != channels[0] or shapes[name] != expected:
            raise CheckpointError(
                f"{name} is {tuple(value.shape)} for {channels[0]} channels and "
                f"{tuple(shapes[name])} for {channels[1]}: it cannot be adapted; convert the "
                f"images to {channels[0]} channels"
            )
        moved[name] = shared_out(state[name], channels[1])
    return moved


def laid_out(model: Any) -> Any:
    """Lay the kernels of images channels last in memory as their maps are: it spares a reorder a
    call. Those of clips have their own format, which oneDNN chooses.
    """
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model
