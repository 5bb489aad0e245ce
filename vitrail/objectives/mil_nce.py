"""Clips are drawn close to their sounds and sentences, and apart from all others of a batch.

Akbari et al., "VATT", NeurIPS 2021, arXiv 2104.11178: NCE of clips and sounds, MIL-NCE (Miech et
al., CVPR 2020, arXiv 1912.06430) of clips and several sentences each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.layers.nce import nce, weighed
from vitrail.models.trunk.backbone import Backbone, input_kind
from vitrail.objectives.context import Context
from vitrail.training.batch import Batch
from vitrail.training.objective import Model, Objective, Step

_WEIGHTS = {"audio": "sound", "text": "text"}


@dataclass(frozen=True)
class MilNce:
    """Minimises how badly clips are told by their sounds and sentences, and these by them.

    Cosines are divided by `temperature`; `symmetric` has a denominator for each direction, as in
    the paper, where the authors' code has one for both. `sound` and `text` weigh the two losses.
    Vectors of words are learned where nothing says what they mean: `words_locked` keeps them.

        vitrail train --set task=multimodal --set objective.symmetric=true ...
    """

    temperature: float = 0.07
    symmetric: bool = False
    sound: float = 1.0
    text: float = 1.0
    words_locked: bool = False

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"temperature is {self.temperature}: give a number above 0")
        if self.sound < 0 or self.text < 0 or not self.sound + self.text:
            raise ConfigError(
                f"sound is {self.sound} and text {self.text}: give weights of 0 or more, one of "
                "them above 0"
            )

    def build(self, model: nn.Module, context: Context) -> Objective:
        """Make the module that the loop calls. Raises ConfigError for a model of other inputs, or
        without a tower that is weighed."""
        if not isinstance(model, Backbone) or input_kind(model.config) != "triples":
            raise ConfigError(
                f"objective mil_nce needs towers of clips, sounds and words, and "
                f"{type(model).__name__} has none: set task=multimodal"
            )
        if not any(getattr(self, _WEIGHTS[kind]) for kind in model.config.towers[1:]):
            raise ConfigError(
                f"sound is {self.sound} and text {self.text}, and the towers are "
                f"{', '.join(model.config.towers)}: give a weight above 0 for one of them"
            )
        for name, module in model.named_modules():
            if name.rpartition(".")[2] == "vectors":
                module.requires_grad_(not self.words_locked)
        return MilNceLoss(self)


class MilNceLoss(Objective):
    """Maps a batch of clips (b, C, T, H, W), sounds (b, 1, n) and ids of sentences (b, l, words) to
    the loss over the batches of all processes."""

    def __init__(self, how: MilNce) -> None:
        super().__init__()
        self.how = how

    def forward(self, model: Model, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return `{"loss", "sound", "text"}`, of the towers that the model has."""
        towers: Any = model
        parts: Any = batch
        kinds = towers.config.towers
        sounds = parts.sounds if "audio" in kinds else None
        ids = parts.targets if "text" in kinds else None
        met = towers(parts.images, sounds, None if ids is None else ids.flatten(0, 1))
        how, losses = self.how, {}
        form = {"temperature": how.temperature, "symmetric": how.symmetric}
        if sounds is not None:
            losses["sound"] = nce(
                met.clip_sound.float(), met.sound.float()[:, None], parts.heard.float(), **form
            )
        if ids is not None:
            sentences = met.text.float().unflatten(0, ids.shape[:2])
            losses["text"] = nce(met.clip_text.float(), sentences, parts.told.float(), **form)
        loss = weighed(losses, {"sound": how.sound, "text": how.text})
        return {"loss": loss} | {name: torch.mean(one) for name, one in losses.items()}
