"""Objects that sentences or a picture ask for, found by OWL-ViT's weights, with boxes drawn.

An image is padded with grey below and right to a square, as in training, so that boxes keep their
proportions. What a sentence means is computed once, however many images are asked.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail import checkpoint, files
from vitrail.config import read_json
from vitrail.data import drawn as answers
from vitrail.data.decode import BrokenImage, decode_full, read_file
from vitrail.data.labels import Labels
from vitrail.data.words import Words, opened
from vitrail.errors import CheckpointError, ConfigError, RunError
from vitrail.jobs.masks import check_out, names
from vitrail.models import family_of, identify, load
from vitrail.models.owl_vit import CLIP, Config, OwlViT
from vitrail.report.boxes import Box, drawn
from vitrail.report.predictions import shown_json
from vitrail.run.folder import TIE
from vitrail.run.open_vocabulary import beside
from vitrail.tasks.queried import boxes_in

LABELS = "labels.json"
THRESHOLD = 0.1
# An image by a picture: scores are shares of the best one.
LIKE = 0.6
LEAST = 1e-3
GREY = 0.5


@dataclass(frozen=True)
class Detected:
    """What was found in an image: boxes, the likeliest first, and the picture of them; or why
    nothing could be looked for."""

    path: str
    boxes: tuple[Box, ...] = ()
    size: tuple[int, int] | None = None
    picture: str | None = None
    error: str | None = None


class Detector:
    """Weights of an OWL-ViT or OWLv2 that look for what they are asked.

    `weights` is a file or a Hub reference under the names of the authors, transformers or vitrail;
    `tokenizer` a tokenizer.json, by default that beside the weights. Raises CheckpointError and
    DataError.
    """

    def __init__(
        self, weights: str | os.PathLike, tokenizer: str | os.PathLike | None = None
    ) -> None:
        known = identify(weights)
        if not isinstance(known.config, Config):
            raise CheckpointError(
                f"{weights} is {known.name}, of {family_of(known.config)}: give weights of OWL-ViT "
                "or OWLv2"
            )
        source = None if known.source == "vitrail" else known.source
        model = load(known.config, weights, source=source)
        assert isinstance(model, OwlViT)
        self.model, self.config = model, known.config
        self._weights, self._tokenizer = os.fspath(weights), tokenizer
        self._words: Words | None = None
        self._known: dict[str, Tensor] = {}

    @property
    def usual(self) -> float:
        """Return the least score of what is shown for words: that which was best on the validation
        images of a run, 0.1 of other weights."""
        file = checkpoint.located(self._weights).with_name(LABELS)
        if not file.is_file():
            return THRESHOLD
        return read_json(file, Labels, remedy="restore it", leave_out=(TIE,)).threshold or THRESHOLD

    @property
    def words(self) -> Words:
        """Return how sentences become ids. Raises CheckpointError where nothing says so."""
        if self._words is None:
            path = (
                Path(self._tokenizer)
                if self._tokenizer
                else beside(self._weights, "--tokenizer FILE")
            )
            words = opened(path, self.config.text.length, pad=0)
            if words.size > self.config.text.vocabulary:
                raise CheckpointError(
                    f"{path} has {words.size} tokens and the weights know "
                    f"{self.config.text.vocabulary}: give the tokenizer.json of these weights"
                )
            self._words = words
        return self._words

    @torch.inference_mode()
    def queries(self, sentences: Sequence[str]) -> Tensor:
        """Return an embedding of each sentence (Q, width); each is computed once."""
        if new := [one for one in dict.fromkeys(sentences) if one not in self._known]:
            found = self.model.queries(torch.from_numpy(self.words(new)))
            self._known |= dict(zip(new, found, strict=True))
        return torch.stack([self._known[one] for one in sentences])

    @torch.inference_mode()
    def query_of(self, image: np.ndarray) -> Tensor:
        """Return the embedding of what a picture, uint8 (h, w, 3), shows: (1, width)."""
        h, w = image.shape[:2]
        side = max(h, w)
        whole = torch.tensor([0, 0, w / side, h / side])
        return self.model.query_of(self._seen(image), whole)[None]

    @torch.inference_mode()
    def find(
        self,
        image: np.ndarray,
        queries: Tensor,
        called: Sequence[str],
        *,
        threshold: float = THRESHOLD,
        alike: bool = False,
    ) -> tuple[Box, ...]:
        """Return the boxes in an image, uint8 (h, w, 3), of queries (Q, width), which are `called`.

        A score is a probability; where queries are pictures (`alike`) it is divided by the best.
        """
        found = self.model.find(self._seen(image), queries[None])
        scores = found.logits[0].sigmoid()
        if alike:
            best = scores.amax(0)
            scores = torch.where(best >= LEAST, scores / best.clamp(min=LEAST), 0.0)
        size = image.shape[0], image.shape[1]
        corners, some, kinds = boxes_in(found.boxes[0], scores, size, least=threshold)
        return tuple(
            Box(called[int(kind)], score, tuple(own))
            for own, score, kind in zip(
                corners.tolist(), some.tolist(), kinds.tolist(), strict=True
            )
        )

    def _seen(self, image: np.ndarray) -> Tensor:
        """Return pixels as the network takes them: (1, 3, H, W) of a square
        that was padded with grey.
        """
        h, w = image.shape[:2]
        x = torch.full((1, 3, max(h, w), max(h, w)), GREY)
        x[..., :h, :w] = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        x = torch.nn.functional.interpolate(
            x, self.config.image, mode="bilinear", antialias=True, align_corners=False
        )
        mean, std = (torch.tensor(v)[:, None, None] for v in (CLIP.mean, CLIP.std))
        return (x - mean) / std


@dataclass(frozen=True)
class Asked:
    """What is looked for: sentences, or a picture; `threshold` is the least score, by default that
    which a run found best, or 0.1, of a sentence, and 0.6 of the best of a picture."""

    sentences: tuple[str, ...] = ()
    like: str | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if bool(self.sentences) == (self.like is not None):
            raise ConfigError(
                "what to look for is said once: by --for 'a sleeve', again for more, or by a "
                "picture, --like FILE"
            )
        if not all(one.strip() for one in self.sentences):
            raise ConfigError("--for is empty: say what to look for, as 'a sleeve'")
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ConfigError(f"threshold is {self.threshold}: give a share above 0 and up to 1")

    def least(self, usual: float = THRESHOLD) -> float:
        """Return the least score of what is shown; `usual` is that of words."""
        usual = usual if self.like is None else LIKE
        return usual if self.threshold is None else self.threshold


def detect(
    detector: Detector, images: Sequence[str], asked: Asked, *, out: Path | None = None
) -> list[Detected]:
    """Look into image files; with `out` their pictures with boxes are written there.

    A file that is not an image gets its reason and stops nothing. Raises DataError, RunError.
    """
    from vitrail.data.parallel import in_order

    if out is not None:
        check_out(out)
    if asked.like is None:
        called = tuple(dict.fromkeys(" ".join(one.split()) for one in asked.sentences))
        queries = detector.queries(called)
    else:
        called = (Path(asked.like).name,)
        queries = detector.query_of(_image(asked.like))
    files_of, least = names(images), asked.least(detector.usual)

    def work(rows: range) -> list[Detected]:
        return [one(row) for row in rows]

    def one(row: int) -> Detected:
        try:
            image = _image(images[row])
        except ConfigError as error:
            return Detected(images[row], error=str(error))
        boxes = detector.find(image, queries, called, threshold=least, alike=asked.like is not None)
        picture = None
        if out is not None:
            picture = str(out / f"{files_of[row]}-boxes.png")
            _write(Path(picture), drawn(image, boxes, called))
        return Detected(images[row], boxes, (image.shape[0], image.shape[1]), picture)

    batches = in_order(
        work, len(images), size=1, workers=1, title="looking", progress=len(images) > 1
    )
    return [found for batch in batches for found in batch]


def free_folder() -> Path:
    """Return a folder in the working directory that is not there yet: detections."""
    number = 1
    while (path := Path("detections" + (f"-{number}" if number > 1 else ""))).exists():
        number += 1
    return path


def as_json(found: Sequence[Detected]) -> str:
    """Return what was found as JSON: boxes are x0, y0, x1, y1 in pixels."""
    return shown_json([asdict(one) for one in found])


def _image(path: str) -> np.ndarray:
    """Read a file as uint8 (h, w, 3). Raises ConfigError, in one sentence, for any other file."""
    try:
        return decode_full(read_file(path), 3)
    except BrokenImage as error:
        raise ConfigError(f"image {path} {error.reason}: give another") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"image {path} cannot be read ({reason}): give another") from error


def _write(path: Path, picture: Any) -> None:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    try:
        answers.make(path.parent)
        files.write(path, buffer.getvalue())
    except OSError as error:
        raise RunError(
            f"{path} cannot be written ({files.reason(error)}): name another folder by --out"
        ) from error
