"""Objects with their outlines: boxes as a detection has them, and which pixels are an object's.

A run is chosen by its boxes, and judged by both: COCO's mean average precision of boxes, and the
same of outlines, in pixels of each picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import nn

from vitrail.data.box_batches import OutlineBatches
from vitrail.data.cache import Pixels
from vitrail.data.instances import with_pictures
from vitrail.data.labels import Labels
from vitrail.data.outlines import pasted
from vitrail.data.source import Source
from vitrail.errors import ConfigError
from vitrail.layers import boxes as layer
from vitrail.layers.normal import Normal
from vitrail.models import Backbone
from vitrail.models.mask_rcnn import MaskRcnn
from vitrail.report.scores import Score
from vitrail.tasks import finding
from vitrail.tasks.detection import MOST_WATCHED, Detection, asked
from vitrail.tasks.finding import Finds, Outlines, Shown
from vitrail.tasks.found import of_outlines
from vitrail.tasks.task import Order, Outputs, in_order, shuffled

OUTLINES = "of outlines"


@dataclass(frozen=True)
class Instances(Detection):
    """Finds objects, draws a box around each and says which pixels are theirs.

    vitrail fit photos/ --task instances
    vitrail train --set task=instances --set model=resnet_18 --set data=photos/
    """

    outlines: ClassVar[bool] = True

    def source(self, spec: str | Path, *, progress: bool = False) -> Source:
        """List the images behind `spec` with the outlines of their objects. Raises DataError, and
        ConfigError where what judges them is not installed."""
        return with_pictures(super().source(spec, progress=progress), progress=progress)

    def model(self, backbone: Backbone) -> nn.Module:
        """Return the network itself, which draws outlines. Raises ConfigError for others."""
        if not isinstance(backbone, MaskRcnn):
            raise ConfigError(
                f"{type(backbone).__name__} draws no outlines: take model.family=mask_rcnn"
            )
        return backbone

    def training(self, pixels: Pixels, normal: Normal, order: Order) -> OutlineBatches:
        """Return shuffled batches, augmented with boxes and outlines: targets float32 (b, m, c)."""
        return shuffled(OutlineBatches, order, normal, pixels)

    def watching(self, pixels: Pixels, normal: Normal) -> OutlineBatches:
        """Return batches to judge by."""
        return in_order(OutlineBatches, MOST_WATCHED, normal, pixels)

    def judge(self, model: nn.Module, images: Pixels, normal: Normal, device: Any) -> Finds:
        """Ask a finished model about the test images, outlines and all, and keep some to show."""
        from pycocotools import mask  # pyright: ignore[reportMissingImports]

        truths = finding.truths(images)
        found: dict[int, list[Any]] = {}

        def each(row: int, boxes: np.ndarray, one: layer.Boxes) -> None:
            assert one.masks is not None
            size = truths[row].size or (1, 1)
            drawn = (
                pasted(inside, box, size)
                for inside, box in zip(one.masks.cpu().numpy(), boxes, strict=True)
            )
            found[row] = [mask.encode(np.asfortranarray(own.astype(np.uint8))) for own in drawn]

        told = asked(model, self.watching(images, normal), device, each)
        there = [[_runs(one, truth.size or (1, 1)) for one in truth.outlines] for truth in truths]
        outlines = Outlines(there, [found[row] for row in range(len(truths))])
        told = self.with_shown(replace(told, outlines=outlines), images)
        return replace(told, shown=[_outlined(one, outlines) for one in told.shown])

    def judged(self, outputs: Outputs, labels: Labels) -> Mapping[str, Any]:
        """Return the figures of boxes, and those of outlines beside them."""
        told = super().judged(outputs, labels)
        assert isinstance(outputs, Finds)
        if outputs.outlines is None:
            return told
        found = finding.matches(outputs, outputs.classes, outputs.outlines)
        test: Score = told["test"]
        main = finding.known(finding.mean_precision(found))
        half = finding.known(finding.mean_precision(found, overlap=0))
        figures = {**test.figures, OUTLINES: main, f"{OUTLINES} at overlap 0.5": half}
        spread = finding.interval(main, finding.resampled(found, len(outputs)))
        chapters = [*told["chapters"], of_outlines(found, labels, spread)]
        return {**told, "test": replace(test, figures=figures), "chapters": chapters}

    def sentence(self, judged: Mapping[str, Any]) -> str:
        """Return what is said of boxes, and the mean of outlines."""
        test: Score = judged["test"]
        own = test.figures.get(OUTLINES)
        return super().sentence(judged) + ("" if own is None else f"; {OUTLINES} {own:.1%}")


def _runs(outline: Any, size: tuple[int, int]) -> Any:
    """Return an outline of a picture (H, W) as run lengths, drawn as COCO draws it."""
    from pycocotools import mask  # pyright: ignore[reportMissingImports]

    if isinstance(outline, Mapping) and isinstance(outline["counts"], str):
        return outline
    found: Any = mask.frPyObjects(outline, *size)  # pyright: ignore
    return mask.merge(found) if isinstance(found, list) else found


def _outlined(one: Shown, outlines: Outlines) -> Shown:
    """Return a test image with the pixels of its objects and answers at its own size."""
    from pycocotools import mask  # pyright: ignore[reportMissingImports]

    height, width = one.image.shape[:2]

    def small(runs: list[Any]) -> np.ndarray:
        out = np.zeros((len(runs), height, width), bool)
        for row, own in zip(out, runs, strict=True):
            whole = mask.decode(own)
            down = (np.arange(height) + 0.5) * whole.shape[0] / height
            right = (np.arange(width) + 0.5) * whole.shape[1] / width
            row[:] = whole[down.astype(int)][:, right.astype(int)]
        return out

    return replace(
        one, there=small([*outlines.there[one.row]]), masks=small([*outlines.found[one.row]])
    )
