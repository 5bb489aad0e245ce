"""Prediction: from nothing but the run folder, by the exported file or the weights alike."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from test_export import LABELS, finished, images

from vitrail.cli import main
from vitrail.data import listing
from vitrail.data.depth import Range
from vitrail.errors import ConfigError, DataError, RunError
from vitrail.jobs import predict
from vitrail.jobs.prediction import Prediction
from vitrail.report import predictions
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
    paths = listing.collect([photos])
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
    found = predict.Predictor(run.path).predict(listing.collect([photos]), top=3)
    rows = json.loads(predictions.as_json(found))
    assert len(rows[0]["classes"]) == 3 and "error" in rows[2]
    assert sum(c["p"] for c in rows[0]["classes"]) == pytest.approx(1, abs=1e-4)
    table = list(csv.DictReader(io.StringIO(predictions.as_csv(found))))
    assert table[0]["class_1"] == rows[0]["classes"][0]["class"] and table[2]["error"]
    assert predictions.as_table(found).row_count == 4


def test_nothing_to_predict(photos, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        listing.collect([photos / "none.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image files"):
        listing.collect([tmp_path / "empty"])


def test_hidden_files_are_left_out_unless_named(photos):
    for name in (".hidden.png", ".cache/d.png"):
        (photos / name).parent.mkdir(exist_ok=True)
        shutil.copy(photos / "a.png", photos / name)
    assert len(listing.collect([photos])) == 4
    assert listing.collect([photos / ".hidden.png"]) == [str(photos / ".hidden.png")]


def test_many_files_keep_their_order(run, photos, monkeypatch):
    monkeypatch.setattr(predict, "BATCH", 2)
    single = {p: predict.Predictor(run.path).predict([p])[0] for p in listing.collect([photos])}
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
    for text in (predictions.as_json(found), predictions.as_csv(found)):
        assert b"caf\\udce9.png" in text.encode()
    assert json.loads(predictions.as_json(found))[0]["path"] == os.fsdecode(path)
    assert predictions.as_table(found).row_count == 1


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
    with pytest.raises(RunError, match="differs from the run in its classes"):
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
        listing.collect(["x" * 300])


def ranked(found) -> list:
    return [p.ranked for p in found]


def test_one_picture_in_every_form(run, photos):
    predictor = predict.Predictor(run.path)
    path = photos / "a.png"
    image = Image.open(path)
    grey = np.asarray(image)
    wanted = predictor.predict([path])[0]
    assert predictor.predict(path)[0] == wanted
    assert predictor.predict(str(path))[0] == wanted
    colour = np.repeat(grey[..., None], 3, 2)
    forms = {
        "bytes": path.read_bytes(),
        "bytearray": bytearray(path.read_bytes()),
        "Pillow": image,
        "HW": grey,
        "HW1": grey[..., None],
        "HWC": colour,
        "RGBA": np.concatenate([colour, np.full_like(colour[..., :1], 255)], 2),
        "16 bits": grey.astype(np.uint16) * 257,
        "columns first": np.asfortranarray(grey),
    }
    for name, form in forms.items():
        (found,) = predictor.predict(form)
        assert (found.path, found.error) == ("image 1", None), name
        assert [c for c, _ in found.ranked] == [c for c, _ in wanted.ranked], name
        assert [p for _, p in found.ranked] == pytest.approx([p for _, p in wanted.ranked]), name
    several = predictor.predict([*forms.values(), path])
    assert [p.path for p in several] == [*(f"image {n + 1}" for n in range(len(forms))), str(path)]
    stacked = predictor.predict(np.stack([colour, colour]))
    assert len(stacked) == 2 and not any(p.error for p in stacked)
    assert [p.path for p in predictor.predict(iter([path, path]))] == [str(path)] * 2
    assert predictor.predict([]) == []


def test_what_is_no_picture(run, photos):
    predictor = predict.Predictor(run.path)
    for wrong, words in (
        (7, "what is asked about is of type int"),
        ([photos / "a.png", None], "image 2 is of type NoneType"),
        ([[1, 2]], "image 1 is of type list"),
    ):
        with pytest.raises(ConfigError, match=words):
            predictor.predict(wrong)
    good = np.zeros((5, 5), np.uint8)
    found = predictor.predict(
        [good, np.zeros((5, 5, 2), np.uint8), np.zeros(5, np.uint8), np.zeros((0, 5), np.uint8),
         np.zeros((5, 5, 3)), b"", "nul\0byte", photos, good]
    )  # fmt: skip
    assert [p.error is None for p in found] == [True, *[False] * 7, True]
    assert "array of uint8 (5, 5, 2)" in found[1].error
    assert (found[5].error, found[7].error) == ("is empty", "cannot be read (Is a directory)")


def test_a_pipe_is_answered_at_once(run, photos):
    os.mkfifo(photos / "pipe")
    os.mkfifo(photos / "pipe.png")
    (found,) = predict.Predictor(run.path).predict(photos / "pipe.png")
    assert found.error == "is not a regular file"
    assert len(listing.collect([photos])) == 4


def test_folders_are_searched_as_fit_reads_them(run, tmp_path):
    folder = tmp_path / "inbox"
    (folder / "below").mkdir(parents=True)
    picture = Image.fromarray(images(1, seed=1)[0, ..., 0])
    for name, form in {
        "a.jfif": "JPEG", "b.JPE": "JPEG", "c.dib": "DIB", "d.pnm": "PPM", "e.j2k": "JPEG2000",
        "none": "PNG", "wrong.txt": "PNG", "below/f.tif": "TIFF",
    }.items():  # fmt: skip
        picture.save(folder / name, form)
    (folder / "g.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    (folder / "raw").write_bytes(b"FUJIFILMCCD-RAW " + bytes(99))
    for n in range(5):
        (folder / f"notes{n}.md").write_text("not looked at")
    (folder / "loop").symlink_to(folder)
    told = []
    paths = listing.collect(folder, told.append)
    assert [os.path.relpath(path, folder) for path in paths] == [
        "a.jfif", "b.JPE", "below/f.tif", "c.dib", "d.pnm", "e.j2k", "g.heic", "none", "raw",
        "wrong.txt",
    ]  # fmt: skip
    assert told == [
        f"{folder}: 5 files passed over as not images (notes0.md, notes1.md, notes2.md and 2 more)"
    ]
    found = predict.Predictor(run.path).predict(paths)
    assert [p.error is None for p in found] == [True] * 6 + [False, True, False, True]
    assert "is HEIC, which" in found[6].error and "convert" in found[8].error
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "x.md").write_text("words")
    with pytest.raises(DataError, match="has no image files among 1 file: name files"):
        listing.collect(tmp_path / "only")


def test_none_of_these(run, photos, tmp_path):
    path = photos / "a.png"
    (plain,) = predict.Predictor(run.path).predict(path)
    sure = plain.ranked[0][1]
    assert (plain.threshold, plain.none_of_these, plain.answer) == (None, False, plain.ranked[0][0])
    assert "none_of_these" not in json.loads(predictions.as_json([plain]))[0]
    above, below = (
        predict.Predictor(run.path, threshold=sure + by).predict(path)[0] for by in (0.01, -0.01)
    )
    assert (above.answer, above.none_of_these) == ("none of these", True)
    assert (below.answer, below.none_of_these) == (plain.ranked[0][0], False)
    (row,) = json.loads(predictions.as_json([above]))
    assert row["none_of_these"] is True and row["threshold"] == sure + 0.01
    assert row["classes"][0]["class"] == plain.ranked[0][0]
    (line,) = csv.DictReader(io.StringIO(predictions.as_csv([above])))
    assert (line["answer"], line["class_1"]) == ("none of these", plain.ranked[0][0])
    own = finished(tmp_path / "own", threshold=min(1.0, sure + 0.01))
    assert predict.Predictor(own.path).predict(path)[0].none_of_these
    assert not predict.Predictor(own.path, threshold=0).predict(path)[0].none_of_these
    with pytest.raises(ConfigError, match=r"threshold is 1\.5: give a probability from 0 to 1"):
        predict.Predictor(run.path, threshold=1.5)


def test_a_run_scales_deep_values_as_it_was_trained(run, photos, tmp_path):
    own = finished(tmp_path / "own", ranges=(Range("16-bit", 0, 4095),))
    grey = np.asarray(Image.open(photos / "a.png"))
    deep = np.rint(grey / 4 * (4095 / 255)).astype(np.uint16)  # at most a quarter of the range
    Image.fromarray(deep).save(photos / "deep.png")
    wanted = np.rint(deep * (255 / 4095)).astype(np.uint8)
    predictor = predict.Predictor(own.path)
    as_eight = ranked(predictor.predict(wanted))
    assert ranked(predictor.predict(photos / "deep.png")) == as_eight
    assert ranked(predictor.predict(deep)) == as_eight
    assert ranked(predict.Predictor(run.path).predict(deep)) != as_eight


HOSTILE = "\x1b]0;pwn\x07 \x9b2J \u202egnp.exe\n.png"


def test_names_are_not_obeyed(capsys):
    found = [
        Prediction(HOSTILE, (("=cmd|calc!A1", 0.6), ("@SUM(A1)", 0.4))),
        Prediction("-rf", error="+1+cmd"),
    ]
    for text in (predictions.as_json(found), predictions.as_csv(found)):
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(text)
    assert json.loads(predictions.as_json(found))[0]["path"] == HOSTILE
    lines = list(csv.reader(io.StringIO(predictions.as_csv(found))))
    assert len(lines) == 3
    assert lines[1][2:] == ["'=cmd|calc!A1", "0.600000", "'@SUM(A1)", "0.400000"]
    assert lines[2][:2] == ["'-rf", "'+1+cmd"]
    for width in (40, 200):
        shown = io.StringIO()
        predictions.show(found, Console(file=shown, width=width))
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(shown.getvalue())
        assert "\\x1b]0;pwn" in shown.getvalue()


@pytest.mark.parametrize("width", [30, 80, 300])
def test_no_path_is_cut(width):
    path = "/a/folder/" + "x" * 120 + "/and another one/picture.png"
    found = [Prediction(path, (("cat", 0.9), ("dog", 0.1))), Prediction("b.png",
             error="is truncated (of the lower 50% pixels are missing)")]  # fmt: skip
    shown = io.StringIO()
    predictions.show(found, Console(file=shown, width=width))
    lines = shown.getvalue().splitlines()
    assert any(line.startswith(path) for line in lines)
    assert "is truncated (of the lower 50% pixels are missing)" in shown.getvalue()
    assert "…" not in shown.getvalue()
    assert all(len(line) <= width for line in lines) or width < 300


def command(*arguments: object) -> int:
    try:
        main(["predict", *map(str, arguments)])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_command(run, photos, capsys):
    assert command(run.path, photos / "a.png", "--json", "--csv") == 2
    assert "vitrail: --json and --csv are two forms of one answer" in capsys.readouterr().err
    assert command(run.path, photos / "broken.png") == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.count("\n") == 1 and "broken.png is not an image" in streams.err
    assert command(run.path, photos, "--threshold", "1", "--json") == 0
    streams = capsys.readouterr()
    rows = json.loads(streams.out)
    assert [row.get("none_of_these") for row in rows] == [True, True, None, True]
    assert "1 file passed over as not images (notes.txt)" in streams.err
    assert command(run.path, photos) == 0
    assert str(photos / "deep" / "c.png") in capsys.readouterr().out
