"""VATT's common spaces: where clips, sounds and sentences of different widths are compared.

Akbari et al., NeurIPS 2021, arXiv 2104.11178. BatchNorms follow 0.1 of each batch. In a training of
several GPUs, let `nn.SyncBatchNorm.convert_sync_batchnorm` make them those of all, as the authors'
are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.linear import Linear


class Common(NamedTuple):
    """What is compared, each (B, width) or None: clips with sounds and clips with sentences, in
    two spaces."""

    clip_sound: Tensor | None = None
    sound: Tensor | None = None
    clip_text: Tensor | None = None
    text: Tensor | None = None


class FAC(nn.Module):
    """Fine and coarse spaces: clips meet sounds in a fine one, and, projected from it, sentences in
    a coarse one. Pooled features (B, width) of any of three inputs to `Common`."""

    def __init__(self, widths: Mapping[str, int], fine: int = 512, coarse: int = 256) -> None:
        super().__init__()
        self.hidden = Linear(widths["video"], fine, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm1d(fine), nn.BatchNorm1d(fine)
        self.video = Linear(fine, fine, bias=False)
        self.audio = Linear(widths["audio"], fine) if "audio" in widths else None
        self.coarse, self.norm3, self.text = None, None, None
        if "text" in widths:
            self.coarse, self.norm3 = Linear(fine, coarse, bias=False), nn.BatchNorm1d(coarse)
            self.text = Linear(widths["text"], coarse)

    def forward(
        self,
        video: Float[Tensor, "b v"] | None = None,
        audio: Float[Tensor, "b a"] | None = None,
        text: Float[Tensor, "n t"] | None = None,
    ) -> Common:
        """Return what each input is in its space; ValueError for one that this head lacks."""
        for name, given, layer in (("audio", audio, self.audio), ("text", text, self.text)):
            if given is not None and layer is None:
                raise ValueError(f"this head has no space for {name}: build it with that tower")
        fine = None if video is None else self._fine(video)
        sound = None if audio is None or self.audio is None else self.audio(audio)
        words = None if text is None or self.text is None else self.text(text)
        coarse = None
        if fine is not None and self.coarse is not None and self.norm3 is not None:
            coarse = self.norm3(self.coarse(F.relu(fine)))
        return Common(fine, sound, coarse, words)

    def _fine(self, video: Float[Tensor, "b v"]) -> Float[Tensor, "b d"]:
        return self.norm2(self.video(F.relu(self.norm1(self.hidden(video)))))


class Joint(nn.Module):
    """One space for all: ReLU, a linear layer and BatchNorm for each input."""

    def __init__(self, widths: Mapping[str, int], width: int = 512) -> None:
        super().__init__()
        self.into = nn.ModuleDict({n: Linear(w, width, bias=False) for n, w in widths.items()})
        self.norm = nn.ModuleDict({name: nn.BatchNorm1d(width) for name in widths})

    def forward(
        self,
        video: Float[Tensor, "b v"] | None = None,
        audio: Float[Tensor, "b a"] | None = None,
        text: Float[Tensor, "n t"] | None = None,
    ) -> Common:
        """Return what each input is; ValueError for one that this head lacks."""
        clip, sound, words = (
            None if x is None else self._placed(name, x)
            for name, x in (("video", video), ("audio", audio), ("text", text))
        )
        return Common(clip, sound, clip, words)

    def _placed(self, name: str, x: Tensor) -> Tensor:
        if name not in self.into:
            raise ValueError(f"this head has no space for {name}: build it with that tower")
        return self.norm[name](self.into[name](F.relu(x)))
