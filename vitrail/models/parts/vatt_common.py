"""What both networks of VATT answer: points of common spaces, of every kind of input given."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from vitrail.models.parts.vatt_heads import FAC, Common
from vitrail.models.parts.vatt_inputs import Told
from vitrail.models.trunk.backbone import Backbone


class InCommon(Backbone):
    """A network that reads clips, sounds and sentences and puts what it reads in common spaces.

    `common` is None where there are no two kinds with clips among them.
    """

    common: FAC | None

    def read(self, kind: str, value: Tensor) -> Told:
        """Return what is said of a "video", "audio" or "text": pooled (B, C), tokens (B, n, C)."""
        raise NotImplementedError

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        video: Float[Tensor, "b channels t h w"] | None = None,
        audio: Float[Tensor, "b 1 samples"] | None = None,
        text: Int[Tensor, "n words"] | None = None,
    ) -> Common:
        """Return what is given as points of the common spaces."""
        if self.common is None:
            raise ValueError("a network without a tower for video and another has no common space")
        given = {"video": video, "audio": audio, "text": text}
        pooled = {k: self.read(k, value).pooled for k, value in given.items() if value is not None}
        return self.common(**pooled)
