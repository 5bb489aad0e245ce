"""Images in tar files: what is packed is found, as it would be in folders."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from vitrail.data.gate import inspect
from vitrail.data.opening import open_source
from vitrail.data.shards import ShardSource
from vitrail.errors import DataError


def picture(seed):
    made = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(made, "PNG")
    return made.getvalue()


def packed(path, files):
    """A tar file of names and bytes."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            facts = tarfile.TarInfo(name)
            facts.size = len(data)
            tar.addfile(facts, io.BytesIO(data))


def labels(source):
    return {item.key: source.classes[item.label] for item in source.items}


def test_an_image_and_its_class_have_one_name(tmp_path):
    root = tmp_path / "shards"
    packed(root / "train-000.tar", {"1.png": picture(1), "1.cls": b"0\n", "2.cls": b"1",
                                    "2.png": picture(2)})  # fmt: skip
    packed(root / "train-001.tar", {"1.png": picture(3), "1.json": b'{"label": 1}',
                                    "3.input.png": picture(5), "3.cls": b"0"})  # fmt: skip
    packed(root / "test-000.tar", {"./1.png": picture(4), "./1.cls": b"0"})
    source = open_source(root)
    assert isinstance(source, ShardSource) and source.classes == ("0", "1")
    assert labels(source) == {
        "test-000.tar/1.png": "0", "train-000.tar/1.png": "0", "train-000.tar/2.png": "1",
        "train-001.tar/1.png": "1", "train-001.tar/3.input.png": "0",
    }  # fmt: skip
    assert [item.part for item in source.items] == ["test", *["train"] * 4]
    assert [source.read(item) for item in source.items] == [picture(n) for n in (4, 1, 2, 3, 5)]
    (root / "classes.txt").write_text("cat\ndog\n")
    assert set(labels(open_source(root)).values()) == {"cat", "dog"}


def test_folders_in_a_tar_file_are_classes(tmp_path):
    files = {f"{name}/{n}.png": picture(n) for n, name in enumerate(("cat", "dog", "cat"))}
    packed(tmp_path / "photos.tar", files)
    source = open_source(tmp_path / "photos.tar")
    assert source.name == "photos" and list(labels(source).values()) == ["cat", "cat", "dog"]
    packed(tmp_path / "parts.tar", {f"train/{k}": v for k, v in files.items()} |
           {"val/cat/9.png": picture(9)})  # fmt: skip
    found = open_source(tmp_path / "parts.tar")
    assert sorted(item.part or "" for item in found.items) == ["train", "train", "train", "val"]


def test_the_gate_looks_into_tar_files(tmp_path):
    root = tmp_path / "shards"
    files = {f"{name}/{n}.png": picture(n) for n, name in enumerate(("cat", "dog") * 6)}
    packed(root / "a.tar", files | {"cat/broken.png": b"not a picture"})
    packed(root / "b.tar", {"dog/again.png": picture(1), "dog/x.txt": b"words"})
    found = inspect(open_source(root), progress=False)
    kinds = {finding.kind for finding in found.findings}
    assert {"outside", "exact duplicates"} <= kinds
    assert any("a.tar/cat/broken.png" in finding.keys for finding in found.findings)
    whole = (root / "b.tar").read_bytes()
    (root / "b.tar").write_bytes(whole[: 512 + 100])  # in the middle of the first picture
    found = inspect(open_source(root), progress=False)
    [cut] = [one for one in found.findings if "b.tar/dog/again.png" in one.keys]
    assert "ends with its tar file" in cut.message or cut.kind == "truncated"


def test_what_is_said_of_a_class_must_be_short_and_whole(tmp_path):
    root = tmp_path / "shards"
    packed(root / "x.tar", {
        "1.png": picture(1), "1.cls": b"cat", "2.png": picture(2), "2.cls": b"dog",
        "3.png": picture(3), "3.cls": b"\xff\xfe", "4.png": picture(4), "4.json": b"[" * 10_000,
        "5.png": picture(5), "5.cls": b"x" * 100_000, "6.png": picture(6), "6.json": b"{}",
    })  # fmt: skip
    source = open_source(root)
    assert list(labels(source).values()) == ["cat", "dog"]
    told = {finding.kind: finding for finding in source.findings}
    assert len(told["class"].keys) == 4 and len(told["unlabelled"].keys) == 4


def test_links_in_a_tar_file_are_passed_over(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for n, name in enumerate(("cat/1.png", "dog/2.png")):
            facts = tarfile.TarInfo(name)
            facts.size = len(picture(n))
            tar.addfile(facts, io.BytesIO(picture(n)))
        link = tarfile.TarInfo("dog/3.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    source = open_source(tmp_path / "x.tar")
    assert len(source) == 2 and {finding.kind for finding in source.findings} == {"outside"}


def test_a_compressed_or_cut_tar_file_is_called_that(tmp_path):
    (tmp_path / "gz").mkdir()
    (tmp_path / "gz" / "x.tar.gz").write_bytes(b"")
    for path in (tmp_path / "gz", tmp_path / "gz" / "x.tar.gz"):
        with pytest.raises(DataError, match=r"in place \('x.tar.gz'\): decompress"):
            open_source(path)
    packed(tmp_path / "x.tar", {"cat/1.png": picture(1), "dog/2.png": picture(2)})
    whole = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[:600])  # in the middle of the first picture
    with pytest.raises(DataError, match=r"only the class 'cat': .* \('x.tar' cut off, damaged or "):
        open_source(tmp_path / "x.tar")


@pytest.mark.parametrize("data", [b"", b"no tar file", b"\0" * 2000])
def test_no_images_is_one_sentence(tmp_path, data):
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(DataError, match="has no images in its tar files"):
        open_source(tmp_path / "x.tar")
    packed(tmp_path / "y.tar", {"cat/1.png": picture(1)})
    with pytest.raises(DataError, match="only the class 'cat'"):
        open_source(tmp_path / "y.tar")
