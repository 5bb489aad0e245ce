"""Predicts how well a cell does from cells that were trained: LSTM or MLP, several of them.

Liu et al., ECCV 2018, arXiv 1712.00559: embeddings of 100 numbers for states and operations; an
LSTM reads four tokens a block, an MLP the mean over blocks. Each of five members is fitted, by L1
loss and Adam, on four fifths of what is known, and their mean counts. The last bias begins at the
mean of what is known, as the paper's 1.8 does for its 86 %. Predictions are for cells of any size,
and only their order matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.search.spaces.blocks import Blocks

Kind = Literal["mlp", "lstm"]
WIDTH = 100
MEMBERS = 5
EPOCHS = 40
# Adam's learning rate while all cells have one block, and after that.
FIRST_RATE, RATE = 0.01, 0.002
PORTION = 4096


class Mlp(nn.Module):
    """Embeddings of a block side by side, mean over blocks, two hidden layers."""

    def __init__(self, states: int, operations: int) -> None:
        super().__init__()
        self.state, self.op = nn.Embedding(states, WIDTH), nn.Embedding(operations, WIDTH)
        self.layers = nn.Sequential(
            nn.Linear(4 * WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()
        )
        self.last = nn.Linear(WIDTH, 1)

    def forward(self, cells: Int[Tensor, "n blocks 4"]) -> Float[Tensor, "n"]:
        parts = [f(cells[..., i]) for i, f in enumerate((self.state, self.op) * 2)]
        return self.last(self.layers(torch.cat(parts, -1).mean(1)))[:, 0].sigmoid()


class Lstm(nn.Module):
    """Reads both states and both operations of each block, one after the other."""

    def __init__(self, states: int, operations: int) -> None:
        super().__init__()
        self.state, self.op = nn.Embedding(states, WIDTH), nn.Embedding(operations, WIDTH)
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.last = nn.Linear(WIDTH, 1)

    def forward(self, cells: Int[Tensor, "n blocks 4"]) -> Float[Tensor, "n"]:
        tokens = [self.state(cells[..., (0, 2)]), self.op(cells[..., (1, 3)])]
        _, (hidden, _) = self.lstm(torch.cat(tokens, 2).flatten(1, 2))
        return self.last(hidden[-1])[:, 0].sigmoid()


KINDS: dict[Kind, type[Mlp | Lstm]] = {"mlp": Mlp, "lstm": Lstm}


@dataclass(frozen=True, eq=False)
class Predictor:
    """Members that were fitted; `predict` returns their mean for each cell."""

    members: Sequence[nn.Module]

    @torch.no_grad()
    def predict(self, cells: Sequence[Blocks]) -> list[float]:
        """Return the scores that are expected of cells, in their order."""
        found = [0.0] * len(cells)
        for places, batch in _batches(cells):
            means = torch.stack([member(batch) for member in self.members]).mean(0)
            for place, value in zip(places, means.tolist(), strict=True):
                found[place] = value
        return found


def fitted(
    known: Sequence[tuple[Blocks, float]],
    sizes: tuple[int, int],
    *,
    kind: Kind = "mlp",
    seed: int = 0,
    members: int = MEMBERS,
) -> Predictor:
    """Return a predictor that has learned from cells with their scores in [0, 1].

    `sizes` are how many states and operations there may be. The same cells and seed give the same
    predictor. Each member leaves out a share of its own, unless there are too few cells for that.
    """
    cells = [cell for cell, _ in known]
    scores = torch.tensor([score for _, score in known])
    rate = FIRST_RATE if max(map(len, cells)) == 1 else RATE
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        order = torch.randperm(len(cells)).tolist()
        made = []
        for fold in range(members):
            kept = [
                at for i, at in enumerate(order) if len(order) < 2 * members or i % members - fold
            ]
            made.append(_member(KINDS[kind](*sizes), [cells[i] for i in kept], scores[kept], rate))
    return Predictor(made)


def _member(model: Mlp | Lstm, cells: Sequence[Blocks], scores: Tensor, rate: float) -> nn.Module:
    for table in (model.state, model.op):
        nn.init.uniform_(table.weight, -0.1, 0.1)
    nn.init.constant_(model.last.bias, float(scores.mean().clamp(0.01, 0.99).logit()))
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    batches = _batches(cells)
    for _ in range(EPOCHS):
        lost = [(model(batch) - scores[places]).abs().sum() for places, batch in batches]
        optimizer.zero_grad(set_to_none=True)
        (torch.stack(lost).sum() / len(cells)).backward()
        optimizer.step()
    return model.eval()


def _batches(cells: Sequence[Blocks]) -> list[tuple[list[int], Tensor]]:
    """Cells of one size together, with their places."""
    found = []
    for size in sorted({len(cell) for cell in cells}):
        places = [i for i, cell in enumerate(cells) if len(cell) == size]
        for start in range(0, len(places), PORTION):
            some = places[start : start + PORTION]
            rows = [[[*block[0], *block[1]] for block in cells[i]] for i in some]
            found.append((some, torch.tensor(rows)))
    return found
