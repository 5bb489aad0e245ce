"""What a transformer costs under secure computation: operations by kind, and seconds predicted.

Two parties hold shares of every number; linear layers are cheap, exponentials, divisions and
comparisons are what they talk about. The table is for one engine and protocol, SPU 0.9.5 with
SEMI2K, ring 64, measured with both parties on one busy machine of two cores: bytes and messages are
exact, seconds of the processor indicative. Messages of an operation do not grow with its size, so
that a layer's rows are asked for at once. Dhyani et al., "PriViT", TMLR 2024, arXiv 2310.04604.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from vitrail.errors import ConfigError
from vitrail.layers.switches import THRESHOLD, SwitchedAttention, SwitchedMlp

Kind = Literal["softmax", "square", "gelu", "relu", "norm", "linear", "product"]


@dataclass(frozen=True)
class Cost:
    """Tells what one call of an operation on `of` numbers takes, or on so many multiply-adds.

    That is seconds of both parties' processors, bytes sent, and messages whatever the size."""

    of: int
    seconds: float
    bytes: float
    messages: int


# Softmax and squares: three heads of 197 x 197; GELU (its tanh form) and ReLU: 197 x 768;
# LayerNorm: 197 x 192; linear: 197 x 192 to 768; products: q k' of three heads of 64.
TABLE: Mapping[Kind, Cost] = {
    "softmax": Cost(3 * 197 * 197, 4.130, 81.2e6, 143),
    "square": Cost(3 * 197 * 197, 0.142, 2.8e6, 3),
    "gelu": Cost(197 * 768, 3.204, 59.9e6, 45),
    "relu": Cost(197 * 768, 0.692, 10.9e6, 8),
    "norm": Cost(197 * 192, 0.415, 1.6e6, 32),
    "linear": Cost(197 * 192 * 768, 0.383, 2.1e6, 2),
    "product": Cost(3 * 197 * 197 * 64, 0.371, 1.1e6, 6),
}


@dataclass(frozen=True)
class Network:
    """Between the parties: bytes a second, and seconds there and back."""

    bandwidth: float = 125e6
    round_trip: float = 1e-3

    def __post_init__(self) -> None:
        if not self.bandwidth > 0 or not self.round_trip >= 0:
            raise ConfigError(
                f"a network of {self.bandwidth:g} bytes a second and {self.round_trip:g} seconds "
                "there and back is none: give numbers above 0"
            )


# 1 Gbit/s within a house, 100 Mbit/s between two.
LAN, WAN = Network(), Network(12.5e6, 0.04)


@dataclass(frozen=True)
class Operations:
    """How many numbers each kind of operation is of, and in how many calls, for one image."""

    numbers: Mapping[Kind, int]
    calls: Mapping[Kind, int]

    @property
    def bytes(self) -> float:
        """Bytes that both parties send."""
        return sum(TABLE[kind].bytes * n / TABLE[kind].of for kind, n in self.numbers.items())

    @property
    def messages(self) -> int:
        """Messages that follow on each other."""
        return sum(TABLE[kind].messages * n for kind, n in self.calls.items())

    @property
    def compute_s(self) -> float:
        """Seconds of both parties' processors together."""
        return sum(TABLE[kind].seconds * n / TABLE[kind].of for kind, n in self.numbers.items())

    def latency_s(self, network: Network) -> float:
        """Return the seconds predicted for one image: computing, sending, and waiting."""
        waiting = self.messages * network.round_trip
        return self.compute_s + self.bytes / network.bandwidth + waiting


def operations(model: nn.Module) -> Operations:
    """Count the operations of a model with PriViT's switches for one image.

    Switches are public, so that of a layer only the rows that are on are asked for their softmax;
    embedding and head are linear layers, LayerNorms are exact.
    """
    numbers: dict[Kind, int] = {}
    calls: dict[Kind, int] = {}

    def add(kind: Kind, n: int) -> None:
        if n:
            numbers[kind] = numbers.get(kind, 0) + n
            calls[kind] = calls.get(kind, 0) + 1

    n = 0
    for module in model.modules():
        if isinstance(module, SwitchedAttention):
            rows, n = int((module.softmaxes > THRESHOLD).sum()), module.softmaxes.shape[2]
            inner, dim = module.proj.in_features, module.proj.out_features
            add("softmax", rows * n)
            add("square", (module.heads * n - rows) * n)
            add("linear", 3 * n * dim * inner)
            add("product", n * n * inner)
            add("product", n * n * inner)
            add("linear", n * dim * inner)
            add("norm", n * dim)
        if isinstance(module, SwitchedMlp):
            hidden, dim, n = module.fc1.out_features, module.fc2.out_features, module.gelus.shape[1]
            add("gelu", int((module.gelus > THRESHOLD).sum()) * hidden)
            add("linear", n * dim * hidden)
            add("linear", n * dim * hidden)
            add("norm", n * dim)
    if not n:
        raise ConfigError("the model has no switches: apply methods.PriViT first")
    return Operations(numbers, calls)
