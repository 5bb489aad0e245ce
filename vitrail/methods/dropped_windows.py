"""PatchDropout in a Swin: every window keeps the same rows and columns of an image's own choice.

Liu et al., WACV 2023, arXiv 2208.07220. Of w x w positions m x m stay, so that maps and windows
are regular, only smaller; merging works on what is left. The rows and columns that were drawn
serve all stages: they say which entries a window reads of its table of relative positions, and
which of the mask of shifted windows. As in the paper's code, windows shift by w // 2 positions of
the smaller map.

Each image has a choice of its own here, in all of its windows. The authors' code repeats the
choices in another order than the windows are in: window i uses that of image i mod B, so that
neighbouring windows of one image keep different rows, and answers depend on the batch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.layers.attention import attend
from vitrail.layers.ffn import Mlp
from vitrail.layers.windows import WindowAttention, partition, reverse, shift_mask
from vitrail.methods.dropping import Leaving, drawn, same_for_all
from vitrail.methods.method import seams
from vitrail.models.swin import PatchEmbed


class KeptRows:
    """Which rows and columns of a window the running forward pass keeps: (B, m) each, or None."""

    def __init__(self) -> None:
        self.rows: Tensor | None = None
        self.columns: Tensor | None = None

    def put(self, rows: Int[Tensor, "b m"] | None, columns: Int[Tensor, "b m"] | None) -> None:
        """Set what this pass keeps."""
        self.rows, self.columns = rows, columns

    def __getstate__(self) -> dict[str, None]:
        """Return the state of a copy, which starts without what a pass keeps."""
        return {"rows": None, "columns": None}


class DroppedMap(Leaving):
    """A stem whose map loses rows and columns: (B, channels, H, W) to (B, h m / w, ..., C)."""

    def __init__(self, stem: nn.Module, window: int, keep: float, test_keep: float) -> None:
        super().__init__(stem, keep, test_keep)
        self.stem, self.window, self.kept = stem, window, KeptRows()

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h2 w2 c"]:
        x, window = self.stem(image), self.window
        count = max(1, int(self.share * window))
        self.kept.put(None, None)
        if count == window:
            return x
        b, h, w, _ = x.shape
        if h % window or w % window:
            raise ValueError(
                f"image is {image.shape[-2]}x{image.shape[-1]}; its map of {h}x{w} does not divide "
                f"into windows of {window}, whose rows patch_dropout would drop: choose another "
                "size, or keep everything"
            )
        choose = drawn if self.training else same_for_all
        rows, columns = (choose(b, window, count, x.device).sort(1).values for _ in range(2))
        self.kept.put(rows, columns)
        batch = torch.arange(b, device=x.device)[:, None, None]
        down, across = _at(rows, h // window, window), _at(columns, w // window, window)
        return x[batch, down[:, :, None], across[:, None, :]]


class KeptWindows(nn.Module):
    """Attention within windows of which some rows and columns are left: (B, h, w, C) to the same.

    Where all are left it is that of `mixer`.
    """

    def __init__(self, mixer: WindowAttention, kept: KeptRows) -> None:
        super().__init__()
        self.mixer, self.kept = mixer, kept

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        rows, columns, inner = self.kept.rows, self.kept.columns, self.mixer
        if rows is None or columns is None:
            return inner(x)
        count, window, grid = rows.shape[1], inner.window, (x.shape[1], x.shape[2])
        whole = (grid[0] // count * window, grid[1] // count * window)
        shift = inner.shifts(whole)
        if any(shift):
            x = x.roll([-s for s in shift], (1, 2))
        qkv = inner.qkv(partition(x, count))
        qkv = qkv.view(-1, count**2, 3, inner.heads, inner.width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        at = (rows[:, :, None] * window + columns[:, None, :]).flatten(1)
        bias = self._bias(at, whole, shift)
        out = attend(q, k, v, bias=bias).transpose(1, 2).flatten(2)
        out = reverse(inner.proj(out), count, grid)
        return out.roll(shift, (1, 2)) if any(shift) else out

    def _bias(
        self, at: Int[Tensor, "b t"], whole: tuple[int, int], shift: tuple[int, int]
    ) -> Float[Tensor, "bn heads t t"]:
        """Return the bias of each window, an image's windows one after another: B n of them."""
        table, window = self.mixer.bias, self.mixer.window
        down, across = at[:, :, None], at[:, None, :]
        pairs = table.index.to(at.device)[down, across]
        bias = F.embedding(pairs, table.table).permute(0, 3, 1, 2)[:, None]
        if any(shift):
            mask = shift_mask(whole, window, shift, at.device)[:, down, across]
            bias = bias + mask.transpose(0, 1).to(bias.dtype)[:, :, None]
        count = whole[0] * whole[1] // window**2
        return bias.expand(-1, count, -1, -1, -1).flatten(0, 1)


def _at(kept: Int[Tensor, "b m"], windows: int, window: int) -> Int[Tensor, "b nm"]:
    """Return rows of the map that stay: those kept of every window."""
    starts = torch.arange(windows, device=kept.device) * window
    return (starts[:, None] + kept[:, None, :]).flatten(1)


def fits(model: Any) -> bool:
    """Tell whether a model is a Swin with equal windows that divide its map in every stage.

    Its stem must be its own: another, whose patches have other sizes, would make other maps.
    """
    if not isinstance(getattr(model, "stem", None), PatchEmbed):
        return False
    blocks = [block for stage in model.stages for block in stage.blocks]
    plain = all(
        type(getattr(block, "mixer", None)) is WindowAttention
        and type(getattr(block, "ffn", None)) is Mlp
        for block in blocks
    )
    if not plain or len({block.mixer.window for block in blocks}) != 1:
        return False
    step = blocks[0].mixer.window * model.levels[-1].stride
    return all(side % step == 0 for side in model.config.image)


def install_windows(model: Any, keep: float, test_keep: float) -> nn.Module:
    """Let the stem drop rows and columns, and the attention of all blocks know which."""
    (seam,) = seams(model, "stem")
    window = model.stages[0].blocks[0].mixer.window
    dropped = DroppedMap(seam.module, window, keep, test_keep)
    seam.replace(dropped)
    for mixer in seams(model, "stages.*.blocks.*.mixer"):
        mixer.replace(KeptWindows(mixer.module, dropped.kept))  # pyright: ignore[reportArgumentType]
    return model
