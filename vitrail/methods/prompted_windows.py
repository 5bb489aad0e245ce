"""VPT in a Swin: every window sees the prompts of its image beside its own positions.

Jia et al., ECCV 2022, arXiv 2203.12119. Prompts are keys and values of each window, and queries
where somebody reads what comes of them: then it is the mean over the windows of an image. They have
no relative position and no mask. Where maps merge, a prompt stands for all four neighbours.

The authors' code lays windows out image by image and means them window by window, so that with
"shallow" prompts answers depend on the other images of a batch. Here each image has its own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import attend
from vitrail.layers.residual import Block
from vitrail.layers.tokens import Mean
from vitrail.layers.windows import WindowAttention, pad, partition, reverse
from vitrail.methods.prompts import Prompts
from vitrail.models.swin import Merge


class Carried:
    """What became of the prompts of the running forward pass, by the place that reads it.

    Each place has its own entry, so that a block that is computed again finds what it had.
    """

    def __init__(self) -> None:
        self.at: dict[int, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy, which starts without what a pass carries."""
        return {"at": {}}


class PromptedBlock(nn.Module):
    """A block of windows that see prompts: (B, h, w, C) to the same.

    Takes the prompts of `layer`, or what is carried to its `place` where that is None. Where it
    `gives`, what becomes of them is carried to the next place.
    """

    block: Any

    def __init__(
        self,
        block: nn.Module,
        prompts: Prompts,
        carried: Carried,
        place: int,
        *,
        layer: int | None,
        gives: bool,
    ) -> None:
        super().__init__()
        self.block, self.carried, self.place = block, carried, place
        self.layer, self.gives = layer, gives
        self.source = (prompts,)  # a parameter of the model, so no part of the block

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        block, at = self.block, self.carried.at
        prompts = at[self.place] if self.layer is None else self.source[0](self.layer, x.shape[0])
        seen, made = windows_with(block.mixer, block.norm1(x), block.norm1(prompts), self.gives)
        if made is not None:
            at[self.place + 1] = self._rest(prompts, made)
        return self._rest(x, seen)

    def _rest(self, x: Tensor, mixed: Tensor) -> Tensor:
        block = self.block
        x = x + block.drop_path(block.scale1(mixed))
        return x + block.drop_path(block.scale2(block.ffn(block.norm2(x))))


class PromptedMerge(nn.Module):
    """A merging that takes the prompts along: (B, h, w, C) to (B, h/2, w/2, 2C)."""

    def __init__(self, down: Merge, carried: Carried, place: int) -> None:
        super().__init__()
        self.down, self.carried, self.place = down, carried, place

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        prompts = self.carried.at[self.place].repeat(1, 1, 4)
        self.carried.at[self.place + 1] = self.down.reduction(self.down.norm(prompts))
        return self.down(x)


class PromptedNorm(nn.Module):
    """A norm of the map and of the prompts: (B, h, w, C) to the same."""

    def __init__(self, norm: nn.Module, carried: Carried, place: int) -> None:
        super().__init__()
        self.norm, self.carried, self.place = norm, carried, place

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        self.carried.at[self.place + 1] = self.norm(self.carried.at[self.place])
        return self.norm(x)


class PromptedMean(nn.Module):
    """The mean over a map and the prompts: (B, h, w, C) to (B, C)."""

    def __init__(self, carried: Carried, place: int) -> None:
        super().__init__()
        self.carried, self.place = carried, place

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b c"]:
        return torch.cat([x.flatten(1, 2), self.carried.at[self.place]], 1).mean(1)


def windows_with(
    mixer: WindowAttention, x: Float[Tensor, "b h w c"], prompts: Float[Tensor, "b2 p c"], ask: bool
) -> tuple[Float[Tensor, "b h w c"], Float[Tensor, "b p c"] | None]:
    """Return the attention of windows that also see prompts, and what becomes of these.

    `prompts` are those of each image, or the same for all. Where nobody would `ask` they have no
    queries, and what becomes of them is None.
    """
    b, h, w, _ = x.shape
    shift, window, count = mixer.shifts((h, w)), mixer.window, prompts.shape[1]
    x = pad(x, window)
    x = x.roll([-s for s in shift], (1, 2)) if any(shift) else x
    grid = (x.shape[1], x.shape[2])
    n = grid[0] * grid[1] // window**2
    more = _heads(mixer, prompts).unsqueeze(2).expand(-1, b, n, -1, -1, -1).flatten(1, 2)
    q, k, v = torch.cat([more, _heads(mixer, partition(x, window))], 3).unbind()
    bias = mixer.bias(grid, shift)
    bias = bias if len(bias) == 1 else bias.repeat(b, 1, 1, 1)
    skipped = 0 if ask else count
    bias = F.pad(bias, (count, 0, count - skipped, 0))
    out = attend(q[:, :, skipped:], k, v, bias=bias).transpose(1, 2).flatten(2)
    asked, out = out[:, : count - skipped], out[:, count - skipped :]
    out = reverse(mixer.proj(out), window, grid)
    out = out.roll(shift, (1, 2)) if any(shift) else out
    made = mixer.proj(asked.unflatten(0, (b, n)).mean(1)) if ask else None
    return out[:, :h, :w], made


def _heads(mixer: WindowAttention, x: Float[Tensor, "b t c"]) -> Float[Tensor, "3 b heads t d"]:
    qkv = mixer.qkv(x).view(*x.shape[:2], 3, mixer.heads, mixer.width)
    return qkv.permute(2, 0, 3, 1, 4)


def windowed(model: Any) -> bool:
    """Tell whether a model is a pyramid of plain windows, as swin is."""
    if not hasattr(model, "stages") or type(getattr(model, "pool", None)) is not Mean:
        return False
    blocks = [block for stage in model.stages for block in getattr(stage, "blocks", [None])]
    downs = [getattr(stage, "down", None) for stage in model.stages]
    plain = all(type(b) is Block and type(b.mixer) is WindowAttention for b in blocks)
    return plain and all(isinstance(down, nn.Identity | Merge) for down in downs)


def install_windows(model: Any, count: int, deep: bool, dropout: float) -> nn.Module:
    """Let all windows see prompts: new ones before every block if `deep`, else before the first."""
    dims = [level.channels for level in model.levels]
    each = [dim for dim, stage in zip(dims, model.stages, strict=True) for _ in stage.blocks]
    model.prompts = Prompts(
        each if deep else each[:1],
        count,
        config=model.config,
        stride=model.levels[0].stride,
        dropout=dropout,
        like=next(model.stages.parameters()),
    )
    carried, place, layer = Carried(), 0, 0
    for stage in model.stages:
        if not deep and isinstance(stage.down, Merge):
            stage.down = PromptedMerge(stage.down, carried, place)
            place += 1
        for j, block in enumerate(stage.blocks):
            stage.blocks[j] = PromptedBlock(
                block,
                model.prompts,
                carried,
                place,
                layer=layer if deep or layer == 0 else None,
                gives=not deep or layer == len(each) - 1,
            )
            place, layer = place + 1, layer + 1
    model.norm = PromptedNorm(model.norm, carried, place)
    model.pool = PromptedMean(carried, place + 1)
    return model
