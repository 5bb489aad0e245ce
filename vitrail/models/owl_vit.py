"""OWL-ViT: a contrastive image-text ViT as a detector of whatever a sentence or a picture asks for.

Minderer et al., "Simple Open-Vocabulary Object Detection with Vision Transformers", ECCV 2022,
arXiv 2205.06230; OWLv2 with a score for objects: Minderer, Gritsenko, Houlsby, "Scaling
Open-Vocabulary Object Detection", NeurIPS 2023, arXiv 2306.09683.

Every patch of the image is a candidate with a box and an embedding that is compared with those of
queries; scores are sigmoids of the logits, each query by itself. An image (B, 3, H, W) takes CLIP's
mean and deviation and is padded with grey below and right to a square. `QUERIED` has the published
networks, and `vitrail.create` and `vitrail.load` take their names or a `Config`.

The authors' code and transformers' disagree in details (`convention`): the tanh form of GELU in the
box head against the exact one, eps 1e-6 of the LayerNorm behind the merged class token against
1e-5, sentences as they are against ones of length 1, the logit of padding, boxes of a grid that is
not square, and positions of a smaller image. Weights are the same; they were trained by the
authors' code, so that is the default. CLIP's temperature and the projection of the class token are
in the files, read by nothing, and left out here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vitrail.layers.position import zoom_grid
from vitrail.models.names import owl_vit as names
from vitrail.models.parts.clip_towers import ImageTower, Text, TextTower, Vision
from vitrail.models.parts.query_heads import Found, QueryHead, TokenMlp, cells
from vitrail.models.trunk.backbone import Backbone, InputKind, Inputs, Variant, check_image
from vitrail.models.trunk.positions import Table


@dataclass(frozen=True)
class Config:
    """Sizes of both towers and of the space of `width` in which tokens and queries meet.

    With `objectness` (OWLv2) each token says whether it is an object at all. `image` is what the
    positions are for.
    """

    tower: Vision = field(default_factory=Vision)
    text: Text = field(default_factory=Text)
    width: int = 512
    objectness: bool = False
    convention: Literal["authors", "transformers"] = "authors"
    image: tuple[int, int] = (768, 768)
    channels: int = 3

    @property
    def patch(self) -> int:
        """Return the pixels of a patch's side."""
        return self.tower.patch

    @property
    def input_kind(self) -> InputKind:
        """Return the kind of input: pairs of an image and the sentences that ask it."""
        return "pairs"


@dataclass(frozen=True)
class QueriedVariant(Variant):
    """A published network that looks for queries: `ap` and `ap_rare` are of LVIS, in per cent."""

    ap: float | None = None
    ap_rare: float | None = None


_B32 = Config()
_B16 = replace(_B32, tower=Vision(patch=16))
_L14 = Config(
    Vision(1024, 24, 16, 4096, 14), Text(dim=768, heads=12, hidden=3072), 768, image=(840, 840)
)
_V2_B16 = replace(_B16, objectness=True, image=(960, 960))
_V2_L14 = replace(_L14, objectness=True, image=(1008, 1008))
CLIP = Inputs(
    (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), 1.0, "bicubic"
)
# Counted without the projection of the class token, which nothing reads.
QUERIED = {
    name: QueriedVariant(
        config,
        params_m=params_m,
        ap=ap,
        ap_rare=rare,
        takes=CLIP,
        hub={"transformers": f"hf-hub:google/{hub}"},
    )
    for name, config, params_m, ap, rare, hub in [
        ("owlvit_b32", _B32, 152.8, 19.3, 16.9, "owlvit-base-patch32"),
        ("owlvit_b16", _B16, 152.4, 20.8, 17.1, "owlvit-base-patch16"),
        ("owlvit_l14", _L14, 433.1, 34.6, 31.2, "owlvit-large-patch14"),
        ("owlv2_b16", _V2_B16, 154.6, 41.4, 36.2, "owlv2-base-patch16-ensemble"),
        ("owlv2_l14", _V2_L14, 436.8, 48.8, 44.0, "owlv2-large-patch14-ensemble"),
    ]
}
NAMES = names.TABLES
POSITIONS = (
    Table("tower.embed.position", lambda c: tuple(side // c.patch for side in c.image), zoom_grid),
)


class OwlViT(Backbone):
    """An image (B, channels, H, W) and tokens of Q sentences each (B, Q, N) to what is found.

    Sentences that begin with token 0 are padding. Raises ValueError for images of other channels,
    sides that patches do not divide, sentences that are too long.

    Examples:
        >>> import torch, vitrail
        >>> from vitrail.models.owl_vit import Config, Text, Vision
        >>> config = Config(Vision(48, 2, 3, 96, 16), Text(97, 8, 32, 2, 4, 64), 32, image=(64, 64))
        >>> model = vitrail.create(config).eval()
        >>> found = model(torch.zeros(1, 3, 64, 64), torch.tensor([[[95, 5, 96], [95, 7, 96]]]))
        >>> found.boxes.shape, found.logits.shape
        (torch.Size([1, 16, 4]), torch.Size([1, 16, 2]))
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        c, dim = config, config.tower.dim
        self.config, self._authors = c, c.convention == "authors"
        self.tower = ImageTower(c.tower, c.image, c.channels, resized=not self._authors)
        self.text = TextTower(c.text, c.width)
        form, absent = ("tanh", -1e6) if self._authors else ("none", None)
        self.merge = nn.LayerNorm(dim, eps=1e-6 if self._authors else 1e-5)
        self.class_head = QueryHead(dim, c.width, absent=absent)
        self.box_head = TokenMlp(dim, 4, approximate=form)
        nn.init.zeros_(self.box_head.layers[-1].weight)  # pyright: ignore[reportArgumentType]
        self.objectness_head = TokenMlp(dim, 1, approximate=form) if c.objectness else None
        self.levels, self.width = self.tower.levels, dim

    def features(
        self, image: Float[Tensor, "b channels h w"], at: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Return the map of candidates (B, h, w, C), or those of the image tower's blocks `at`."""
        check_image(image, self.config, "owl_vit")
        if at is not None:
            return self.tower.features(image, at)
        tokens = self.tower.tokens(image)
        merged = self.merge(tokens[:, 1:] * tokens[:, :1])
        return [merged.unflatten(1, self.tower.embed.grid(*image.shape[-2:]))]  # pyright: ignore

    def embedding(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b width"]:
        """Return the mean of all candidates."""
        return self.features(image)[0].mean((1, 2))

    def queries(self, tokens: Int[Tensor, "q n"]) -> Float[Tensor, "q width"]:
        """Return the embeddings of sentences, which `find` takes."""
        found = self.text(tokens)
        return found if self._authors else found / found.norm(dim=-1, keepdim=True)

    def find(
        self,
        image: Float[Tensor, "b channels h w"],
        queries: Float[Tensor, "b q width"],
        present: Bool[Tensor, "b q"] | None = None,
    ) -> Found:
        """Return what embeddings find in images; queries that are not `present` find nothing."""
        return self.found(self.features(image)[0], queries, present)

    def found(
        self,
        map: Float[Tensor, "b h w c"],
        queries: Float[Tensor, "b q width"],
        present: Bool[Tensor, "b q"] | None = None,
    ) -> Found:
        """Do as `find`, with the map of candidates that `features` gave of the images."""
        x = map.flatten(1, 2)
        if present is None:
            present = torch.ones(queries.shape[:2], dtype=torch.bool, device=x.device)
        bias = cells((map.shape[1], map.shape[2]), alike=self._authors).to(x)
        logits, embeddings = self.class_head(x, queries, present)
        objectness = (
            None if self.objectness_head is None else self.objectness_head(x.detach())[..., 0]
        )
        return Found((self.box_head(x) + bias).sigmoid(), logits, embeddings, objectness)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, image: Float[Tensor, "b channels h w"], tokens: Int[Tensor, "b q n"]
    ) -> Found:
        queries = self.queries(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
        return self.find(image, queries, tokens[..., 0] > 0)

    def query_of(
        self, image: Float[Tensor, "1 channels h w"], box: Float[Tensor, "4"] | None = None
    ) -> Float[Tensor, "width"]:
        """Return the embedding of what a picture shows in a box (x0, y0, x1, y1 as shares of it),
        by default in all of it: of the candidates whose boxes fit, the least like all others."""
        from torchvision.ops import box_convert, box_iou, generalized_box_iou

        map = self.features(image)[0]
        embeddings = self.class_head.embed(map.flatten(1, 2))[0]
        none = embeddings.new_zeros(1, 0, self.config.width)
        corners = box_convert(self.found(map, none).boxes[0], "cxcywh", "xyxy")
        wanted = corners.new_tensor([[0, 0, 1, 1]]) if box is None else box.to(corners)[None]
        overlap = box_iou(wanted, corners)[0]
        if not overlap.any():
            overlap = generalized_box_iou(wanted, corners)[0]
        fits = (overlap >= 0.8 * overlap.max()).nonzero()[:, 0]
        return embeddings[fits[(embeddings[fits] @ embeddings.mean(0)).argmin()]]

    def no_decay(self) -> set[str]:
        """Return the parameters that take no weight decay: positions and tokens."""
        inner = {f"tower.{name}" for name in self.tower.no_decay()}
        return inner | {"text.position", "text.embed.weight"}


MODEL = OwlViT
