"""Prediction: from nothing but the run folder, by the exported file or the weights alike."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil

import pytest
from PIL import Image
from test_export import LABELS, finished, images

from vitrail import predict
from vitrail.errors import ConfigError, DataError, RunError
from vitrail.run.folder import RunFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for n, name in enumerate(("b.png", "a.png", "deep/c.png")):
        Image.fromarray(images(1, seed=n)[0, ..., 0]).save(folder / name)
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("not looked at")
    return folder


def test_predictions_with_and_without_the_exported_file(run, photos, tmp_path):
    paths = predict.collect([photos])
    assert [p.rpartition("photos/")[2] for p in paths] == [
        "a.png", "b.png", "broken.png", "deep/c.png",
    ]  # fmt: skip
    found = predict.Predictor(run.path).predict(paths, top=2)
    assert [len(p.ranked) for p in found] == [2, 2, 0, 2]
    assert "not an image" in found[2].error
    plain = tmp_path / "plain"
    plain.mkdir()
    for file in (run.recipe, run.labels, run.weights):
        (plain / file.name).write_bytes(file.read_bytes())
    again = predict.Predictor(plain).predict(paths, top=2)
    for one, other in zip(found, again, strict=True):
        assert [c for c, _ in one.ranked] == [c for c, _ in other.ranked]
        for (_, p), (_, q) in zip(one.ranked, other.ranked, strict=True):
            assert abs(p - q) < 1e-4


def test_forms_of_predictions(run, photos):
    found = predict.Predictor(run.path).predict(predict.collect([photos]), top=3)
    rows = json.loads(predict.as_json(found))
    assert len(rows[0]["classes"]) == 3 and "error" in rows[2]
    assert sum(c["p"] for c in rows[0]["classes"]) == pytest.approx(1, abs=1e-4)
    table = list(csv.DictReader(io.StringIO(predict.as_csv(found))))
    assert table[0]["class_1"] == rows[0]["classes"][0]["class"] and table[2]["error"]
    assert predict.as_table(found).row_count == 4


def test_nothing_to_predict(photos, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        predict.collect([photos / "none.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image files"):
        predict.collect([tmp_path / "empty"])


def test_hidden_files_are_left_out_unless_named(photos):
    for name in (".hidden.png", ".cache/d.png"):
        (photos / name).parent.mkdir(exist_ok=True)
        shutil.copy(photos / "a.png", photos / name)
    assert len(predict.collect([photos])) == 4
    assert predict.collect([photos / ".hidden.png"]) == [str(photos / ".hidden.png")]


def test_many_files_keep_their_order(run, photos, monkeypatch):
    monkeypatch.setattr(predict, "BATCH", 2)
    single = {p: predict.Predictor(run.path).predict([p])[0] for p in predict.collect([photos])}
    paths = [*single, *reversed(single), str(photos)] * 5
    found = predict.Predictor(run.path).predict(paths)
    assert [p.path for p in found] == paths
    for p in found:
        if p.path == str(photos):
            assert p.error == "cannot be read (Is a directory)"
            continue
        assert [c for c, _ in p.ranked] == [c for c, _ in single[p.path].ranked]
        assert [s for _, s in p.ranked] == pytest.approx([s for _, s in single[p.path].ranked])


def test_a_name_that_is_no_text_can_be_printed(run, photos):
    path = os.fsencode(photos) + b"/caf\xe9.png"
    shutil.copy(os.fsencode(photos / "a.png"), path)
    found = predict.Predictor(run.path).predict([os.fsdecode(path)])
    for text in (predict.as_json(found), predict.as_csv(found)):
        assert b"caf\\udce9.png" in text.encode()
    assert json.loads(predict.as_json(found))[0]["path"] == os.fsdecode(path)
    assert predict.as_table(found).row_count == 1


def copied(run, folder):
    shutil.copytree(run.path, folder)
    return RunFolder.open(folder)


def test_a_damaged_or_foreign_exported_file_is_one_sentence(run, tmp_path):
    broken = copied(run, tmp_path / "broken")
    broken.onnx.write_bytes(broken.onnx.read_bytes()[:500])
    with pytest.raises(RunError, match=r"is damaged or was changed.*`vitrail export"):
        predict.Predictor(broken.path)
    foreign = copied(run, tmp_path / "foreign")
    facts = json.loads(foreign.labels.read_text())
    foreign.write_json(foreign.labels, {**facts, "classes": ["x", "y", "z"]})
    with pytest.raises(RunError, match="has other classes or images than"):
        predict.Predictor(foreign.path)


def test_wrong_questions(run, photos, tmp_path):
    with pytest.raises(ConfigError, match="top is 0"):
        predict.Predictor(run.path).predict([photos / "a.png"], top=0)
    assert len(predict.Predictor(run.path).predict([photos / "a.png"], top=99)[0].ranked) == len(
        LABELS.classes
    )
    with pytest.raises(RunError, match="does not exist"):
        predict.Predictor(tmp_path / "none")
    with pytest.raises(DataError, match=r"cannot be read|does not exist"):
        predict.collect(["x" * 300])
