"""What a transformer costs under secure computation: operations by kind, and seconds predicted.

Two parties hold shares of every number; sums cost nothing, exponentials, divisions and comparisons
are what they talk about. The figures are those of one engine and protocol, SPU 0.9.5 with SEMI2K,
two parties, ring 64. Bytes and messages are what each of the two sends the other, as the engine
counts them, and are exact; seconds of the processor were measured with both parties on one busy
machine of two cores and are indicative. Most messages do not grow with an operation's size, so that
a layer's rows are asked for at once. Dhyani et al., "PriViT", TMLR 2024, arXiv 2310.04604.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from vitrail.errors import ConfigError
from vitrail.layers.switches import THRESHOLD, SwitchedAttention, SwitchedMlp
from vitrail.layers.tokens import Mean

Kind = Literal["softmax", "square", "gelu", "relu", "norm", "linear", "product"]


@dataclass(frozen=True)
class Cost:
    """Tells what a call of an operation on `of` numbers, or multiply-adds, took.

    That is seconds of both parties' processors, and for operations that take number by number the
    bytes that each sends for one, and messages. Those of products depend on shapes."""

    of: int
    seconds: float
    bytes: int = 0
    messages: int = 0


# Softmax and squares: three heads of 197 x 197; GELU (its tanh form) and ReLU: 197 x 768;
# LayerNorm: 197 x 192; linear: 197 x 192 to 768; products: q k' of three heads of 64.
TABLE: Mapping[Kind, Cost] = {
    "softmax": Cost(3 * 197 * 197, 4.130, 697),
    "square": Cost(3 * 197 * 197, 0.142, 24, 3),
    "gelu": Cost(197 * 768, 3.204, 396, 45),
    "relu": Cost(197 * 768, 0.692, 72, 8),
    "norm": Cost(197 * 192, 0.415, 60, 34),
    "linear": Cost(197 * 192 * 768, 0.383),
    "product": Cost(3 * 197 * 197 * 64, 0.371),
}
# A number in the ring, one whose product is cut down to its binary places again, and the reciprocal
# root of a LayerNorm.
NUMBER, CUT, ROOT = 8, 4, 437


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
class Call:
    """An operation on so many numbers, or multiply-adds, and what each party sends for it."""

    kind: Kind
    numbers: int
    bytes: int
    messages: int


@dataclass(frozen=True)
class Operations:
    """All operations for one image, in their order."""

    calls: tuple[Call, ...]

    @property
    def numbers(self) -> dict[Kind, int]:
        """Return how many numbers, or multiply-adds, each kind is of."""
        found: Counter[Kind] = Counter()
        for call in self.calls:
            found[call.kind] += call.numbers
        return dict(found)

    @property
    def bytes(self) -> int:
        """Return how many bytes each party sends."""
        return sum(call.bytes for call in self.calls)

    @property
    def messages(self) -> int:
        """Return how many messages each party sends, one after the other."""
        return sum(call.messages for call in self.calls)

    @property
    def compute_s(self) -> float:
        """Return the seconds of both parties' processors together."""
        return sum(TABLE[kind].seconds * n / TABLE[kind].of for kind, n in self.numbers.items())

    def latency_s(self, network: Network) -> float:
        """Return the seconds predicted for one image: computing, sending, and waiting."""
        waiting = self.messages * network.round_trip
        return self.compute_s + self.bytes / network.bandwidth + waiting


def operations(model: nn.Module, weights: str = "shared") -> Operations:
    """Count the operations of a model with PriViT's switches for one image.

    Switches are public, so that of a layer only the rows that are on are asked for their softmax;
    LayerNorms are exact. Public weights are sent nowhere. Raises ConfigError for a model that has
    no switches.
    """
    counter, n = _Counter(weights == "shared"), 0
    for module in model.modules():
        if isinstance(module, SwitchedAttention):
            n = module.softmaxes.shape[2]
            counter.attention(module)
        if isinstance(module, SwitchedMlp):
            counter.mlp(module)
    if not n:
        raise ConfigError("the model has no switches: apply methods.PriViT first")
    c: Any = model.config
    if isinstance(model.pool, Mean):
        counter.calls.append(Call("linear", n * c.dim, CUT * c.dim, 1))
    counter.ends(n, c.dim, c.classes, c.channels * c.patch**2, math.prod(c.image) // c.patch**2)
    return Operations(tuple(counter.calls))


class _Counter:
    """Calls so far, with weights that are shared or public."""

    def __init__(self, shared: bool) -> None:
        self.calls: list[Call] = []
        self.shared = shared

    def attention(self, mixer: SwitchedAttention) -> None:
        """Count a LayerNorm and the attention behind it."""
        n, inner, dim = mixer.softmaxes.shape[2], mixer.proj.in_features, mixer.proj.out_features
        rows = int((mixer.softmaxes > THRESHOLD).sum())
        self.norm(n, dim)
        self.linear(n, dim, 3 * inner)
        self.product(mixer.heads, n, inner // mixer.heads, n)
        if rows:
            # The largest of a row is found in rounds of halves, and one for each that was odd.
            rounds = n.bit_length() - 1 + n.bit_count() - 1
            found = 63 + 8 * rounds
            self.calls.append(Call("softmax", rows * n, TABLE["softmax"].bytes * rows * n, found))
        self.each("square", (mixer.heads * n - rows) * n)
        self.product(mixer.heads, n, n, inner // mixer.heads)
        self.linear(n, inner, dim)

    def mlp(self, ffn: SwitchedMlp) -> None:
        """Count a LayerNorm and the MLP behind it."""
        n, hidden, dim = ffn.gelus.shape[1], ffn.fc1.out_features, ffn.fc2.out_features
        self.norm(n, dim)
        self.linear(n, dim, hidden)
        self.each("gelu", int((ffn.gelus > THRESHOLD).sum()) * hidden)
        self.linear(n, hidden, dim)

    def ends(self, n: int, dim: int, classes: int, pixels: int, patches: int) -> None:
        """Count the embedding of the patches, the last LayerNorm and the head."""
        self.linear(patches, pixels, dim)
        self.norm(n, dim)
        self.linear(1, dim, classes)

    def each(self, kind: Kind, numbers: int) -> None:
        """Count an operation that takes number by number."""
        if numbers:
            cost = TABLE[kind]
            self.calls.append(Call(kind, numbers, cost.bytes * numbers, cost.messages))

    def norm(self, n: int, dim: int) -> None:
        """Count a LayerNorm of n tokens; public weights need no exchange."""
        cost, less = TABLE["norm"], 0 if self.shared else 2 * NUMBER
        sent = (cost.bytes - less) * n * dim + ROOT * n
        self.calls.append(Call("norm", n * dim, sent, cost.messages - (not self.shared)))

    def linear(self, n: int, inputs: int, outputs: int) -> None:
        """Count (n, inputs) times (inputs, outputs): both open theirs where both are secret."""
        opened = NUMBER * (n * inputs + inputs * outputs) if self.shared else 0
        sent = opened + CUT * n * outputs
        self.calls.append(Call("linear", n * inputs * outputs, sent, 1 + self.shared))

    def product(self, heads: int, n: int, inner: int, outputs: int) -> None:
        """Count, head by head, (n, inner) times (inner, outputs), both of them secret."""
        sent = NUMBER * (n * inner + inner * outputs) + CUT * n * outputs
        numbers = heads * n * inner * outputs
        self.calls.append(Call("product", numbers, heads * sent, 2 * heads))
