"""VATT: clips, sounds and sentences, each read by a transformer of its own, in common spaces.

Akbari, Yuan, Qian, Chuang, Chang, Cui, Gong, "VATT: Transformers for Multimodal Self-Supervised
Learning from Raw Video, Audio and Text", NeurIPS 2021, arXiv 2104.11178.

Clips (B, 3, T, H, W), waveforms (B, 1, samples) and ids of words (B, n) become pooled features, and
those become points of two spaces, in which cosines compare them (`layers.nce`). It is a network of
several kinds of input, so it is in no catalog of image backbones: `TRIPLES` has the published ones,
and `vitrail train --set task=multimodal` trains them. `vatt_unified` has one encoder for all three.

What the authors' code does and trained weights rely on:
- the LayerNorm of positions is over the sum of an axis' rows each, not over tokens;
- DropToken keeps one random choice of patches for the whole batch; what is dropped is neither
  cut nor projected. The aggregating token has no position and always stays;
- words are T5's: no bias, logits that are not divided by the root of the width.
Sizes of published networks: `BBS`, `MBS`, `LBS`. The paper tells 155 M parameters of the first,
whose sizes make 193 M; of the others it agrees within 3 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.models.names import vatt as names
from vitrail.models.parts.vatt_common import InCommon
from vitrail.models.parts.vatt_encoder import Sizes
from vitrail.models.parts.vatt_heads import FAC
from vitrail.models.parts.vatt_inputs import Told, Tower, Triple, Words, check_kinds, cut
from vitrail.models.trunk.backbone import Level, Variant


@dataclass(frozen=True)
class Config(Triple):
    """The sizes of the encoder of each of `towers`; without one its sizes count for nothing."""

    video: Sizes = field(default_factory=Sizes)
    audio: Sizes = field(default_factory=Sizes)
    text: Sizes = field(default_factory=lambda: Sizes(512, 6, 2048, 8))


BBS = Config()
MBS = Config(video=Sizes(1024, 12, 4096, 16))
LBS = Config(video=Sizes(1024, 24, 4096, 16))
TRIPLES = {"vatt_bbs": Variant(BBS), "vatt_mbs": Variant(MBS), "vatt_lbs": Variant(LBS)}

NAMES = names.TABLES


class VATT(InCommon):
    """Clips, sounds and sentences, any but one of which may be missing, to `Common` spaces."""

    undecayed = ("tables.0", "tables.1", "tables.2", "token")

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = self.config = config
        check_kinds(c.towers)
        self.towers, keep = nn.ModuleDict(), c.inputs.keep
        for kind in c.towers:
            size: Sizes = getattr(c, kind)
            self.towers[kind] = (
                Words(c.inputs, size, c.dropout)
                if kind == "text"
                else Tower(cut(kind, c.inputs), size, keep, c.dropout)
            )
        widths = {kind: getattr(c, kind).dim for kind in c.towers}
        self.width = next(iter(widths.values()))
        self.levels = (Level(c.inputs.patch[1], self.width, c.inputs.patch[0]),)
        together = "video" in widths and len(widths) > 1
        self.common = FAC(widths, c.spaces.fine, c.spaces.coarse) if together else None

    def read(self, kind: str, value: Tensor) -> Told:
        """Return what the tower "video", "audio" or "text" says: pooled (B, C), tokens (B, n, C).

        Raises ValueError where there is no such tower, and for an input of another shape.
        """
        if kind not in self.towers:
            raise ValueError(
                f"this network has no tower for {kind}: it has {', '.join(self.towers)}"
            )
        return self.towers[kind](value)

    def features(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, clips: Float[Tensor, "b channels t h w"], at: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Return the video tower's last map (B, t, h, w, C)."""
        tower: Tower = self.towers["video"]  # pyright: ignore[reportAssignmentType]
        grid = tower.placed.patches.grid(clips.shape[2:])
        return [self.read("video", clips).tokens.unflatten(1, grid)]

    def embedding(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, value: Tensor
    ) -> Float[Tensor, "b width"]:
        """Return what the first tower says of its input, pooled."""
        return self.read(next(iter(self.towers)), value).pooled


MODEL = VATT
