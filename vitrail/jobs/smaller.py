"""A smaller model on its way: cut, tuned, exported, judged, in its run folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vitrail import checkpoint
from vitrail.compression.choosing import Shape
from vitrail.config import to_json
from vitrail.data.labels import Labels
from vitrail.engines import engine, installed
from vitrail.errors import BudgetError, ExportError, RunError
from vitrail.jobs.cutting import UVC, choose, proxy, tuned_recipe
from vitrail.jobs.learned import learned
from vitrail.jobs.making import Making
from vitrail.models import Backbone
from vitrail.models.trunk.widths import Cut, heads_of, sizes, sliced
from vitrail.recipes.recipe import Recipe
from vitrail.report import compression
from vitrail.report.compression import Compressed
from vitrail.report.facts import Facts
from vitrail.run.before import model_json, now, worth
from vitrail.run.deploy import converted
from vitrail.run.finish import Addition, Finished, Shipped, Trained, conclude, ship
from vitrail.run.rivals import in_turns
from vitrail.run.stopping import interruptible
from vitrail.run.subject import subject
from vitrail.run.watch import Watched
from vitrail.units import seconds

START = "start.safetensors"


class Smaller(Making):
    """Cuts a model, tunes what is left by what the model was, and judges it."""

    def run(self) -> Path:
        """Do all of it; returns the run folder. Raises BudgetError where the latency is missed."""
        path = self.folder.path
        with interruptible(self.again), self.view.shown():
            with self.state.phase("cut"):
                cut, recipe = self._cut()
                raw = self.workshop.validate(self.workshop.model(recipe), recipe)
            one = subject(recipe.config)
            self.view.enter([one])
            self.view.phase(f"tuning {one.name}, {raw.main:.1%} right after the cut")
            with self.state.phase("training"):
                model, scores = Watched(self.workshop, path, one.name, self.view).to_end(recipe)
            self.view.phase("exporting, testing and reporting")
            trained = Trained(one, recipe, model, scores)
            finished, shipped = self._finish(trained, cut, raw.main)
        finished.say(self.view.console)
        limit = self.budget.latency_s
        if limit is not None and shipped.timed.held_s(self.budget) > limit:
            raise BudgetError(
                f"the smaller model takes {seconds(shipped.latency_s)} where {seconds(limit)} were "
                f"allowed: it is in {path}; give a lower --latency, or a machine that is less busy"
            )
        return path

    def _cut(self) -> tuple[Cut, Recipe]:
        """Choose what stays, and write down what the training begins with."""
        start = self.folder.path / START
        if "cut" not in self.state.values["compress"]:
            model, cut = self._chosen()
            smaller = sliced(model, cut)
            checkpoint.save(
                start, smaller.state_dict(), metadata={"config": model_json(smaller.config)}
            )
            recipe = tuned_recipe(
                self.before, smaller.config, start, self.asked, len(self.workshop.split.train)
            )
            self.folder.write_json(self.folder.recipe, to_json(recipe))
            told = self.state.values["compress"] | {"cut": to_json(cut)}
            self.state.put(compress=told, recipe=to_json(recipe))
        return self.state.get(Cut, "compress.cut"), self.state.get(Recipe, "recipe")

    def _chosen(self) -> tuple[Backbone, Cut]:
        """Return a model and what stays of it, by the method that was asked for."""
        if self.asked.method == UVC:
            self.view.phase("learning what goes")
            return learned(self.before, self.asked, self.workshop, self.folder, self.view)
        self.view.phase("asking what every channel is worth")
        model = self.before.cuttable
        return model, choose(
            model.to(self.workshop.device), self.state.get(Shape, "compress.shape"), self.asked,
            proxy(self.before, self.workshop), self.folder.checkpoints / "worth",
            shown=self.view.console.is_terminal,
        )  # fmt: skip

    def _finish(self, trained: Trained, cut: Cut, raw: float) -> tuple[Finished, Shipped]:
        """Export, judge and report, with what it was beside it."""
        desk = self.desk()
        with self.folder.scratch() as scratch:
            shipped = ship(trained, desk, scratch)
            told = (self.before.result["validation"]["accuracy"], raw, trained.scores.main)

            def adds(facts: Facts) -> Addition:
                made = self._told(facts, shipped, cut, told)
                return Addition(
                    compression.chapter(made), {"compressed": made.to_json()}, self.among(made.now)
                )

            return conclude(trained, shipped, replace(desk, adds=adds), scratch), shipped

    def _told(
        self, facts: Facts, shipped: Shipped, cut: Cut, told: tuple[float, float, float]
    ) -> Compressed:
        """Put both models side by side."""
        then, today, old = worth(self.before), now(facts), self.before
        gain, others = None, []
        if old.run.onnx.is_file():
            first, second, gain = in_turns(
                old.run.onnx, self.folder.onnx, (old.labels, shipped.labels), self.budget.threads
            )
            then = replace(then, latency_s=first.p50_s)
            today = replace(today, latency_s=second.p50_s)
            labels = old.labels, shipped.labels
            others = [self._elsewhere(name, labels) for name in installed()[1:]]
        model = old.cuttable
        known = sizes(model)
        heads = {
            width: (heads_of(model.config, width), count) for width, count in cut.heads.items()
        }
        return Compressed(
            str(old.run.path), self.asked.method, self.asked.limits.spoken(), then, today, gain,
            told, compression.rows(known, cut.kept, heads, cut.without), self._steps(), others,
        )  # fmt: skip

    def _elsewhere(self, name: str, labels: tuple[Labels, Labels]) -> str:
        """Say what both models take in another engine than ONNX Runtime, in turns."""
        title, apart = engine(name).title, self.apart
        try:
            with self.folder.scratch() as scratch:
                files = []
                for part, onnx in enumerate((self.before.run.onnx, self.folder.onnx)):
                    place = scratch / str(part)
                    place.mkdir()
                    files.append(apart.call(converted, name, onnx, labels[part], place))
                first, second, gain = apart.call(
                    in_turns, *files, labels, self.budget.threads, name
                )  # fmt: skip
        except (ExportError, RunError) as error:
            return f"{title} cannot compare them: {error}."
        middle, low, high = gain
        return (
            f"In {title} the model takes {seconds(second.p50_s)}, before {seconds(first.p50_s)}: "
            f"{middle:.2f} times as fast ({low:.2f} to {high:.2f})."
        )

    def _steps(self) -> int:
        return self.state.get(Recipe, "recipe").steps.total
