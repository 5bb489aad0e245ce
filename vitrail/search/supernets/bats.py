"""The shared network of BATS: on every edge of a cell all operations at once, mixed by weights
that are learned.

Bulat et al., ECCV 2020, arXiv 2003.01711, after DARTS (Liu et al., ICLR 2019, arXiv 1806.09055). An
edge is the sum of its operations times the softmax of its architecture weights over a temperature;
below 1 it is sharp early, so that convolutions of signs, whose gradients are noisy, compete one by
one and operations without weights do not win by being smooth.
"""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.binary import convolution
from vitrail.layers.conv import channels_first, channels_last
from vitrail.models.bats import BATS, Config
from vitrail.models.parts.bats_cells import OPERATIONS, Cell
from vitrail.search.supernets.indices import Rule

NODES = 4
# Those that an edge may be; "none" competes in the mixture and is never chosen.
CHOICES = (
    "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5", "max_pool_3x3",
    "avg_pool_3x3", "skip_connect",
)  # fmt: skip
MIXED = (*CHOICES, "none")
# (node, state that it reads), in the order of the architecture weights.
EDGES = tuple((node, state) for node in range(NODES) for state in range(node + 2))


class Mixed(nn.Module):
    """A cell all of whose edges have all operations: the two maps before to (B, h', w', 4 dim)."""

    def __init__(self, cell: Cell, config: Config, dim: int, *, reduces: bool) -> None:
        super().__init__()
        self.enter0, self.enter1, make = cell.enter0, cell.enter1, convolution(config.binary)
        self.edges = nn.ModuleList(
            nn.ModuleList(
                OPERATIONS[name](dim, 2 if reduces and state < 2 else 1, config.groups, make)
                for name in CHOICES
            )
            for _, state in EDGES
        )

    def forward(
        self,
        before: Float[Tensor, "b h w c"],
        last: Float[Tensor, "b h2 w2 c2"],
        weights: Float[Tensor, "edges ops"],
    ) -> Float[Tensor, "b h3 w3 c3"]:
        states = [self.enter0(channels_first(before)), self.enter1(channels_first(last))]
        alike: dict[tuple[int, int], Tensor] = {}
        for node in range(NODES):
            # Added one by one: as a stack they would be held a second time.
            parts = (
                weights[at, k] * self._applied(at, k, states, alike)
                for at, (owner, _) in enumerate(EDGES)
                if owner == node
                for k in range(len(CHOICES))
            )
            states.append(reduce(torch.add, parts))
        return channels_last(torch.cat(states[2:], 1))

    def _applied(
        self, at: int, k: int, states: list[Tensor], alike: dict[tuple[int, int], Tensor]
    ) -> Tensor:
        """Return what an operation makes of the state that its edge reads.

        One without weights makes the same for each node that reads a state, and is asked once.
        """
        edge: Any = self.edges[at]
        state = EDGES[at][1]
        if next(edge[k].parameters(), None) is not None:
            return edge[k](states[state])
        if (k, state) not in alike:
            alike[k, state] = edge[k](states[state])
        return alike[k, state]


class Super(nn.Module):
    """Maps images (B, C, h, w) to logits of the mixture, (B, classes).

    `architecture_normal` and `architecture_reduce` (edges, operations) are what is learned of the
    cells; `config` has the sizes, and in `binary` what is binary while it is searched.
    """

    def __init__(self, config: Config, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        plain = BATS(config)
        self.stem, self.pool, self.head = plain.stem, plain.pool, plain.head
        self.reductions = plain.reductions
        cells, dim = [], config.dim
        for i, cell in enumerate(plain.blocks):
            dim *= 2 if i in self.reductions else 1
            assert isinstance(cell, Cell)
            cells.append(Mixed(cell, config, dim, reduces=i in self.reductions))
        self.cells = nn.ModuleList(cells)
        shape = len(EDGES), len(MIXED)
        self.architecture_normal = nn.Parameter(1e-3 * torch.randn(shape))
        self.architecture_reduce = nn.Parameter(1e-3 * torch.randn(shape))

    def mixture(self) -> tuple[Float[Tensor, "edges ops"], Float[Tensor, "edges ops"]]:
        """Return what each operation weighs on each edge, of normal cells and of reductions."""
        both = self.architecture_normal, self.architecture_reduce
        normal, reduce = ((one / self.temperature).softmax(1) for one in both)
        return normal, reduce

    def entropy(self) -> Float[Tensor, ""]:
        """Return the mean entropy of an edge in nats: log 8 where nothing is decided."""
        both = torch.cat(self.mixture())
        return -(both * both.clamp(min=1e-12).log()).sum(1).mean()

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b k"]:
        before, last = self.stem(image)
        normal, reduce = self.mixture()
        for i, cell in enumerate(self.cells):
            weights = reduce if i in self.reductions else normal
            before, last = last, cell(before, last, weights)
        return self.head(self.pool(last))

    def extracted(self, config: Config, rule: Rule | None = None) -> nn.Module:
        """Return a network of its own with the weights that its cells inherit, in eval mode.

        Its sizes are those of the shared network, whatever those of `config` are.
        """
        stem: Any = self.stem
        model = BATS(replace(stem.config, normal=config.normal, reduce=config.reduce))
        state = model.state_dict()
        held = {n: v.detach() for n, v in self.state_dict().items() if n in state}
        for i, cell in enumerate(self.cells):
            assert isinstance(cell, Mixed)
            genotype = config.reduce if i in self.reductions else config.normal
            for name in ("enter0", "enter1"):
                held |= _under(f"blocks.{i}.{name}.", getattr(cell, name))
            for k, (operation, read) in enumerate(genotype):
                edge: Any = cell.edges[EDGES.index((k // 2, read))]
                held |= _under(f"blocks.{i}.ops.{k}.", edge[CHOICES.index(operation)])
        model.load_state_dict(held)
        return model.to(next(self.parameters()).device).eval()


def _under(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {prefix + name: value.detach() for name, value in module.state_dict().items()}
