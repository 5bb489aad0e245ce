"""How well clips, sounds and sentences find each other in the spaces that they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.data.clip_pixels import ClipPixels
from vitrail.data.waves import waves
from vitrail.layers.nce import nce
from vitrail.tasks.pairing import Pairs, chances, figures
from vitrail.tasks.task import Outputs
from vitrail.training.device import open_fabric

AT_ONCE = 32
# The loss is told of so many pairs, as in one batch.
IN_LOSS = 256


@dataclass(frozen=True, eq=False)
class Meetings(Outputs):
    """Embeddings of clips, `values` (N, ...), and what they meet, each None where nothing is:
    sentences in `text`, sounds in `sound`, whose `texts` are the sounds' and `said` their files."""

    text: Pairs | None
    sound: Pairs | None

    @property
    def figures(self) -> Mapping[str, float]:
        """Return recalls of clips with sentences and with sounds, in both directions."""
        return self._each(figures)

    @property
    def chances(self) -> Mapping[str, float]:
        """Return what each figure is where everything is found in random order."""
        told = dict(self._each(chances))
        if self.text is not None and self.text.asked is not None:
            told["zero-shot accuracy"] = 1 / len(self.text.asked)
        return told

    @property
    def loss(self) -> float:
        """Return the mean loss of what meets."""
        losses = [one.loss for one in (self.text, self.sound) if one is not None]
        return sum(losses) / len(losses) if losses else 0.0

    def _each(self, told: Callable[[Pairs, str, str], Mapping[str, float]]) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, pairs in (("text", self.text), ("sound", self.sound)):
            if pairs is not None:
                found |= told(pairs, "clip", name)
        return found


class Clips(nn.Module):
    """A network as one of clips: (b, C, T, H, W) to their points in all spaces, side by side."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, clips: Tensor) -> Tensor:
        met = self.model(clips)
        some = [one for one in (met.clip_sound, met.clip_text) if one is not None]
        return torch.cat([F.normalize(one.float(), dim=-1) for one in some], 1)


@torch.no_grad()
def embedded(model: Any, kind: str, inputs: np.ndarray, device: Any) -> Tensor:
    """Return the points of sounds (n, samples) or sentences (n, words), on the CPU."""
    fabric, found = open_fabric(device), []
    fabric.to_device(model.eval())
    for start in range(0, len(inputs), AT_ONCE):
        given = torch.from_numpy(inputs[start : start + AT_ONCE]).to(fabric.device)
        with fabric.autocast():
            met = model(audio=given[:, None]).sound if kind == "audio" else model(text=given).text
        found.append(F.normalize(met.float(), dim=-1).cpu())
    return torch.cat(found)


def with_sounds(
    model: Any, values: Tensor, targets: Tensor, clips: ClipPixels, device: Any
) -> Pairs | None:
    """Return how clips meet their sounds, heard at the moment that is seen; None without any."""
    known = waves(clips.part, progress=False)
    rows = np.flatnonzero(known.there)
    if not len(rows):
        return None
    keys = [str(known.tracks.keys[row]) for row in clips.part.rows[rows].tolist()]
    said = list(dict.fromkeys(keys))
    first = rows[[keys.index(key) for key in said]]
    shares = np.array(clips.starts(first)) / clips.lengths[first]
    found = []
    for start in range(0, len(first), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        found.append(embedded(model, "audio", known.take(first[some], shares[some]), device))
    own = [(row, said.index(key)) for row, key in zip(rows.tolist(), keys, strict=True)]
    heard = torch.cat(found)
    return Pairs(values, targets, heard, said, torch.tensor(own), _loss(values, heard, own))


def with_sentences(
    values: Tensor, targets: Tensor, texts: Sequence[tuple[str, ...]],
    embed: Callable[[list[str]], Tensor],
) -> Pairs | None:  # fmt: skip
    """Return how clips meet their sentences; None where they have none."""
    said = list(dict.fromkeys(text for some in texts for text in some))
    if not said:
        return None
    index = {text: at for at, text in enumerate(said)}
    own = [(row, index[text]) for row, some in enumerate(texts) for text in some]
    found = embed(said)
    return Pairs(values, targets, found, said, torch.tensor(own), _loss(values, found, own))


def _loss(values: Tensor, found: Tensor, own: list[tuple[int, int]]) -> float:
    """Return the loss of some pairs, a clip once."""
    once = list(dict(reversed(own)).items())[:IN_LOSS]
    rows, others = torch.tensor(once).T
    return nce(values[rows], found[others][:, None]).mean().item()
