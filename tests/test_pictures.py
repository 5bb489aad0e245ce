"""The pictures at hand: what their resize costs, that a latency includes it, and what is told."""

# ruff: noqa: F811
from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from support.pictures import photo, write_classes
from test_fit import quick  # noqa: F401
from test_report import some_facts
from test_run_folder import small

from vitrail.data.decode import resize
from vitrail.data.gate import inspect
from vitrail.data.labels import Labels
from vitrail.data.opening import open_source
from vitrail.engines.front import save_front
from vitrail.engines.onnx import export_onnx, synthetic
from vitrail.errors import BudgetError, ConfigError, DataError
from vitrail.jobs.arguments import Arguments, amended
from vitrail.measure.session import session
from vitrail.report.card import render_card
from vitrail.report.page import render
from vitrail.report.pictures import composed
from vitrail.report.timings import LatencyFacts, PictureFacts
from vitrail.run import pictures
from vitrail.run.budget import Budget
from vitrail.run.deploy import timed
from vitrail.run.pictures import Pictures, decoding, read_size
from vitrail.search import shortlist
from vitrail.search.candidate import candidate
from vitrail.search.timing import held

LIMITED = Budget(latency_s=0.010, pictures=Pictures((100, 200)))


@pytest.fixture
def resizing(monkeypatch):
    """A resize that takes 6 ms to 28x28 and 16 ms to any other size."""

    def seconds(size, image, *_):
        return 0.0 if size == image else (0.006 if image == (28, 28) else 0.016)

    monkeypatch.setattr(pictures, "_resizing", seconds)


# ---- sizes -----------------------------------------------------------------------------


def test_a_size_is_read_width_first():
    assert read_size("1920x1080") == read_size(" 1920 × 1080 ") == (1080, 1920)
    assert amended(Arguments("photos"), {"input": "64x32"}).input == (32, 64)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1920", "'1920' is not a size: write width and height in pixels, like 1920x1080"),
        ("1920x1080x3", "is not a size"),
        ("-5x10", "is not a size"),
        ("wide x high", "is not a size"),
        ("٣٢x٣٢", "is not a size"),
        ("0x1080", "0x1080 is too small: give sides of 8 pixels or more"),
        ("1920x7", "is too small"),
        ("100000x100000", "has 10,000,000,000 pixels, and pictures of more than 89,478,485"),
        ("9" * 400 + "x9", "is not a size"),
    ],
)
def test_a_size_that_no_picture_has_is_one_sentence(text, said):
    with pytest.raises(ConfigError, match=said) as caught:
        read_size(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_a_damaged_size_in_a_run_is_refused():
    with pytest.raises(ConfigError, match="too small"):
        Arguments("photos", input=(-3, 20))


# ---- what a resize costs -----------------------------------------------------------------


def test_pictures_of_the_model_s_size_cost_nothing(monkeypatch):
    monkeypatch.setattr(pictures, "_resizing", None)  # nothing is measured
    assert Pictures((28, 28)).resize_s((28, 28), 1) == 0.0
    budget = Budget(latency_s=0.01, pictures=Pictures((28, 28)))
    assert budget.room_s((28, 28), 1) == 0.01
    assert not held(budget, [(28, 28), (32, 32)], 1).beyond


@pytest.mark.parametrize("inside", [True, False])
def test_a_larger_picture_costs_more(inside, monkeypatch, tmp_path):
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path))
    few, many = (Pictures(size, 1, inside).resize_s((64, 64), 3) for size in ((96, 96), (900, 900)))
    assert 0 <= few < many
    monkeypatch.setattr(pictures, "_graph", None)
    monkeypatch.setattr(pictures, "_before", None)
    pictures._resizing.cache_clear()
    assert Pictures((900, 900), 1, inside).resize_s((64, 64), 3) == many  # remembered on disk


def test_what_is_measured_is_the_resize_of_training(tmp_path):
    told = Labels(("a", "b"), (24, 32), 3, (0.5,) * 3, (0.25,) * 3)
    save_front(told, tmp_path / "resize.onnx")
    image = np.array(photo(1, 90, 70))[None]
    (found,) = session(tmp_path / "resize.onnx").run(["pixels"], {"images": image})
    expected = resize(image, (24, 32)).transpose(0, 3, 1, 2)
    assert np.abs(np.asarray(found) - expected).max() <= 1


def test_the_limit_leaves_a_model_what_the_resize_does_not_take(resizing):
    assert LIMITED.room_s((28, 28), 3) == pytest.approx(0.004)
    assert LIMITED.room_s((64, 64), 3) == pytest.approx(-0.006)
    assert replace(LIMITED, pictures=None).room_s((64, 64), 3) == 0.010
    assert replace(LIMITED, latency_s=None).room_s((64, 64), 3) is None
    assert "latency 10 ms on 1 threads for a picture of 200x100" in LIMITED.spoken()


def test_a_model_is_held_to_the_limit_alone_where_no_size_leaves_it_any_time(resizing):
    sizes = [(28, 28), (64, 64)]
    assert not held(LIMITED, sizes, 3).beyond
    tight = held(replace(LIMITED, latency_s=0.005), sizes, 3)
    assert tight.beyond and tight.room_s((64, 64), 3) == 0.005
    assert not held(replace(LIMITED, latency_s=None), sizes, 3).beyond


def test_the_search_adds_the_resize(resizing):
    one = replace(candidate(small().config, params=1, macs=1), latency_s=0.005)
    assert one.image == (28, 28)
    assert one.with_resize_s(LIMITED) == pytest.approx(0.011)
    assert not shortlist._within(one, LIMITED, 1.0)
    assert shortlist._within(one, LIMITED, 2.0)
    assert shortlist._within(one, replace(LIMITED, pictures=None), 1.0)
    assert shortlist._within(one, replace(LIMITED, beyond=True), 1.0)


def test_a_file_that_does_not_resize_is_given_resized_pictures(tmp_path, monkeypatch):
    model = small()
    told = Labels(("cat", "dog", "cow"), (28, 28), 1, (0.5,), (0.25,))
    monkeypatch.setattr("vitrail.engines.onnx.resize_agrees", lambda *_, **__: False)
    made = export_onnx(model, told, tmp_path / "model.onnx", images=synthetic(told)[:4])
    assert not made.resize_inside
    images = [np.zeros((1, *size, 1), np.uint8) for size in ((28, 28), (600, 800))]
    own, large = timed({made.path: "onnxruntime"}, told, images, 1, 0.05)
    assert 0 < min(own["model.onnx"]) < min(large["model.onnx"])


# ---- decoding ----------------------------------------------------------------------------


def test_a_picture_is_decoded_in_the_format_of_the_data(tmp_path):
    for suffix, form in ((".jpg", "JPEG"), (".png", "PNG"), (".webp", "WEBP"), (".bmp", "PNG")):
        folder = write_classes(tmp_path / form, {"a": 3, "b": 3}, suffix=suffix)
        found = inspect(open_source(str(folder)), progress=False)
        small_one, large = (decoding(found, size, 3) for size in ((16, 16), (700, 600)))
        assert small_one and large and 0 < small_one.seconds < large.seconds
        assert small_one.format == large.format == form
        for path in folder.rglob(f"*{suffix}"):
            path.unlink()
        with pytest.raises(DataError, match="cannot be read any more"):
            decoding(found, (16, 16), 3)


def test_of_its_own_size_a_file_itself_is_decoded(tmp_path, monkeypatch):
    folder = write_classes(tmp_path / "photos", {"a": 3, "b": 3}, suffix=".bmp")
    photo(9, 80, 90).save(folder / "a" / "other.bmp")
    found, seen = inspect(open_source(str(folder)), progress=False), []
    monkeypatch.setattr(pictures, "decode_full", lambda data, *_: seen.append(data))
    assert decoding(found, found.size, 3).format == "BMP"
    files = {path.read_bytes() for path in folder.rglob("0*.bmp")}
    assert set(seen) <= files and len(set(seen)) == pictures.DECODED


def test_arrays_in_memory_are_not_decoded():
    found = inspect(open_source("digits"), progress=False)
    assert decoding(found, (8, 8), 1) is None


# ---- what is told ------------------------------------------------------------------------


def test_both_latencies_are_told():
    of = PictureFacts((1080, 1920), 0.001, 0.009, 0.013, "JPEG")
    told = LatencyFacts(0.010, 0.012, 40, picture=of)
    text = (
        "for a picture of 1920x1080: model 1 ms, resize 9 ms (90.0 %); decoding it from JPEG takes "
        "13 ms more"
    )
    assert composed(told) == text
    facts = replace(some_facts(), latency=told)
    card, page = render_card(facts), render(facts)
    assert f"| that is | {text} |" in card and text in page
    assert "Each time includes that to resize a picture of 1920x1080." in page
    own = replace(told, picture=replace(of, resize_s=0.0, decode_s=None))
    assert composed(own) == "for a picture of 1920x1080"
    assert "resize" not in render(replace(facts, latency=own)).partition("<footer>")[0].lower()
    assert "that is" not in render_card(some_facts())


# ---- a whole fit -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Two classes of 12 pictures, 1000x1000: bright above or below."""
    folder, random = tmp_path_factory.mktemp("large"), np.random.default_rng(0)
    for name, rows in (("above", slice(0, 5)), ("below", slice(5, 10))):
        (folder / name).mkdir()
        for number in range(12):
            image = random.integers(0, 90, (10, 10, 3), dtype=np.uint8)
            image[rows] += 120
            blocks = image.repeat(100, 0).repeat(100, 1)
            Image.fromarray(blocks).save(folder / name / f"{number}.jpg")
    return folder


@pytest.mark.slow
def test_a_resize_that_takes_longer_than_the_limit_leaves_the_best_model(
    large, quick, tmp_path, monkeypatch
):
    from vitrail.jobs.fit import fit
    from vitrail.run import workshop
    from vitrail.training.loop import Interrupted

    def stop(*_, **__):
        raise KeyboardInterrupt

    train, out = workshop.train, tmp_path / "run"
    monkeypatch.setattr(workshop, "train", stop)
    with pytest.raises(Interrupted):
        fit(large, latency="1ms", time="12s", threads=1, out=out, console=quick)
    alone = "resizing a picture of {} alone takes longer than 1 ms"
    assert alone.format("1000x1000") in quick.file.getvalue()
    monkeypatch.setattr(workshop, "train", train)
    with pytest.raises(
        BudgetError, match=r"as the resize alone takes .* smaller pictures"
    ) as error:
        fit(large, input="1200x1000", out=out, resume=True, console=quick)
    assert "for a picture of 1200x1000)" in str(error.value) and "\n" not in str(error.value)
    result = json.loads((out / "result.json").read_text())
    latency, picture = result["latency"], result["latency"]["picture"]
    assert picture["size"] == [1000, 1200] and picture["format"] == "JPEG"
    assert picture["decode_s"] > 0 and 0 < picture["model_s"] < picture["resize_s"]
    assert latency["p50_s"] == pytest.approx(picture["model_s"] + picture["resize_s"])
    assert result["test"]["accuracy"] > 0.5
    (won,) = (c for c in result["candidates"] if c["status"] == "won")
    assert won["latency_s"] == latency["p50_s"]
    for name in ("README.md", "report.html"):
        assert "for a picture of 1200x1000: model" in (out / name).read_text()
    assert json.loads((out / "fit.json").read_text())["arguments"]["input"] == [1000, 1200]
