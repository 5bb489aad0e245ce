"""Pictures that vitrail draws for people are not read as data later, wherever they are."""

from __future__ import annotations

import io
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from support import boxed_scenes, composites
from support.pictures import photo, write_classes

from vitrail import files
from vitrail.data import drawn
from vitrail.data.clips import videos_below
from vitrail.data.listing import collect
from vitrail.data.opening import open_source, task_of_data
from vitrail.data.tree import Tree
from vitrail.data.unlabelled import open_pictures
from vitrail.errors import DataError, RunError
from vitrail.jobs import masks
from vitrail.jobs.detect import Asked, detect
from vitrail.jobs.explain import picture_names
from vitrail.jobs.masks import check_out
from vitrail.tasks import Detection, Segmentation


def answers(folder, *, mark=True):
    """Write what `predict --out` and `detect` leave: pictures, and the mark of their folder."""
    if mark:
        drawn.make(folder)
    folder.mkdir(exist_ok=True, parents=True)
    for number in range(3):
        photo(900 + number).save(folder / f"{number}.png")
        photo(950 + number).save(folder / f"{number}-overlay.png")
    return folder


def explained(path):
    photo(7).save(path, pnginfo=_says(drawn.MADE_BY))


def _says(maker):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Software", maker)
    return info


def told(source):
    return {finding.kind: finding for finding in source.findings}


def test_a_folder_of_classes(tmp_path):
    write_classes(tmp_path, {"ash": 3, "oak": 3})
    answers(tmp_path / "masks-of-run")
    answers(tmp_path / "oak" / "detections")
    explained(tmp_path / "oak" / "000-explained.png")
    photo(8).save(tmp_path / "oak" / "well-explained.png")  # nobody's but the user's
    source = open_source(tmp_path)
    assert source.classes == ("ash", "oak") and len(source.items) == 7
    finding = told(source)["answers"]
    assert set(finding.keys) == {"masks-of-run", "oak/detections", "oak/000-explained.png"}
    assert finding.message.startswith("3 answers of vitrail to look at passed over ('masks-of-run'")
    shutil.rmtree(tmp_path / "masks-of-run")
    answers(tmp_path / "masks-of-run", mark=False)
    assert open_source(tmp_path).classes == ("ash", "masks-of-run", "oak")


@pytest.mark.parametrize(
    ("made", "opened"),
    [(boxed_scenes.write, Detection().source), (composites.write, Segmentation().source)],
)
def test_folders_of_boxes_and_masks(tmp_path, made, opened):
    root = made(tmp_path / "shapes")
    before, task = opened(root), task_of_data(root)
    answers(root / "boxes-of-run")
    answers(root / "images" / "below" / "detections")
    after = opened(root)
    assert task_of_data(root) == task and after.items == before.items
    assert "answers" in told(after)
    assert {k for k, one in told(after).items() if one.severity != "info"} == {
        k for k, one in told(before).items() if one.severity != "info"
    }


def test_pictures_without_labels(tmp_path):
    for number in range(3):
        photo(number).save(tmp_path / f"{number}.png")
    answers(tmp_path / "detections")
    source = open_pictures(str(tmp_path), labels=False)
    assert [item.key for item in source.items] == ["0.png", "1.png", "2.png"]


def test_answers_may_be_learned_from_on_purpose(tmp_path):
    """Masks of a run that are called masks teach the next one."""
    root = composites.write(tmp_path / "shapes")
    drawn.make(root / "masks")
    assert len(Segmentation().source(root).items) == 40
    assert Tree(root).listing()[0] == ["images", "masks"]


def test_the_next_prediction_passes_them_over(tmp_path):
    write_classes(tmp_path, {"ash": 2})
    answers(tmp_path / "masks-of-run")
    (tmp_path / "a-run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "a-run" / "fit.json").write_text("{}")
    photo(3).save(tmp_path / "a-run" / "looks.png")
    explained(tmp_path / "0-explained.png")
    said = []
    found = collect(tmp_path, said.append)
    assert [os.path.relpath(one, tmp_path) for one in found] == ["ash/000.png", "ash/001.png"]
    assert said == [
        f"{tmp_path}: 3 runs and answers of vitrail passed over ('a-run', 'masks-of-run', "
        "'0-explained.png')"
    ]
    assert len(collect(tmp_path / "masks-of-run")) == 6  # asked for by name
    assert collect(tmp_path / "0-explained.png")


def test_videos_beside_answers_and_clutter(tmp_path):
    for name in ("a.mp4", "in/b.mp4", "@eaDir/c.mp4", ".trash/d.mp4", "labels-of-run/e.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    drawn.make(tmp_path / "labels-of-run")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "dir.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    found = videos_below(tmp_path, (".mp4",))
    assert [str(one.relative_to(tmp_path)) for one in found] == ["a.mp4", "in/b.mp4"]


def test_nothing_is_drawn_over_what_is_there(tmp_path):
    photo(1).save(tmp_path / "cat-boxes.png")
    before = (tmp_path / "cat-boxes.png").read_bytes()
    with pytest.raises(RunError, match="exists and is not overwritten: name another folder"):
        detect(None, ["cat.png"], Asked(("cat",)), out=tmp_path)  # pyright: ignore
    assert (tmp_path / "cat-boxes.png").read_bytes() == before


def test_a_folder_that_a_kill_left_can_be_used(tmp_path):
    drawn.make(tmp_path / "out")
    (tmp_path / "out" / ".0.png.1.ab.part").write_bytes(b"x")
    check_out(tmp_path / "out")
    (tmp_path / "out" / "0.png").write_bytes(b"x")
    with pytest.raises(RunError, match="exists and is not overwritten"):
        check_out(tmp_path / "out")


def test_what_explain_draws_says_so(tmp_path):
    from vitrail.jobs.explain import Explained, _draw

    one = Explained("a.png", "cat", 0.9, "cat", "gradient", "")
    target = tmp_path / f"a{drawn.EXPLAINED}"
    _draw(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.float32), one, target)
    assert drawn.is_explanation(target)
    other = io.BytesIO()
    Image.open(target).save(other, "PNG")
    target.write_bytes(other.getvalue())
    assert not drawn.is_explanation(target)
    with pytest.raises(DataError, match="has no image files"):
        (tmp_path / "empty").mkdir()
        collect(tmp_path / "empty")


# ---- names of what is drawn ------------------------------------------------------------


def test_no_two_pictures_share_a_file():
    paths = ["x/a.png", "y/a.png", "a-2.png", "a-overlay.png", "b.jpg", "b.png", "b.tif"]
    found = masks.names(paths)
    assert found == ["a", "a-2", "a-2-2", "a-overlay-2", "b", "b-2", "b-3"]
    files_of = [name + ending for name in found for ending in ("", masks.OVERLAY)]
    assert len(set(files_of)) == 2 * len(paths)


def test_names_of_any_length_get_pictures(tmp_path):
    """File systems take 255 bytes, and what is drawn has an ending more than the image."""
    long = ["é" * 120, "é" * 119 + "e", "x" * 250]
    found = masks.names([f"{name}.png" for name in long])
    assert len(set(found)) == 3 and found[0].startswith("éé")
    for name in (*found, *picture_names([f"{name}.png" for name in long]), "y" * 251):
        files.write(tmp_path / f"{name}.png", "drawn")
    deep = [f"{'a' * 200}/{'b' * 200}/0.jpg", f"{'a' * 200}/{'c' * 200}/0.jpg"]
    one, other = picture_names(deep)
    assert one != other and max(len(one), len(other)) < 255
    assert files.fitted("short") == "short"
