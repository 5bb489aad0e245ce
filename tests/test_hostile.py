"""Damaged files beside pictures: one sentence for each, before time or memory is spent."""

import json
import os
import struct
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest

import vitrail
from vitrail import checkpoint
from vitrail.data import class_names, outlines, uea
from vitrail.data.box_coco import _corners
from vitrail.data.boxes import BrokenBoxes
from vitrail.data.lidar.folder import open_scans
from vitrail.data.lidar.reading import BrokenScan, read_labels, read_scan
from vitrail.data.masks import BrokenMask
from vitrail.errors import DataError, RunError
from vitrail.models import identify
from vitrail.run.features import keep, kept
from vitrail.run.normalisation import normalisation
from vitrail.runs import Run
from vitrail.study.scaling import Point, Sweep


def points(n=32):
    return np.random.default_rng(0).uniform(1, 9, (n, 4)).astype(np.float32)


# ---- scans -----------------------------------------------------------------------------


def test_numpy_files_that_are_none(tmp_path):
    whole = tmp_path / "whole.npy"
    np.save(whole, points())
    assert read_scan(whole).xyz.tolist() == points()[:, :3].tolist()
    damaged = {
        "torn": whole.read_bytes().replace(b"'shape': (32, 4)", b"'shape': (32, 4 "),
        "short": whole.read_bytes()[:-8],
        "huge": whole.read_bytes().replace(b"(32, 4), }   ", b"(32, 4444), }"),
    }
    np.savez(tmp_path / "packed.npz", a=points())
    damaged["zip"] = (tmp_path / "packed.npz").read_bytes()
    for name, data in damaged.items():
        (tmp_path / f"{name}.npy").write_bytes(data)
        with pytest.raises(BrokenScan, match="is not a whole NumPy file"):
            read_scan(tmp_path / f"{name}.npy")


def test_a_survey_that_tells_of_more_records_than_it_holds(tmp_path):
    laspy = pytest.importorskip("laspy")
    found, path = laspy.LasData(laspy.LasHeader(point_format=3, version="1.4")), tmp_path / "a.las"
    found.x, found.y, found.z = points().T[:3]
    found.write(path)
    assert len(read_scan(path)) == 32
    data = bytearray(path.read_bytes())
    for at, told in ((100, "4,294,967,295"), (243, "4,294,967,295")):
        torn = bytearray(data)
        torn[at : at + 4] = struct.pack("<I", 0xFFFFFFFF)
        path.write_bytes(torn)
        with pytest.raises(BrokenScan, match=f"tells of {told} records"):
            read_scan(path)


def test_columns_of_points_that_are_no_numbers(tmp_path):
    path = tmp_path / "a.npy"
    kind = [("x", "f4"), ("y", "f4"), ("z", "U3")]
    np.save(path, np.array([(1, 2, "up")] * 20, kind))
    with pytest.raises(BrokenScan, match="has no plain number z for each point"):
        read_scan(path)
    np.save(path, np.zeros(20, [("x", "f4", (2,)), ("y", "f4"), ("z", "f4")]))
    with pytest.raises(BrokenScan, match="has no plain number x for each point"):
        read_scan(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes by name")
def test_a_pipe_in_place_of_a_scan_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.bin")
    for read in (read_scan, read_labels):
        with pytest.raises(BrokenScan, match="is not a regular file"):
            read(tmp_path / "a.bin")


def test_a_table_of_drives_nested_without_end(tmp_path):
    (tmp_path / "v1.0-mini").mkdir()
    points().tofile(tmp_path / "a.pcd.bin")
    for name in ("sample_data", "lidarseg", "category"):
        (tmp_path / f"v1.0-mini/{name}.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="cannot be read as JSON"):
        open_scans(tmp_path)


# ---- clips -----------------------------------------------------------------------------


def test_a_title_that_is_not_utf8_does_not_matter(tmp_path):
    av = pytest.importorskip("av")
    from vitrail.data.videos import frames_of

    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "a title"
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(4):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = path.read_bytes()
    assert b"a title" in data
    path.write_bytes(data.replace(b"a title", b"\xa2 title"))
    assert frames_of(path, (8, 8)).shape == (4, 8, 8, 3)


# ---- names of classes, series ----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("classes.json", "[" * 100_000, "cannot be read as JSON"),
        ("classes.json", json.dumps({"9" * 5000: "cat"}), "neither a list of names nor names by"),
        (
            "class_dict.csv",
            "name,r,g,b\n" + "x" * 200_000 + ",1,2,3\n",
            "cannot be read as a table",
        ),
    ],
)
def test_names_of_classes_that_no_program_wrote(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said):
        class_names.named(tmp_path)


@pytest.mark.parametrize(
    "line",
    ["@dimensions " + "9" * 5000, "@equalLength " + "x" * 9000,
     "@classLabel true a b\n@data\n1,2:" + "y" * 9000, "@data\n" + "z" * 9000],
)  # fmt: skip
def test_what_a_file_of_series_says_is_cut_in_a_sentence(tmp_path, line):
    (tmp_path / "a.ts").write_text(f"{line}\n")
    with pytest.raises(DataError) as caught:
        uea.read(tmp_path / "a.ts")
    assert "line 1" in str(caught.value) or "line 3" in str(caught.value) or "line 2" in str(caught)
    assert len(str(caught.value)) < 500


# ---- what vitrail wrote ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "lacks"),
    [
        ({}, "test"),
        ({"test": 5}, "test"),
        ({"test": {"name": "accuracy", "accuracy": "high"}}, "accuracy"),
        ({"test": {"accuracy": None}, "latency": {}}, "accuracy"),
    ],
)
def test_a_result_without_its_figures(tmp_path, told, lacks):
    (tmp_path / "result.json").write_text(json.dumps(told))
    for name in ("accuracy", "score"):
        with pytest.raises(RunError, match=f"is damaged \\(it has no {lacks}\\): restore"):
            getattr(Run(tmp_path), name)
    with pytest.raises(RunError, match=r"is damaged \(it has no (latency|p50_s)\): restore"):
        _ = Run(tmp_path).latency_s


def test_features_that_are_kept_carry_sums(tmp_path):
    values = np.arange(48, dtype=np.float32).reshape(6, 8)
    keep(tmp_path / "a.npy", values)
    assert (kept(tmp_path / "a.npy", (6, 32)) == values).all()
    assert kept(tmp_path / "a.npy", (6, 36)) is None
    data = bytearray((tmp_path / "a.npy").read_bytes())
    data[200] ^= 1
    (tmp_path / "b.npy").write_bytes(data)
    assert kept(tmp_path / "b.npy", (6, 32)) is None


@pytest.mark.parametrize("line", ["{}", "[" * 9999, '{"sizes": 5}', "\x00", '{"compute": NaN}'])
def test_points_of_a_scaling_study_that_are_damaged(tmp_path, line):
    point = Point({"dim": 32, "depth": 2}, 1e9, 0.5, 100)
    file = tmp_path / "points.jsonl"
    file.write_text(json.dumps(asdict(point)) + "\n")
    sweep = SimpleNamespace(file=file)
    assert list(Sweep._known(sweep)) == [point]
    file.write_text(f"{json.dumps(asdict(point))}\n{line}\n")
    with pytest.raises(RunError, match=r"points.jsonl, line 2 is damaged"):
        list(Sweep._known(sweep))


def test_words_of_a_figure_move_no_cursor(recwarn):
    from vitrail.report.canvas import svg

    def draw(axes):
        axes.barh([0, 1], [0.5, 0.7])
        axes.set_yticks([0, 1], ["cat\x1b]0;pwn\x07", "@dog\x1b[31m"])
        axes.set_xlabel("share\x9b")
        axes.text(0.5, 0.5, "\u202eturned")

    drawn = svg(draw, "words", (3, 2))
    assert not set("\x1b\x07\x9b\u202e") & set(drawn)
    assert "cat\\x1b]0;pwn\\x07" in drawn and "turned" in drawn
    assert not [one for one in recwarn if "Glyph" in str(one.message)]


# ---- numbers of hundreds of digits -------------------------------------------------------


HUGE = 10**400


def test_huge_numbers_in_boxes_and_outlines():
    with pytest.raises(BrokenBoxes, match="a number of hundreds of digits"):
        _corners([1, 2, HUGE, 4])
    assert _corners([1, 2, 3, 4]) == [1, 2, 4, 6]
    with pytest.raises(BrokenMask, match="annotation 7 with a point that is not a number"):
        outlines.points([0, 0, 1, HUGE, 1, 1], 7)


@pytest.mark.parametrize("value", [HUGE, 1e7, float("nan")])
def test_huge_numbers_beside_weights_say_nothing(value, tmp_path):
    model = vitrail.create("resnet_18", classes=3)
    wanted = {"image_mean": [0.1] * 3, "image_std": [0.2] * 3}
    record = tmp_path / "preprocessor_config.json"
    checkpoint.save(tmp_path / "model.safetensors", model.state_dict(), metadata={})
    known = identify(tmp_path / "model.safetensors")
    record.write_text(json.dumps(wanted))
    assert normalisation(tmp_path, known).mean == (0.1,) * 3
    record.write_text(json.dumps(wanted | {"image_mean": [value] * 3}))
    assert normalisation(tmp_path, known).mean == (0.485, 0.456, 0.406)
    held = {"state_dict": model.state_dict(), "args": {"mean": [value] * 3, "std": [0.2] * 3}}
    assert "mean" not in checkpoint.contents(held).about
