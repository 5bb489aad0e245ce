"""The names that HorNet's authors give to its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def _names(config: Any) -> list:
    def flat(value: Tensor) -> Tensor:
        return value.reshape(value.shape[:2])  # 1x1 convolutions are linear layers here

    def cut(first: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        return lambda v: (flat(v[:first]), flat(v[first:]))

    return [
        ("stages.{i}.", "stages.{i}.blocks."),
        ("downsample_layers.0.", "stem."),
        ("downsample_layers.{i}.", "stages.{i}.down."),
        *[
            (
                f"stages.{i}.blocks.{{j}}.gnconv.proj_in.{leaf}",
                tuple(f"stages.{i}.blocks.{{j}}.mixer.{part}.{leaf}" for part in ("gate", "rest")),
                cut(config.dim * 2**i // 2 ** (order - 1)),
            )
            for i, order in enumerate(config.orders)
            for leaf in ("weight", "bias")
        ],
        (
            ".dwconv.complex_weight",
            ".dwconv.wide.table",
            lambda v: v.permute(1, 2, 0, 3).flatten(2),
        ),
        (".gnconv.dwconv.dw.", ".mixer.filter.local."),
        (".gnconv.dwconv.", ".mixer.filter."),
        (".gnconv.pws.", ".mixer.gates.", flat),
        (".gnconv.proj_out.", ".mixer.proj.", flat),
        (".pwconv1.", ".ffn.fc1."),
        (".pwconv2.", ".ffn.fc2."),
        (".gamma1", ".scale1.gamma"),
        (".gamma2", ".scale2.gamma"),
        ("norm.", "pool.1."),
    ]


TABLES = {"raoyongming/HorNet": _names}
