"""The dial: which setting keeps a limit, what answers there, and what shares its weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import islice, pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_cli import refused
from test_export import images
from torch import nn

import vitrail
from vitrail.config import to_json
from vitrail.data.labels import Labels
from vitrail.errors import BudgetError, ConfigError, RunError
from vitrail.jobs.arguments import Arguments, ask
from vitrail.jobs.entrants import _taking
from vitrail.jobs.predict import Predictor, answering
from vitrail.methods import PSS, Flexivit, PatchDropout
from vitrail.methods.flexivit import stems
from vitrail.models import config_json, small_configs
from vitrail.run import dial as dials
from vitrail.run.budget import Budget
from vitrail.run.dial import Dial, Point, Setting
from vitrail.run.dial_files import export_dial, export_setting
from vitrail.run.dialling import at, quickest, settings, turned
from vitrail.run.facts import dial_chapter
from vitrail.run.folder import RunFolder
from vitrail.run.turn import Turn, turn
from vitrail.search import shortlist as shortlisting
from vitrail.search.candidate import candidate
from vitrail.search.shortlist import Terms
from vitrail.search.suited import burden, refusal

LABELS = Labels(("cat", "dog", "cow"), (28, 28), 1, (0.3,), (0.4,), 2.5)
METHODS = (Flexivit(test_patch=4), PSS())


def point(setting, score, ms, **more):
    return Point(
        setting, 10**6, score, score / 2, (1 + score) / 2, ms / 1e3, 2 * ms / 1e3, 9, **more
    )


POINTS = (
    point(Setting(2), 0.9, 8.0, temperature=3.0),
    point(Setting(4), 0.8, 4.0, temperature=2.5),
    point(Setting(4, 0.6), 0.7, 5.0),
    point(Setting(7), 0.6, 1.0, temperature=0.5),
)
DIAL = Dial("", "patch4", "accuracy", 90, (28, 28), 1, POINTS)


def network():
    """A small ViT at several sizes, all of whose weights are random."""
    torch.manual_seed(0)
    model = vitrail.create(
        "vit_ti16",
        image=(28, 28),
        channels=1,
        classes=3,
        patch=4,
        dim=32,
        depth=2,
        heads=2,
        hidden=64,
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    for method in METHODS:
        model = method.apply(model)
    return model.eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run whose dial stands at patches of 4."""
    model = network()
    with RunFolder.create(tmp_path_factory.mktemp("runs") / "run") as run:
        recipe = {"model": to_json(config_json(model.config))}
        recipe["methods"] = [
            {"kind": "flexivit", "patches": [], "test_patch": 4}, {"kind": "pss"} | to_json(PSS()),
        ]  # fmt: skip
        run.save_model(model, recipe, LABELS)
        dials.write(run, DIAL)
    return run


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


@pytest.fixture(scope="module")
def written(made, tmp_path_factory):
    """The same run after `vitrail export RUN --dial`, and what that said."""
    path = tmp_path_factory.mktemp("exported") / "run"
    shutil.copytree(made.path, path)
    return RunFolder(path), export_dial(path)


@pytest.fixture
def exported(written, tmp_path):
    shutil.copytree(written[0].path, tmp_path / "exported")
    return RunFolder(tmp_path / "exported")


# ---- the table -------------------------------------------------------------------------


def test_names_of_settings_are_names_of_files():
    names = [Setting(8).name, Setting(8, 0.6).name, Setting(None, 0.4).name, Setting().name]
    assert names == ["patch8", "patch8-keep60", "keep40", "keep100"]


@given(st.lists(st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 100)), min_size=1, max_size=8))
def test_the_front_leaves_out_what_another_beats_in_both(pairs):
    points = tuple(point(Setting(n), score, ms) for n, (score, ms) in enumerate(pairs, 1))
    dial = replace(DIAL, points=points, chosen="patch1")
    front = dial.front
    assert all(a.p50_s < b.p50_s and a.score < b.score for a, b in pairwise(front))
    for one in points:
        assert one in front or any(o.p50_s <= one.p50_s and o.score >= one.score for o in front)
    best = max(one.score for one in points)
    assert dial.at(1.0).score == best and dial.at(0.0) == front[0]
    for limit in {one.p50_s for one in points}:
        within = [one.score for one in points if one.p50_s <= limit]
        assert dial.under(limit).score == max(within)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ({"latency": "4ms"}, "patch4"),
        ({"latency": "7.9ms"}, "patch4"),
        ({"latency": 1}, "patch2"),
        ({"dial": 0}, "patch7"),
        ({"dial": 0.5}, "patch7"),  # 1 ms times 8 to the half is 2.8 ms
        ({"dial": 0.67}, "patch4"),
        ({"dial": 1}, "patch2"),
    ],
)
def test_the_best_setting_under_a_limit_is_taken(words, name):
    assert turn(words).picked(DIAL).name == name


def test_a_deadline_is_held_against_the_slow_runs():
    left = {
        1.9: "patch7",
        2.0: "patch7",
        7.9: "patch7",
        8.0: "patch4",
        16.0: "patch2",
        -3: "patch7",
    }
    assert {ms: DIAL.within(ms / 1e3).name for ms in left} == left


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ({"dial": 1.2}, ConfigError, "dial is 1.2: give a place from 0, the fastest, to 1"),
        ({"dial": 0.2, "latency": "5ms"}, ConfigError, "latency and dial turn the same dial"),
        ({"dial": 0.2, "deadline": "5ms"}, ConfigError, "dial and deadline turn the same dial"),
        ({"latency": "5"}, BudgetError, "latency '5' has no unit"),
        ({"latency": "0.5ms"}, BudgetError, "the closest is patch7, which takes 1 ms; allow that"),
    ],
)
def test_wishes_that_no_dial_grants(words, error, said):
    with pytest.raises(error, match=said):
        turn(words).picked(DIAL)


def test_nothing_is_turned_unless_it_is_asked_for():
    assert turn({}) is None and turn({"latency": None}) is None
    assert Turn().picked(DIAL).name == "patch4"


@pytest.mark.parametrize(
    "changed",
    [
        {"chosen": "patch3"},
        {"points": (*POINTS, POINTS[0])},
        {"files": {"../weights.bin": "0"}},
    ],
)
def test_a_table_that_contradicts_itself_is_refused(changed):
    with pytest.raises(ConfigError):
        replace(DIAL, **changed)


# ---- settings of a model ---------------------------------------------------------------


def test_settings_are_those_that_the_methods_train():
    model = network()
    names = [one.name for one in settings(model, METHODS)]
    assert names == ["patch4", "patch4-keep80", "patch4-keep60", "patch4-keep40"]
    free = settings(model, (Flexivit(), PSS(test_keep=0.5)))
    assert [one.name for one in free] == ["patch2-keep50", "patch4-keep50", "patch7-keep50"]
    assert settings(model, ()) == [Setting()]


def test_a_turned_recipe_builds_the_turned_model():
    from vitrail.recipes.build import changed
    from vitrail.recipes.recipe import Data, Recipe
    from vitrail.tasks import Classification
    from vitrail.training.steps import Steps

    config = network().config
    plain = vitrail.create(config)
    recipe = Recipe(
        to_json(config_json(config)), Data("x"), Steps(1, 1), methods=(Flexivit(), PatchDropout())
    )
    made = changed(plain, at(recipe, Setting(7, 0.4)).methods, Classification()).eval()
    assert stems(made)[0].patch == 7
    assert made.embed(torch.zeros(1, 1, 28, 28)).shape[1] == 1 + int(0.4 * 16)
    assert at(recipe, Setting(7, 0.4)).methods[0].patches == ()
    (flexible, dropping) = quickest(recipe, made).methods
    assert (flexible.test_patch, dropping.test_keep) == (7, 0.4)


# ---- answers ---------------------------------------------------------------------------


def expected(run, one, pixels):
    model, _, labels = run.load_model()
    with torch.no_grad():
        logits = turned(model, one.setting)(labels.normalised(pixels))
    return one.labels(labels).probabilities(logits).numpy()


def test_every_setting_answers_by_the_weights(run):
    pixels, found = images(5), {}
    for one in POINTS:
        found[one.name] = Predictor(run.path, point=one).answers(pixels)
        assert np.abs(found[one.name] - expected(run, one, pixels)).max() < 1e-5
    assert np.abs(found["patch2"] - found["patch7"]).max() > 1e-3


def test_files_that_share_their_weights_answer_alike(written):
    run, told = written
    pixels = images(5)
    assert [*told.sizes] == ["patch7.onnx", "patch4.onnx", "patch2.onnx", "weights.bin"]
    assert told.alone_bytes > 1.3 * sum(told.sizes.values())
    assert max(told.largest.values()) < 1e-4 and "3 settings in" in told.said()
    for one in DIAL.front:
        found = Predictor(run.path, point=one)
        assert np.abs(found.answers(pixels) - expected(run, one, pixels)).max() < 1e-4
        [answer] = found.predict(pixels[0])
        assert answer.setting == one.name


def test_files_answer_without_torch(exported):
    run = exported
    np.save(run.path / "x.npy", images(1)[0, ..., 0])
    code = (
        "import sys, numpy, vitrail; "
        f"run = {str(run.path)!r}; x = numpy.load(run + '/x.npy'); "
        "[a] = vitrail.predict(run, x, latency='5ms'); [b] = vitrail.predict(run, x, dial=1); "
        "print(a.setting, b.setting, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["patch4", "patch2", "False"]


def test_a_deadline_answers_every_image(run):
    timely = answering(run.path, deadline="100s")
    found = timely.predict([images(1)[0, ..., 0], b"no image"], top=1)
    assert found[0].setting == "patch2" and found[0].seconds > 0
    assert found[1].error and found[1].setting is None
    timely = answering(run.path, deadline="1us")
    late = timely.predict(images(1)[0, ..., 0])
    assert late[0].setting == "patch7" and late[0].seconds > 1e-6
    assert timely.said(late) == "patch7 for 1 image; 1 of 1 later than 1 µs"


def test_one_setting_is_written_alone_beside_those_that_share(exported):
    made = export_setting(exported.path, Turn(latency_s=5e-3))
    assert made.path == exported.path / "dial" / "patch4.onnx" and made.n == 256
    assert len(dials.read(exported).files) == 4
    pixels = images(3)
    for one in DIAL.front:
        found = Predictor(exported.path, point=one).answers(pixels)
        assert np.abs(found - expected(exported, one, pixels)).max() < 1e-4


# ---- what is refused -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["patch4.onnx", "weights.bin"])
def test_a_file_that_was_changed_answers_nothing(exported, name):
    file = exported.path / "dial" / name
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(RunError, match=f"{name} is missing or was changed: write it again by"):
        Predictor(exported.path, point=POINTS[1])


def test_a_dial_of_other_weights_is_refused(run):
    labels = json.loads(run.labels.read_text())
    run.labels.write_text(json.dumps(labels | {"temperature": 1.0}))
    with pytest.raises(RunError, match="is of other weights than the run"):
        answering(run.path, dial=0.4)


def test_the_command_line_refuses_in_one_sentence(run, capsys):
    path = str(run.path)
    said = refused(capsys, "predict", path, path, "--latency", "0.1ms")
    assert "no setting of the dial keeps 100 µs: the closest is patch7, which takes 1 ms" in said
    assert "dial is 2" in refused(capsys, "predict", path, path, "--dial", "2")
    both = ("--dial", "0.4", "--latency", "5ms")
    assert "turn the same dial" in refused(capsys, "predict", path, path, *both)
    said = refused(capsys, "predict", path, path, "--dial", "0.4", "--engine", "openvino")
    assert "engine openvino answers at one setting of a dial" in said
    assert "ask for one of the two" in refused(capsys, "export", path, "--dial", "--latency", "5ms")
    assert "one of them at a time" in refused(capsys, "export", path, "--dial", "--onnx")
    (run.path / "dial.json").unlink()
    for words in (("predict", path, path, "--dial", "0.4"), ("export", path, "--dial")):
        assert "has no dial, as its weights run at one setting" in refused(capsys, *words)


def test_a_damaged_dial_says_so(run, capsys):
    (run.path / "dial.json").write_text("{")
    assert "dial.json" in refused(capsys, "predict", str(run.path), "x.png", "--dial", "0.4")


# ---- what is told ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit_s", "chosen", "said"),
    [
        (None, "patch2", "patch2</strong> was chosen, the best of 4 settings on the validation"),
        (4e-3, "patch4", "patch4</strong> was chosen, the best of 4 settings that keeps 4 ms"),
        (5e-4, "patch7", "patch7</strong> was chosen, the fastest of 4 settings, as none keeps"),
    ],
)
def test_the_page_says_which_setting_was_chosen_and_why(limit_s, chosen, said):
    chapter = dial_chapter(replace(DIAL, chosen=chosen), limit_s)
    choice, figure, table, _ = chapter.parts
    assert said in choice.text
    assert "90 validation images" in figure.caption and figure.drawn != figure.narrow
    assert figure.drawn.startswith("<svg") and ("budget" in figure.drawn) == (limit_s is not None)
    assert [row[1] for row in table.rows] == [
        "patch7", "patch4", "patch4\u2011keep60", "patch2",
    ]  # fmt: skip
    assert [row[1] for row in table.rows if row[-1] == "chosen"] == [chosen]
    assert [row[-1] for row in table.rows].count("beaten") == 1
    assert dial_chapter(None, limit_s) is None


# ---- a race of flexible models ---------------------------------------------------------


def terms(**changes):
    given = {"image_size": (28, 28), "channels": 1, "classes": 3, "images": 500}
    given |= {"budget": Budget(), "seconds": 20.0, "size": 4, "batch": 16}
    return Terms(**{**given, "methods": (Flexivit(),), **changes})


def test_only_models_that_take_the_methods_are_listed(monkeypatch):
    monkeypatch.setattr(shortlisting, "by_prior", lambda known: ["airbench", "vit", "levit"])
    listed = list(islice(shortlisting._space(terms(), most=3), 2))
    assert {one.family for one, _ in listed} == {"vit"}
    assert all(refusal(one.config, (Flexivit(),)) is None for one, _ in listed)
    free = list(islice(shortlisting._space(terms(methods=()), most=3), 3))
    assert {one.family for one, _ in free} == {"airbench", "vit", "levit"}
    monkeypatch.setattr(shortlisting, "_space", lambda terms, most: iter(()))
    with pytest.raises(BudgetError, match="images of 28x28 takes the methods flexivit"):
        shortlisting.count_models(terms(), [], lambda text: None)


def test_a_step_costs_what_its_sizes_cost_on_average():
    config = network().config
    assert burden(config, ()) == burden(config, (PSS(),)) == 1.0
    alone = [burden(config, (Flexivit((patch, 4)),)) for patch in (2, 7)]
    assert alone[0] > 2 and 0.5 < alone[1] < 1  # 196 and 16 tokens beside 49
    assert burden(config, (Flexivit((4,)),)) == 1.0


def test_a_flexible_fit_asks_for_the_method_and_remembers_it():
    asked = ask("photos", {"flexible": True}, ["methods=pss"], None)
    assert asked.wish.methods == (Flexivit(), PSS())
    assert asked.command == "vitrail fit photos --flexible --set methods=pss"
    own = ask("photos", {"flexible": True}, ["methods=flexivit", "methods.0.patches=2,4"], None)
    assert own.wish.methods == (Flexivit((2, 4)),)
    assert ask("photos", {}, [], None).wish.methods == ()
    with pytest.raises(ConfigError, match="--engine openvino does not go with --flexible"):
        Arguments("photos", engine="openvino", flexible=True)


def test_pretrained_models_that_do_not_fit_are_left_out_with_a_sentence():
    said, view = [], SimpleNamespace(phase=lambda text: said.append(text))
    configs = {
        name: next(small_configs(name, image=(28, 28), channels=1, classes=3))
        for name in ("vit", "airbench")
    }
    extra = [candidate(config, params=1, macs=1) for config in configs.values()]
    assert [one.family for one in _taking(extra, (Flexivit(),), view)] == ["vit"]
    assert len(said) == 1 and "flexivit needs a model of images whose first map" in said[0]
