"""How weights differ from what a model expects, and giving them to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vitrail.errors import CheckpointError


class Mismatch(NamedTuple):
    """How a state differs from what a model expects; all empty when it fits."""

    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]

    def __bool__(self) -> bool:
        return any(self)

    @property
    def size(self) -> int:
        return sum(map(len, self))

    def describe(self) -> str:
        """Return one line: counts and the first names of each kind."""
        told = zip(self._fields, map(list, map(dict.fromkeys, self)), strict=True)
        return "; ".join(f"{len(names)} {kind} ({_some(names)})" for kind, names in told if names)


def _some(names: Sequence[str]) -> str:
    """Return the first three names, none of them endless."""
    shown = (name if len(name) <= 120 else f"{name[:117]}..." for name in names[:3])
    return f"{', '.join(shown)}{', ...' if len(names) > 3 else ''}"


def compare(state: Mapping[str, Tensor], model: nn.Module) -> Mismatch:
    """Return what a renamed state lacks, has too much of, or has in another shape.

    A BatchNorm's batch counter may be absent: it plays no part in what a model computes.
    """
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    missing = [k for k in expected if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in expected]
    misshaped = [
        f"{k} {tuple(state[k].shape)} for {shape}"
        for k, shape in expected.items()
        if k in state and tuple(state[k].shape) != shape
    ]
    return Mismatch(missing, unexpected, misshaped)


def assign(model: nn.Module, state: Mapping[str, Tensor], *, dtype: torch.dtype) -> None:
    """Give a model, also one on meta, every tensor of `state`; CheckpointError unless it fits.

    Floating-point entries become `dtype`. Tensors are copied, never shared with `state`. Values
    that are not finite, or not of the kind that the model has, do not fit.
    """
    if mismatch := compare(state, model):
        raise CheckpointError(f"the checkpoint does not fit the model: {mismatch.describe()}")
    expected = model.state_dict()
    require_values(state, expected)
    full = {
        k: v.detach().to(dtype if v.is_floating_point() else v.dtype, copy=True).contiguous()
        for k, v in state.items()
    }
    for name, value in expected.items():
        if name not in full:
            full[name] = torch.zeros(value.shape, dtype=value.dtype)
    trainable = {n: p.requires_grad for n, p in model.named_parameters()}
    model.load_state_dict(full, strict=True, assign=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trainable[name])


def require_values(
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    origins: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Raise CheckpointError unless the entries that `expected` has as real numbers are such, and
    finite.

    Whole numbers in place of real ones are codes of quantised weights. `origins` are the names
    of the file for ours.
    """
    for name, value in state.items():
        if name not in expected or not expected[name].is_floating_point():
            continue
        said = (origins or {}).get(name, [name])[0][:120]
        if not value.is_floating_point() or value.is_meta:
            kind = "without values" if value.is_meta else str(value.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{said} is {kind}: expected real numbers; a quantised checkpoint does not fit"
            )
        if not _finite(value):
            raise CheckpointError(
                f"{said} holds values that are not finite (NaN or infinity): the training that "
                "wrote the checkpoint has diverged; take an earlier one"
            )


def _finite(value: Tensor) -> bool:
    # Of the smallest types PyTorch has no sum; a sum is one pass, isfinite several.
    if value.dtype.itemsize < 2:
        value = value.float()
    total = value.sum(dtype=torch.float64)
    return bool(total.isfinite() or value.isfinite().all())
