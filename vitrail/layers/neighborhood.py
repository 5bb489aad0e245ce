"""Local attention: every position of a map attends to the kernel x kernel nearest ones.

One front door, `neighborhood`. What happens at the border is the paper's choice:

- "clamp": the window moves inward, so that every query has kernel^2 keys (NAT, Hassani et
  al., CVPR 2023, arXiv 2204.07143);
- "zero": the map is padded by zero keys and values, which take part in the softmax (SASA,
  Ramachandran et al., NeurIPS 2019, arXiv 1906.05909);
- "mask": only positions inside the map take part.

Gathering kernel^2 keys for every query costs as many copies of the map. Here the queries of a
tile share the union of their keys, one additive table says who sees whom, and the tiles are
heads of one fused attention: a small map is a single tile. Dilation splits an axis into its
residue classes, each of which is tiled by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitrail.layers.attention import attend, attention_weights
from vitrail.layers.position import KeptTable
from vitrail.layers.relative import attend_by_parts

Border = Literal["clamp", "zero", "mask"]
Grid = tuple[int, int]
TILE = 8
# A tile reads each key of the map about three times; attention over the whole map reads none
# twice, and wins as long as it has no more keys than three tiles.
FULL = 3
DENSE = 1 << 24  # entries of a table of all tiles, above which equal tiles share theirs


class Axis(NamedTuple):
    """How one axis is tiled, as plain lists: pixels of queries (T, b), of keys (T, m; the
    length of the axis stands for a zero beyond the border), and where every pixel's output
    lies in the flattened queries. `patterns` are the distinct tables of offsets (b, m), key
    minus query plus kernel - 1, or -1 for a key that a query does not see; tile t has
    `pattern[t]`, rising."""

    queries: list[list[int]]
    keys: list[list[int]]
    back: list[int]
    patterns: list[list[list[int]]]
    pattern: list[int]


@lru_cache(maxsize=1024)
def tiled(length: int, kernel: int, dilation: int, border: Border, tile: int) -> Axis:
    """Return the tiles of an axis of `length` pixels; tiles hold at most `tile` queries."""
    half, classes = kernel // 2, [range(r, length, dilation) for r in range(min(dilation, length))]
    longest = len(classes[0])
    tile = min(tile, longest)
    reach = tile + kernel - 1 if border == "zero" else min(tile + kernel - 1, longest)
    rows, patterns = [], {}
    for pixels in classes:
        n = len(pixels)
        for start in range(0, n, tile):
            start = max(0, min(start, n - tile))
            places = [min(start + i, n - 1) for i in range(tile)]
            first = start - half if border == "zero" else max(0, min(start - half, n - reach))
            window = range(first, first + reach)
            keys = [pixels[j] if 0 <= j < n else length for j in window]
            if border != "zero":
                keys = [min(j, length - 1) for j in keys]
            seen = tuple(tuple(_offset(p, j, n, kernel, border) for j in window) for p in places)
            rows.append(
                (patterns.setdefault(seen, len(patterns)), [pixels[p] for p in places], keys)
            )
    rows.sort(key=lambda row: row[0])
    flat = [pixel for _, queries, _ in rows for pixel in queries]
    return Axis(
        [queries for _, queries, _ in rows],
        [keys for _, _, keys in rows],
        [flat.index(pixel) for pixel in range(length)],
        [[list(row) for row in seen] for seen in patterns],
        [pattern for pattern, _, _ in rows],
    )


def _offset(place: int, key: int, n: int, kernel: int, border: Border) -> int:
    """Return key minus query plus kernel - 1 within a residue class of n pixels, -1 if not seen."""
    half = kernel // 2
    first = max(0, min(place - half, n - kernel)) if border == "clamp" else place - half
    inside = border == "zero" or 0 <= key < n
    return key - place + kernel - 1 if inside and first <= key < first + kernel else -1


@dataclass(frozen=True)
class Neighborhood:
    """The `kernel` x `kernel` positions around each one, `dilation` apart. Odd kernels only."""

    kernel: int
    dilation: int = 1
    border: Border = "clamp"

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel is {self.kernel}: expected an odd number, it has a centre")

    @property
    def least(self) -> int:
        """Return the smallest side of a map: a clamped window must fit into every residue class."""
        return self.kernel * self.dilation if self.border == "clamp" else 1

    def axes(self, grid: Grid) -> tuple[Axis, Axis]:
        """Return both axes of a map of (H, W), tiled or whole, whichever
        is thought to be faster.
        """
        if min(grid) < self.least:
            raise ValueError(
                f"map is {grid[0]}x{grid[1]}; a kernel of {self.kernel} with dilation "
                f"{self.dilation} needs {self.least} on each side: pad it"
            )
        tiles, whole = (
            tuple(tiled(side, self.kernel, self.dilation, self.border, t) for side in grid)
            for t in (TILE, max(grid))
        )
        keys = [len(a.keys[0]) * len(b.keys[0]) for a, b in (tiles, whole)]
        return whole if keys[1] <= FULL * keys[0] else tiles  # pyright: ignore[reportReturnType]

    def bias(
        self, table: Tensor | None, grid: Grid, heads: int, like: Tensor, *, dense: bool = True
    ) -> Float[Tensor, "*p tn t s"]:
        """Return what is added to the logits of a map of (H, W).

        The rows of `table` (heads, 2 kernel - 1, 2 kernel - 1) by *key minus query*, or 0
        without one, and -inf where a query does not see a key. (P, heads, t, s), an entry for
        each of the patterns of tiles, or where that is of moderate size, and `dense`,
        (T heads, t, s), one for every tile.
        """
        rows, columns = self.axes(grid)
        y = torch.tensor(rows.patterns, device=like.device)[:, None, :, None, :, None]
        x = torch.tensor(columns.patterns, device=like.device)[None, :, None, :, None, :]
        seen = (y >= 0) & (x >= 0)
        if table is None:
            found = torch.zeros(heads, *seen.shape, dtype=like.dtype, device=like.device)
        else:
            found = table[:, y.clamp(min=0), x.clamp(min=0)]
        found = found.masked_fill(~seen, float("-inf"))
        found = found.flatten(5).flatten(3, 4).flatten(1, 2).transpose(0, 1)
        tiles = len(rows.queries) * len(columns.queries)
        if not dense or len(found) == 1 or tiles * found[0].numel() > DENSE:
            return found
        ty, tx = (torch.tensor(a.pattern, device=like.device) for a in (rows, columns))
        return found[(ty[:, None] * len(columns.patterns) + tx).flatten()].flatten(0, 1)

    def attend(
        self,
        q: Float[Tensor, "b h w n d"],
        k: Float[Tensor, "b h w n d"],
        v: Float[Tensor, "b h w n e"],
        bias: Float[Tensor, "*p tn t s"] | None,
        *,
        tables: tuple[Tensor, Tensor] | None = None,
        scale: float | None = None,
    ) -> Float[Tensor, "b h w n e"]:
        """Return softmax(scale q k' + q r' + bias) v over each position's neighbourhood.

        `bias` is what `bias` gives for this map. `tables` are the r of the rows' and of the
        columns' offsets, each (2 kernel - 1, d) or (heads, 2 kernel - 1, d), which are added.
        They need a bias by patterns, not `dense`, or none.
        """
        rows, columns = self.axes((q.shape[1], q.shape[2]))
        heads, width = v.shape[-2:]
        tiles, places = (len(rows.queries), len(columns.queries)), len(rows.queries[0])
        q, k, v = self._cut(q, k, v)
        if bias is not None and bias.ndim == 3:
            flat = [part.flatten(1, 3) for part in (q, k, v)]
            out = attend(*flat, bias=bias[None], scale=scale).view(*q.shape[:-1], width)
        else:
            parts = [
                torch.cat(
                    [
                        self._attend_alike(
                            *(part[:, y, x] for part in (q, k, v)),
                            None if bias is None else bias[i * len(columns.patterns) + j],  # pyright: ignore[reportCallIssue]
                            (rows.patterns[i], columns.patterns[j]),  # pyright: ignore[reportCallIssue]
                            tables,  # pyright: ignore[reportCallIssue]
                            scale,  # pyright: ignore[reportCallIssue]
                        )
                        for j, x in enumerate(_slices(columns))
                    ],
                    2,
                )
                for i, y in enumerate(_slices(rows))
            ]
            out = torch.cat(parts, 1)
        # (B, Ty, Tx, n, by bx, e) back to the map, and each pixel from where it was computed
        out = out.view(-1, *tiles, heads, places, out.shape[4] // places, width)
        out = out.permute(0, 1, 4, 2, 5, 3, 6).flatten(3, 4).flatten(1, 2)
        return _pick(_pick(out, rows.back, 1), columns.back, 2)

    def weights(
        self,
        q: Float[Tensor, "b h w n d"],
        k: Float[Tensor, "b h w n d"],
        bias: Float[Tensor, "*p tn t s"] | None,
        *,
        tables: tuple[Tensor, Tensor] | None = None,
        scale: float | None = None,
    ) -> Float[Tensor, "b tiles_n t s"]:
        """Return the attention of every tile and head, rows are queries;
        arguments as of `attend`.
        """
        rows, columns = self.axes((q.shape[1], q.shape[2]))
        q, k, _ = self._cut(q, k, k)
        if bias is not None and bias.ndim == 4:
            pairs = [i * len(columns.patterns) + j for i in rows.pattern for j in columns.pattern]
            bias = bias[pairs].flatten(0, 1)
        total = None if bias is None else bias[None]
        if tables is not None:
            found = [
                _relative(q[:, y, x], tables, (rows.patterns[i], columns.patterns[j]))
                for y, i in enumerate(rows.pattern)
                for x, j in enumerate(columns.pattern)
            ]
            total = torch.cat(found, 1) if total is None else total + torch.cat(found, 1)
        return attention_weights(q.flatten(1, 3), k.flatten(1, 3), bias=total, scale=scale)

    def _cut(self, *qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cut queries (B, Ty, Tx, n, t, d), keys and values (B, Ty, Tx, n, s, d) into tiles."""
        q, k, v = qkv
        rows, columns = self.axes((q.shape[1], q.shape[2]))
        if self.border == "zero":
            k, v = (F.pad(part, (0, 0, 0, 0, 0, 1, 0, 1)) for part in (k, v))
        return (
            _tiles(q, rows.queries, columns.queries),
            _tiles(k, rows.keys, columns.keys),
            _tiles(v, rows.keys, columns.keys),
        )

    def _attend_alike(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        patterns: tuple[list[list[int]], list[list[int]]],
        tables: tuple[Tensor, Tensor] | None,
        scale: float | None,
    ) -> Float[Tensor, "b ty tx n t e"]:
        """Attend in tiles that have one pattern: they are one batch."""
        shape, (q, k, v) = q.shape, (part.flatten(0, 2) for part in (q, k, v))
        if tables is None:
            return attend(q, k, v, bias=bias, scale=scale).unflatten(0, shape[:3])

        def biased(part: Tensor) -> Tensor:
            logits = _relative(part, tables, patterns)
            return logits if bias is None else logits + bias

        out = attend_by_parts(q, k, v, biased, scale=scale)
        return out.unflatten(0, shape[:3])


def neighborhood(
    q: Float[Tensor, "b h w n d"],
    k: Float[Tensor, "b h w n d"],
    v: Float[Tensor, "b h w n e"],
    *,
    kernel: int,
    dilation: int = 1,
    border: Border = "clamp",
    table: Float[Tensor, "n o o"] | None = None,
    tables: tuple[Tensor, Tensor] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "b h w n e"]:
    """Apply local attention to a map: for every position, softmax over its neighbourhood.

    Logits are scale q k' (scale d**-0.5 unless given), plus the entry of `table` (heads,
    2 kernel - 1, 2 kernel - 1) for *key minus query*, plus q r' with the r of `tables` (of
    rows and columns, (2 kernel - 1, d) each). Raises ValueError for an even kernel, and for a
    map that is too small to clamp. A module that has a table keeps its dense form in a
    `NeighborhoodBias`.
    """
    local = Neighborhood(kernel, dilation, border)
    grid, bias = (q.shape[1], q.shape[2]), None
    if table is not None or tables is None:
        bias = local.bias(table, grid, q.shape[3], q, dense=tables is None)
    return local.attend(q, k, v, bias, tables=tables, scale=scale)


class NeighborhoodBias(KeptTable):
    """A learned table (heads, 2 kernel - 1, 2 kernel - 1) by *key minus query*, in dense form.

    Without gradients the dense form is kept for the last map, as BiasTable keeps its own.
    """

    def __init__(self, heads: int, local: Neighborhood) -> None:
        side = 2 * local.kernel - 1
        super().__init__(torch.zeros(heads, side, side))
        self.local = local

    def forward(self, grid: Grid) -> Float[Tensor, "*p tn t s"]:
        """Return the bias of `Neighborhood.attend` for a map of (H, W)."""
        heads = len(self.table)
        return self._kept_or(lambda: self.local.bias(self.table, grid, heads, self.table), grid)


def aggregate(
    weights: Float[Tensor, "b h w n k"],
    v: Float[Tensor, "b h w n d"],
    *,
    kernel: int,
    dilation: int = 1,
    factors: Float[Tensor, "k n d"] | None = None,
) -> Float[Tensor, "b h w n d"]:
    """Sum the neighbours by given weights, one for each of the kernel^2 offsets, row-major.

    `factors` multiply them by channel. Beyond the border is zero. Shifted multiply-adds: nothing
    is gathered.
    """
    reach = kernel // 2 * dilation
    padded = F.pad(v, (0, 0, 0, 0, reach, reach, reach, reach))
    weights = weights.movedim(-1, 0).contiguous()  # read one offset after another
    h, w = v.shape[1:3]
    total = None
    for u in range(kernel**2):
        y, x = (dilation * at for at in divmod(u, kernel))
        shifted, weight = padded[:, y : y + h, x : x + w], weights[u].unsqueeze(-1)
        if factors is not None:
            shifted = shifted * factors[u]
        total = weight * shifted if total is None else total.addcmul_(weight, shifted)
    return total if total is not None else v


def halos(x: Float[Tensor, "b h w c"], block: int, halo: int) -> Float[Tensor, "b m n s c"]:
    """Return blocks of a map with what is around them: (B, H / block, W / block, (block + 2
    halo)^2, C), zeros beyond the border.
    """
    size = block + 2 * halo
    cut = F.pad(x, (0, 0, halo, halo, halo, halo)).unfold(1, size, block).unfold(2, size, block)
    return cut.permute(0, 1, 2, 4, 5, 3).flatten(3, 4)


def _tiles(x: Tensor, rows: list[list[int]], columns: list[list[int]]) -> Tensor:
    """Cut (B, H, W, n, d) into tiles (B, Ty, Tx, n, places, d)."""
    x = _pick(_pick(x, [i for row in rows for i in row], 1), [i for c in columns for i in c], 2)
    x = x.unflatten(2, (len(columns), -1)).unflatten(1, (len(rows), -1))
    return x.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5)


def _pick(x: Tensor, places: list[int], dim: int) -> Tensor:
    if places == list(range(x.shape[dim])):
        return x
    return x.index_select(dim, torch.tensor(places, device=x.device))


def _slices(axis: Axis) -> list[slice]:
    """Return where the tiles of each pattern are: they lie together."""
    starts = [axis.pattern.index(p) for p in range(len(axis.patterns))]
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], len(axis.pattern)], strict=True)]


def _relative(
    q: Tensor, tables: tuple[Tensor, Tensor], patterns: tuple[list[list[int]], list[list[int]]]
) -> Float[Tensor, "b n t s"]:
    """Return the logits q r' of tiles (B, n, t, d) whose queries see keys at the patterns' offsets,
    -inf of what they do not see.
    """
    by, bx = (len(p) for p in patterns)
    q = q.unflatten(2, (by, bx))
    parts = []
    for table, pattern, shape in zip(
        tables, patterns, ((1, 1, by, 1, -1), (1, 1, 1, bx, -1)), strict=True
    ):
        logits = q @ (table.mT if table.ndim == 2 else table.mT[:, None])
        index = torch.tensor(pattern, device=q.device).view(shape)
        logits = logits.gather(-1, index.clamp(min=0).expand(*logits.shape[:-1], -1))
        parts.append(logits.masked_fill(index < 0, float("-inf")))
    both = parts[0].unsqueeze(-1) + parts[1].unsqueeze(-2)
    return both.flatten(4).flatten(2, 3)
