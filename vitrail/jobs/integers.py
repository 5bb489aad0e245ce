"""A finished run in 8-bit integers: quantised, judged by the file's own answers, reported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.config import to_json
from vitrail.data.labels import Labels
from vitrail.engines import ENGINES, Answer, engine
from vitrail.jobs.making import Making
from vitrail.layers.normal import Normal
from vitrail.report import compression
from vitrail.report.compression import Compressed
from vitrail.report.facts import Facts
from vitrail.run.before import now, worth
from vitrail.run.deploy import MAX_DROP, Deployed, Given, deployed, note
from vitrail.run.exported import Timed
from vitrail.run.finish import Addition, Shipped, Trained, conclude, ship
from vitrail.run.images import real_images
from vitrail.run.stopping import interruptible
from vitrail.run.watch import checkpoints

PLAIN = ENGINES[0]


class Answering(nn.Module):
    """An opened file in place of a model: normalised images (B, C, H, W) to logits (B, K)."""

    def __init__(self, answer: Answer, labels: Labels) -> None:
        super().__init__()
        self.answer, self.labels = answer, labels

    def forward(self, images: Tensor) -> Tensor:
        # What was normalised were whole numbers of 0 to 255, so that this is exact.
        pixels = (Normal(self.labels.mean, self.labels.std).undo(images.cpu()) * 255).round()
        asked = pixels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        return torch.from_numpy(np.asarray(self.answer(asked)[1])).to(images)


class Integers(Making):
    """Quantises a model's file and judges it by its own answers."""

    def run(self) -> Path:
        """Do all of it; returns the run folder. Raises ExportError where int8 loses too much."""
        old, path = self.before, self.folder.path
        with interruptible(self.again), self.view.shown():
            one, recipe, workshop = old.subject, old.recipe, self.data.workshop
            self.view.phase("exporting")
            journal = checkpoints(path, one.name) / "metrics.jsonl"
            journal.parent.mkdir(parents=True, exist_ok=True)
            self.folder.write_bytes(journal, old.run.metrics.read_bytes())
            trained = Trained(one, recipe, old.model, workshop.validate(old.model, recipe))
            desk = self.desk()
            with self.folder.scratch() as scratch:
                shipped = ship(trained, desk, scratch)
                self.folder.save_model(old.model, to_json(recipe), shipped.labels)
                self.view.phase("quantising")
                made = self._quantised(shipped.labels, scratch)
                small = path / engine(PLAIN).int8_file
                answer = engine(PLAIN).open(small, shipped.labels, threads=self.budget.threads)
                trained = replace(trained, judged=Answering(answer, shipped.labels))
                desk = replace(desk, adds=lambda facts: self._added(facts, made))
                finished = conclude(trained, _timed(shipped, made, small), desk, scratch)
            # The same weights were saved again, which makes another file of them.
            note(self.folder, made, engine(PLAIN))
        finished.say(self.view.console)
        return path

    def _quantised(self, labels: Labels, scratch: Path) -> Deployed:
        images = real_images(self.folder, to_json(self.before.recipe), labels, None, progress=False)
        allowed = MAX_DROP if self.asked.max_drop is None else self.asked.max_drop
        return deployed(
            engine(PLAIN), Given(self.folder, self.before.model, labels, images), scratch,
            max_drop=allowed, threads=self.budget.threads,
            progress=self.view.console.is_terminal,
        )  # fmt: skip

    def _added(self, facts: Facts, made: Deployed) -> Addition:
        """Put float and integers side by side."""
        file, int8 = engine(PLAIN).int8_file, made.int8
        assert int8 is not None
        then = replace(worth(self.before), latency_s=made.latency[self.folder.onnx.name].p50_s)
        kept = f"{len(int8.kept)} of {int8.nodes}" if int8.kept else "none"
        told = Compressed(
            str(self.before.run.path), "int8", f"{int8.max_drop:g} points", then, now(facts),
            made.gain[file],
            notes=(
                f"In integers of 8 bits the model is right on {int8.score:.1%} of "
                f"{int8.n} held-back images, in float on {int8.float_score:.1%}; of its nodes "
                f"with weights or products {kept} stay in float. The test figures here are those "
                f"of {file}.",
            ),
        )  # fmt: skip
        return Addition(
            compression.chapter(told), {"compressed": told.to_json()}, self.among(told.now)
        )


def _timed(shipped: Shipped, made: Deployed, small: Path) -> Shipped:
    """Return what was shipped, with the integers' size and latency in place of the floats'."""
    latency = made.latency[small.name]
    timed = Timed(PLAIN, {PLAIN: latency}, {}, {PLAIN: latency.quickest_s}, {})
    exported = replace(shipped.exported, size_bytes=small.stat().st_size)
    return replace(shipped, exported=exported, timed=timed)
