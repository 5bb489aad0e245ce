"""Initialisations that papers name."""

from __future__ import annotations

from torch import nn


def trunc_normal_linear(module: nn.Module, std: float = 0.02) -> None:
    """Initialise linear weights from a truncated normal, biases with 0; other
    layers keep what they have.
    """
    for m in module.modules():
        if isinstance(m, nn.Linear):
            nn.init.trunc_normal_(m.weight, std=std)
            if m.bias is not None:
                nn.init.zeros_(m.bias)


def kaiming_conv(module: nn.Module) -> None:
    """Initialise convolutions He-normal by fan-out, their biases with 0, as ResNets do."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            if m.bias is not None:
                nn.init.zeros_(m.bias)
