"""VATT with one encoder: patches of clips and sounds and words are tokens of the same transformer.

Akbari et al., NeurIPS 2021, arXiv 2104.11178; see `vatt`. Each kind of input has patches, a linear
layer with GELU before the encoder and one behind it, positions and an aggregating token of its own;
the encoder is shared. The network published is `MEDIUM`: 161 M parameters, of which the paper
tells 155 M.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.layers.linear import Linear
from vitrail.models.names import vatt as names
from vitrail.models.parts.vatt_common import InCommon
from vitrail.models.parts.vatt_encoder import Encoder, Sizes
from vitrail.models.parts.vatt_heads import FAC
from vitrail.models.parts.vatt_inputs import (
    Inputs,
    Placed,
    Told,
    Triple,
    check_kinds,
    cut,
    seen_words,
    vectors,
)
from vitrail.models.parts.vatt_tokens import Axes, aggregate, with_first
from vitrail.models.trunk.backbone import Level, Variant


@dataclass(frozen=True)
class Config(Triple):
    """The sizes of the shared encoder; features of all tokens are `width` wide behind it."""

    encoder: Sizes = field(default_factory=lambda: Sizes(1024, 12, 4096, 16))
    width: int = 1024


MEDIUM = Config()
TRIPLES = {"vatt_unified_medium": Variant(MEDIUM)}

NAMES = names.UNIFIED


class Sentences(nn.Module):
    """Words with positions: ids (B, n) to (B, n, C)."""

    def __init__(self, inputs: Inputs, dim: int, dropout: float) -> None:
        super().__init__()
        self.vectors = vectors(inputs)
        self.before = nn.Sequential(Linear(inputs.vectors, dim), nn.GELU())
        self.position, self.drop = Axes((inputs.words,), dim), nn.Dropout(dropout)

    def forward(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n c"]:
        return self.drop(self.before(self.vectors(ids)) + self.position(ids.shape[1:]))


class UnifiedVATT(InCommon):
    """Clips, sounds and sentences, any but one of which may be missing, to `Common` spaces."""

    undecayed = ("tables.0", "tables.1", "tables.2", "tokens.video", "tokens.audio", "tokens.text")

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = self.config = config
        check_kinds(c.towers)
        dim, keep = c.encoder.dim, c.inputs.keep
        self.placed = nn.ModuleDict()
        for kind in c.towers:
            if kind == "text":
                self.placed[kind] = Sentences(c.inputs, dim, c.dropout)
            else:
                placed = Placed(cut(kind, c.inputs), dim, keep, c.dropout)
                placed.before = nn.Sequential(Linear(dim, dim), nn.GELU())
                self.placed[kind] = placed
        self.tokens = nn.ParameterDict({kind: aggregate(dim) for kind in c.towers})
        self.encoder = Encoder(c.encoder, c.dropout)
        self.after = nn.ModuleDict(
            {kind: nn.Sequential(Linear(dim, c.width), nn.GELU()) for kind in c.towers}
        )
        self.width = c.width
        self.levels = (Level(c.inputs.patch[1], c.width, c.inputs.patch[0]),)
        together = "video" in c.towers and len(c.towers) > 1
        widths = dict.fromkeys(c.towers, c.width)
        self.common = FAC(widths, c.spaces.fine, c.spaces.coarse) if together else None

    def read(self, kind: str, value: Tensor) -> Told:
        """Return what is said of a "video", "audio" or "text": pooled (B, C), tokens (B, n, C).

        Raises ValueError for a kind that the network has no layers for, and for another shape.
        """
        if kind not in self.placed:
            raise ValueError(
                f"this network has no tower for {kind}: it has {', '.join(self.placed)}"
            )
        x = with_first(self.tokens[kind], self.placed[kind](value))
        seen = seen_words(value) if kind == "text" else None
        out = self.after[kind](self.encoder(x, seen))
        return Told(out[:, 0], out[:, 1:])

    def features(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, clips: Float[Tensor, "b channels t h w"], at: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Return the last map of clips (B, t, h, w, C)."""
        placed: Placed = self.placed["video"]  # pyright: ignore[reportAssignmentType]
        return [self.read("video", clips).tokens.unflatten(1, placed.patches.grid(clips.shape[2:]))]

    def embedding(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, value: Tensor
    ) -> Float[Tensor, "b width"]:
        """Return what is said, pooled, of an input of the first kind."""
        return self.read(self.config.towers[0], value).pooled


MODEL = UnifiedVATT
