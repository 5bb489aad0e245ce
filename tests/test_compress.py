"""A finished run is made smaller: the budget is kept, the test part is opened once, a stop costs
nothing, and what cannot be is said before any time is spent."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from io import StringIO
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from support.pictures import write_classes
from test_sizes import WHOLE

import vitrail
from vitrail.compression.sizes import largest, least, scaled
from vitrail.config import to_json
from vitrail.engines import ENGINES
from vitrail.errors import BudgetError, ConfigError, DataError, RunError, VitrailError
from vitrail.jobs import cutting, smaller
from vitrail.jobs.compress import compress
from vitrail.jobs.kin import kin
from vitrail.jobs.train import train_recipe
from vitrail.layers.switches import counts, switches
from vitrail.models import config_json, deit, vit
from vitrail.report.chapter import Paragraph, Table
from vitrail.report.compression import Compressed, Row, Worth, chapter, picture, rows
from vitrail.report.kin import Kin, best, front
from vitrail.run import finish
from vitrail.run.before import before, worth
from vitrail.run.subject import counted
from vitrail.training.interrupt import Interrupted

MODEL = [
    "model=vit_ti16", "model.image=16,16", "model.patch=8", "model.dim=16", "model.depth=2",
    "model.heads=2", "model.hidden=32", "model.pool=mean", "model.position=sincos",
    "steps.batch=8", "steps.total=4",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A ViT of nearly no training, its data beside it."""
    root = tmp_path_factory.mktemp("compress")
    photos = write_classes(root / "photos", {"cat": 20, "dog": 20})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITRAIL_CACHE", str(root / "cache"))
        train_recipe(
            [*MODEL, f"data={photos}"], out=root / "run", threads=1, device="cpu", console=silent()
        )
    return root / "run"


@pytest.fixture(autouse=True)
def cache(monkeypatch, trained):
    monkeypatch.setenv("VITRAIL_CACHE", str(trained.parent / "cache"))


@pytest.fixture(autouse=True)
def one_engine(request, monkeypatch):
    """Another engine is another process, which has its own test."""
    if "engines" not in request.fixturenames:
        monkeypatch.setattr(smaller, "installed", lambda: ENGINES[:1])


@pytest.fixture
def engines():
    """All that are installed."""


def silent():
    return Console(file=StringIO(), width=200)


def stopped(*_):
    raise KeyboardInterrupt


def made(run, out, **options):
    return compress(run, out=out, threads=1, device="cpu", console=silent(), **options)


def test_a_smaller_run_keeps_its_budget_and_is_judged_once(trained, tmp_path, monkeypatch):
    opened = []
    judge = finish.judge
    monkeypatch.setattr(finish, "judge", lambda *a: opened.append(a) or judge(*a))
    run = made(trained, tmp_path / "half", macs="50%", epochs=1)
    assert len(opened) == 1
    old, new = json.loads((trained / "result.json").read_text()), run.result
    assert 0.3 < new["model"]["macs"] / old["model"]["macs"] <= 0.5
    told = new["compressed"]
    assert told["before"]["accuracy"] == old["test"]["accuracy"]
    assert told["now"]["accuracy"] == new["test"]["accuracy"]
    assert told["now"]["n"] == old["test"]["n"] == new["test"]["n"]
    kept, whole = told["kept"]["MLP 1"]
    assert 0 < kept < whole == 32
    page = run.report.read_text()
    assert "What became smaller" in page and "Which channels of every width stay" in page
    model = run.model()
    assert model.config.hidden == kept and model.config.position == "learned"
    assert len(run.predict(str(trained.parent / "photos/cat/000.png"))) == 1
    recipe = json.loads((run.path / "recipe.json").read_text())
    assert recipe["objective"]["kind"] == "summed_distillation"
    assert recipe["steps"]["total"] == 28 // 8


def test_integers_are_judged_by_their_own_answers(trained, tmp_path):
    run = made(trained, tmp_path / "int8", method="int8", max_drop=100)
    told = run.result["compressed"]
    assert told["method"] == "int8" and told["now"]["macs"] == told["before"]["macs"]
    assert told["now"]["size_bytes"] == (run.path / "model.int8.onnx").stat().st_size
    assert "stay in float" in run.report.read_text()
    assert "Beside its kin" in run.report.read_text()
    found = vitrail.evaluate(run, trained.parent / "photos", engine="onnxruntime")
    assert 0 <= found.figures["test"]["accuracy"] <= 1


def test_a_file_of_weights_is_judged_as_it_is_and_then_made_smaller(trained, tmp_path):
    file, photos = trained / "weights.safetensors", trained.parent / "photos"
    made(None, tmp_path / "int8", pretrained=file, data=photos, method="int8", max_drop=100)
    whole = vitrail.runs.Run(tmp_path / "int8-whole")
    assert "nothing was trained here" in whole.report.read_text()
    theirs = load_file(file)
    assert all(torch.equal(v, theirs[n]) for n, v in whole.model().state_dict().items())
    told = json.loads((tmp_path / "int8" / "result.json").read_text())["compressed"]
    assert told["source"] == str(tmp_path / "int8-whole")
    assert told["before"]["accuracy"] == whole.result["test"]["accuracy"]
    assert not (whole.path / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"macs": "50%"}, "comes without images: name labelled ones by --data"),
        ({"data": "photos"}, "no budget is given"),
        ({"data": "photos", "macs": "50%", "run": "run"}, "both say what is made smaller"),
        ({"pretrained": None, "macs": "50%"}, "no run is given: vitrail compress RUN"),
    ],
)
def test_a_file_of_weights_needs_images_and_a_budget(trained, tmp_path, options, said):
    options = {"pretrained": trained / "weights.safetensors"} | options
    with pytest.raises(VitrailError, match=said):
        made(options.pop("run", None), tmp_path / "run", **options)
    assert not [*tmp_path.iterdir()]


def test_a_file_of_other_classes_is_trained_first(trained, tmp_path):
    more = write_classes(tmp_path / "more", {"cat": 8, "cow": 8, "dog": 8})
    with pytest.raises(ConfigError, match=r"tells 2 classes and .* has 3: fit a head for these"):
        made(None, tmp_path / "run", pretrained=trained / "weights.safetensors", data=more,
             macs="50%")  # fmt: skip
    assert not (tmp_path / "run-whole").exists()


def test_gelus_and_softmaxes_go_for_computing_on_secrets(trained, tmp_path):
    """Of 2 blocks of 4 tokens and 2 heads at most 3 tokens and a half of the rows stay."""
    run = made(trained, tmp_path / "privit", method="privit", gelus=3, softmaxes="50%", epochs=2)
    told = run.result["compressed"]
    assert told["gelus"] == [3, 8] and told["softmaxes"] == [8, 16]
    assert told["predicted"]["now"]["bytes"] < told["predicted"]["before"]["bytes"]
    assert told["now"]["macs"] == told["before"]["macs"]
    model = run.model()
    assert counts(model) == (3, 8)
    assert all(set(one.unique().tolist()) <= {0, 1} for kind in switches(model) for one in kind)
    page = run.report.read_text()
    assert "Which GELUs and softmaxes of every block stay" in page
    assert re.search(r"test accuracy</td>.*?% \(.* to .* %\)", page, re.DOTALL)
    assert "latency as exported</td>" in page
    assert len(run.predict(str(trained.parent / "photos/cat/000.png"))) == 1


@pytest.mark.slow  # trains once more
def test_a_latency_is_kept_by_what_models_take_as_exported(trained, tmp_path, monkeypatch):
    """The run takes 1 s, it says, and models take that in proportion to their multiply-adds."""
    slow = tmp_path / "run"
    shutil.copytree(trained, slow)
    told = json.loads((slow / "result.json").read_text())
    told["latency"]["p50_s"], whole = 1.0, told["model"]["macs"]
    (slow / "result.json").write_text(json.dumps(told))
    timed = []

    def latency(recipe, *_, **__):
        timed.append(counted(recipe.config).macs / whole)
        return SimpleNamespace(held_s=lambda budget: timed[-1])

    monkeypatch.setattr(cutting, "exported_latency", latency)
    run = made(slow, tmp_path / "half", latency="50%", method="magnitude", epochs=1)
    assert 0.4 < run.result["model"]["macs"] / whole <= 0.5
    assert len(timed) == len(set(timed)) > 3
    assert run.result["budget"]["latency_s"] == 0.5


def test_kin_are_runs_of_the_same_beginning(tmp_path):
    """a was made smaller to b, b to c; d is of another beginning, e is not a run."""
    test = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "n": 90}
    plain = {"test": test, "latency": {"p50_s": 1e-3}, "model": {"macs": 9, "params": 3}}
    sources = {"a": None, "b": ("a", "up"), "c": ("b", "int8"), "d": None, "e": None}
    for name, source in sources.items():
        (tmp_path / name).mkdir()
        made = {"source": str(tmp_path / source[0]), "method": source[1]} if source else None
        told = plain if made is None else plain | {"compressed": made}
        (tmp_path / name / "result.json").write_text("" if name == "e" else json.dumps(told))
    found = kin(tmp_path / "new", tmp_path / "b", 90)
    assert [(one.name, one.way) for one in found] == [
        ("a", "whole"), ("b", "up"), ("c", "up + int8"),
    ]  # fmt: skip
    assert kin(tmp_path / "c", tmp_path / "b", 90) == found[:2]
    assert kin(tmp_path / "new", tmp_path / "b", 91) == []


def test_the_front_is_what_nothing_beats_in_both():
    def run(name, accuracy, latency):
        way = "whole" if name == "a" else "up + int8"
        return Kin(name, way, Worth(accuracy, 0, 1, 90, 9, 3, latency))

    runs = [run("a", 0.9, 3), run("b", 0.8, 2), run("c", 0.7, 2.5), run("d", 0.6, 1)]
    assert [one.name for one in best(runs)] == ["d", "b", "a"]
    drawn = front(runs, "b", (4.0, 3.0))
    assert "up + int8" in drawn and "whole" in drawn


@pytest.mark.slow  # another process loads another engine
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_both_models_are_timed_in_another_engine(trained, tmp_path, engines, engine):
    run = made(trained, tmp_path / "half", macs="50%", method="random", epochs=0.5, engine=engine)
    page = run.report.read_text()
    assert re.search(r"In OpenVINO the model takes .* before .* times as fast \(", page)
    if engine == "openvino":
        assert {one["name"] for one in run.result["engines"]} == {"onnxruntime", "openvino"}


@pytest.mark.slow  # each trains, prunes, exports and reports twice
@pytest.mark.parametrize("name", [n for n in WHOLE if n not in ("vit", "vit, map")])
def test_every_family_with_widths_is_made_smaller(trained, tmp_path, name):
    """By the importance of its channels, from its training to its report."""
    file, photos = tmp_path / "model.json", trained.parent / "photos"
    file.write_text(json.dumps({"model": to_json(config_json(WHOLE[name]))}))
    words = [f"model={file}", f"data={photos}", "steps.batch=8", "steps.total=2"]
    train_recipe(words, out=tmp_path / "run", threads=1, device="cpu", console=silent())
    run = made(tmp_path / "run", tmp_path / "half", macs="60%", epochs=0.5)
    told = run.result["compressed"]
    assert told["now"]["macs"] <= 0.6 * told["before"]["macs"]
    assert "Which channels of every width stay" in run.report.read_text()


@pytest.mark.slow  # trains twice
def test_what_goes_may_be_learned(trained, tmp_path):
    run = made(trained, tmp_path / "uvc", method="uvc", macs="60%", epochs=1)
    old = json.loads((trained / "result.json").read_text())
    assert run.result["model"]["macs"] <= 0.6 * old["model"]["macs"]
    assert run.result["compressed"]["method"] == "uvc"
    assert run.model().config.dim == 16


@pytest.mark.slow  # trains, exports and reports twice
def test_a_stop_costs_nothing(trained, tmp_path, monkeypatch):
    """What channels are worth is asked once; the weights are those of an undisturbed training."""
    whole = made(trained, tmp_path / "whole", macs="60%", epochs=1, method="random", seed=3)
    with monkeypatch.context() as patch:
        patch.setattr(smaller.Watched, "to_end", stopped)
        with pytest.raises(Interrupted, match=r"compress .* --resume"):
            made(trained, tmp_path / "run", macs="60%", epochs=1, method="random", seed=3)
    with monkeypatch.context() as patch:
        patch.setattr(smaller, "choose", None)
        run = made(trained, tmp_path / "run", resume=True)
    ours, theirs = run.model().state_dict(), whole.model().state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_latency_is_measured_on_as_many_threads_after_a_stop(trained, tmp_path, monkeypatch):
    seen = []

    def run(self):
        seen.append(self.budget.threads)
        raise Interrupted(self.again)

    monkeypatch.setattr(smaller.Smaller, "run", run)
    asked = {"method": "random", "macs": "50%", "threads": 3}
    for options in (asked, {"resume": True}, {"resume": True, "threads": 2}):
        with pytest.raises(Interrupted):
            compress(trained, out=tmp_path / "run", console=silent(), **options)
    assert seen == [3, 3, 2]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({}, BudgetError, "no budget is given: add --macs 50%"),
        ({"macs": "3G"}, BudgetError, r"--macs 3G is 3 G, and the model has .*: give .* down to"),
        ({"params": "100%"}, BudgetError, r"--params 100% is .*: give less than that, down to \d+"),
        ({"macs": "3G", "method": "uvc"}, BudgetError, r"the model has .*: give less than that$"),
        ({"macs": "0.1%"}, BudgetError, r"one head and one neuron .* multiply-adds from .* to "),
        ({"params": 20}, BudgetError, "parameters from .* to "),
        ({"macs": "x"}, BudgetError, "'x' is not a number"),
        ({"macs": "50%", "method": "magic"}, ConfigError, "--method 'magic' is unknown"),
        ({"macs": "50%", "epochs": 0}, ConfigError, "--epochs is 0: give a number above 0"),
        ({"method": "int8", "macs": "50%"}, ConfigError, "int8 keeps all channels .* no --macs"),
        ({"method": "uvc", "params": "50%"}, ConfigError, "uvc learns under .* give --macs"),
        ({"method": "uvc", "macs": "2%"}, BudgetError, "one block of one head and one neuron"),
        ({"method": "privit"}, BudgetError, "all 8 tokens of GELU and 16 rows .* give --gelus"),
        ({"method": "privit", "gelus": 9}, BudgetError, "--gelus 9 is 9, and the model has 8"),
        ({"gelus": 3}, ConfigError, "budgets of --method privit, .* add one of these"),
        ({"method": "privit", "gelus": 3, "macs": "50%"}, ConfigError, "keep all channels, .* out"),
        ({"macs": "50%", "max_drop": 1}, ConfigError, "--max-drop limits what int8 may lose"),
        ({"macs": "50%", "engine": "tvm"}, ConfigError, "--engine is 'tvm'"),
        ({"method": "int8", "engine": "auto"}, ConfigError, "make others by `vitrail export"),
        ({"macs": "50%", "threads": 0}, ConfigError, "threads is 0"),
        ({"macs": "50%", "budget": 1}, ConfigError, "compress has no option 'budget'"),
        ({"macs": "50%", "data": "gone"}, DataError, "cannot be read .* give where they are by"),
    ],
)
def test_what_cannot_be_is_said_first(trained, tmp_path, options, error, said):
    with pytest.raises(error, match=said):
        compress(trained, out=tmp_path / "run", console=silent(), **options)
    assert not (tmp_path / "run").exists()


def test_other_images_are_not_taken_for_the_runs(trained, tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(trained.parent / "photos", photos)
    (photos / "cat" / "003.png").unlink()
    with pytest.raises(RunError, match=r"are not those of .* give where these are"):
        compress(trained, macs="50%", data=photos, out=tmp_path / "run", console=silent())


def test_only_what_was_trained_here_can_be_made_smaller(trained, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    (other / "result.json").unlink()
    with pytest.raises(RunError, match="was not trained and judged here"):
        compress(other, macs="50%", console=silent())
    with pytest.raises(RunError, match="was not made by `vitrail compress`"):
        compress(other, out=other, resume=True, console=silent())


@pytest.mark.parametrize("share", [0.5, 0.2])
@pytest.mark.parametrize(
    "config", [deit.Config(), vit.Config(dim=48, depth=3, heads=4, hidden=100, image=(32, 32))]
)
def test_the_largest_sizes_within_a_budget(config, share):
    limit = share * counted(config).macs
    found = largest(config, lambda one: counted(one).macs <= limit)
    assert 0.9 * limit < counted(found.config).macs <= limit
    assert largest(config, lambda one: counted(one).macs < 10) is None


def test_the_least_is_one_head_of_one_channel_and_one_neuron():
    small = least(deit.Config()).config
    assert (small.heads, small.inner, small.hidden) == (1, 1, 1)
    assert scaled(deit.Config(), 1.0).config == deit.Config()


def test_the_picture_has_a_stripe_for_each_run_of_channels():
    sizes = {"dim": 8, "inner.0": 4, "hidden.0": 6, "inner.1": 4, "hidden.1": 6}
    kept = {"dim": (0, 1, 2, 5), "inner.0": (0, 1), "hidden.0": (5,)}
    found = rows(sizes, kept, {"inner.0": (2, 1)}, without=(1,))
    assert [(row.name, len(row.kept), row.channels) for row in found] == [
        ("embedding", 4, 8), ("attention 1", 2, 4), ("MLP 1", 1, 6), ("attention 2", 0, 4),
        ("MLP 2", 0, 6),
    ]  # fmt: skip
    drawn = picture(found)
    assert drawn.count('fill="var(--accent)"') == 5
    assert picture([Row("embedding", 8, (0, 1, 2, 5))]).count('z"') == 1


ONE = Worth(0.8, 0.78, 0.82, 1000, 1_000_000, 1_000, 1e-3)


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ([Row("attention 1", 8, (0, 1), (4, 1)), Row("attention 2", 8, (), (4, 1))],
         ["Gone as a whole: block 2.", "Of 4 heads a block 1 stay."]),
        ([Row("attention 1", 8, (0, 1), (4, 1)), Row("attention 2", 8, (1, 2, 3), (4, 3))],
         ["Heads that stay: 1 of 4 in block 1, 3 of 4 in block 2."]),
        ([Row("attention 1", 8, (0, 1)), Row("MLP 1", 8, (0,))], []),
    ],
)  # fmt: skip
def test_heads_and_blocks_that_went_are_told(shown, said):
    now = replace(ONE, accuracy=0.75)
    parts = chapter(Compressed("run", "up", "50%", ONE, now, rows=shown)).parts
    assert [part.text for part in parts if isinstance(part, Paragraph)][1:] == said
    assert next(part for part in parts if isinstance(part, Table)).rows[0][-1] == "−5.0 points"


def test_a_run_that_answers_by_both_sides_is_made_smaller_by_one(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    recipe = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps(recipe | {"methods": [{"kind": "both_sides"}]}))
    plain, old = before(trained), before(run)
    assert old.both_sides and not plain.both_sides and old.recipe.methods == ()
    assert worth(old).macs == 2 * worth(plain).macs
    image = torch.randn(2, 3, 16, 16)
    assert torch.equal(old.model(image), plain.model(image))
