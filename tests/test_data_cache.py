"""The cache: right pixels, whole or absent, whatever kills or runs beside it; and the stream."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from support.pictures import photo, write_classes

from vitrail.data import cache
from vitrail.data.cache import decode, decode_full, pixels, statistics
from vitrail.data.gate import inspect
from vitrail.data.opening import open_source
from vitrail.data.split import Part, divide
from vitrail.errors import DataError


def train_part(root: Path) -> Part:
    return divide(inspect(open_source(root), progress=False)).train


@pytest.fixture
def part(tmp_path):
    return train_part(write_classes(tmp_path / "photos", {"a": 12, "b": 12}))


def expected(part: Part, image: tuple[int, int], channels: int) -> np.ndarray:
    return np.stack([decode(part.source.read(item), image, channels) for item in part.items])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_cache_holds_what_decode_gives(part, tmp_path, channels):
    made = pixels(part, (20, 24), channels, folder=tmp_path / "cache", progress=False)
    assert np.array_equal(made.images, expected(part, (20, 24), channels))
    assert made.images.dtype == np.uint8
    assert np.array_equal(made.labels, [item.label for item in part.items])
    assert made.keys == part.keys
    assert (len(made), made.image, made.channels) == (len(part), (20, 24), channels)
    some = made.take([3, 0, 3])
    assert np.array_equal(some, made.images[[3, 0, 3]])
    some[:] = 0
    assert made.images[3].any()
    with pytest.raises(ValueError, match="read-only"):
        made.images[0] = 0


def test_a_cache_is_found_again_and_not_shared_wrongly(part, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    first = pixels(part, (8, 8), 3, folder=folder, progress=False)
    monkeypatch.setattr(cache, "decode", lambda *_: pytest.fail("decoded again"))
    again = pixels(part, (8, 8), 3, folder=folder, progress=False)
    assert np.array_equal(first.images, again.images)
    monkeypatch.undo()
    for image, channels in (((8, 9), 3), ((8, 8), 1)):
        pixels(part, image, channels, folder=folder, progress=False)
    other = Part(part.source, part.rows[1:], part.digests[1:])
    pixels(other, (8, 8), 3, folder=folder, progress=False)
    assert len(list((folder / "pixels").iterdir())) == 4
    monkeypatch.setattr(cache, "DECODER", cache.DECODER + 1)
    pixels(part, (8, 8), 3, folder=folder, progress=False)
    assert len(list((folder / "pixels").iterdir())) == 5


def test_the_default_folder_is_the_one_of_the_environment(part, tmp_path, monkeypatch):
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "mine"))
    pixels(part, (8, 8), 3, progress=False)
    assert len(list((tmp_path / "mine" / "pixels").glob("*.npy"))) == 1


@pytest.mark.parametrize("keep", [0, 40, -1])
def test_a_damaged_file_is_made_again(part, tmp_path, keep):
    made = pixels(part, (8, 8), 3, folder=tmp_path, progress=False)
    whole = np.array(made.images)
    (path,) = (tmp_path / "pixels").glob("*.npy")
    path.write_bytes(path.read_bytes()[:keep])
    again = pixels(part, (8, 8), 3, folder=tmp_path, progress=False)
    assert np.array_equal(again.images, whole)


CHILD = """
    import sys, time
    from vitrail.data import cache
    from vitrail.data.gate import inspect
    from vitrail.data.opening import open_source
    from vitrail.data.split import divide

    decode, slow = cache.decode, float(sys.argv[3])

    def slowly(*arguments):
        time.sleep(slow)
        return decode(*arguments)

    cache.decode = slowly
    cache._ROWS_AT_ONCE = 1
    part = divide(inspect(open_source(sys.argv[1]), progress=False)).train
    print("ready", flush=True)
    made = cache.pixels(part, (16, 16), 3, folder=sys.argv[2], progress=False, workers=1)
    print(int(made.images.sum()), flush=True)
"""


def child(photos: Path, folder: Path, slow_s: float) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(CHILD), photos, folder, str(slow_s)]
    return subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True)


def test_a_kill_half_way_leaves_nothing_that_is_read(part, tmp_path):
    photos, folder = part.source.root, tmp_path / "cache"
    process = child(photos, folder, 0.3)
    assert process.stdout.readline() == "ready\n"
    deadline = time.monotonic() + 30
    while not list(folder.rglob("*.part")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    (left,) = folder.rglob("*.part")
    assert not list(folder.rglob("*.npy"))
    made = pixels(part, (16, 16), 3, folder=folder, progress=False)
    assert np.array_equal(made.images, expected(part, (16, 16), 3))
    assert left.exists()
    os.utime(left, (0, 0))
    pixels(part, (4, 4), 3, folder=folder, progress=False)
    assert not left.exists()


def test_two_runs_at_once(part, tmp_path):
    folder = tmp_path / "cache"
    both = [child(part.source.root, folder, 0.05) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0].split() for process in both]
    total = str(int(expected(part, (16, 16), 3).sum()))
    assert outputs == [["ready", total]] * 2
    assert [path.suffix for path in (folder / "pixels").iterdir()] == [".npy"]


def test_what_is_too_big_is_streamed(part, tmp_path):
    stream = pixels(part, (20, 24), 3, folder=tmp_path, progress=False, limit_bytes=1000)
    assert stream.images is None
    assert not list(tmp_path.rglob("*.npy"))
    wanted = expected(part, (20, 24), 3)
    assert np.array_equal(stream.take([5, 2, 2, 0]), wanted[[5, 2, 2, 0]])
    whole = pixels(part, (20, 24), 3, folder=tmp_path, progress=False)
    assert statistics(stream) == statistics(whole)


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: photo(99).save(path)])
def test_a_file_that_changed_since_the_gate(part, tmp_path, spoil):
    spoil(part.source.path(part.items[4]))
    with pytest.raises(DataError, match=rf"{part.keys[4]} of .* has changed since"):
        pixels(part, (8, 8), 3, folder=tmp_path / "cache", progress=False)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_folder_that_cannot_be_written(part, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DataError, match=r"the cache .* cannot be written .* VITRAIL_CACHE"):
        pixels(part, (8, 8), 3, folder=tmp_path / "taken", progress=False)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(part, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"cannot be written \(No space left on device\): free"):
        pixels(part, (8, 8), 3, folder=tmp_path / "cache", progress=False)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_array_sources_come_out_as_their_files_would(tmp_path):
    part = divide(inspect(open_source("digits"), progress=False)).train
    some = Part(part.source, part.rows[:30], part.digests[:30])
    for image, channels in (((8, 8), 1), ((16, 20), 1), ((12, 12), 3)):
        made = pixels(some, image, channels, folder=tmp_path, progress=False)
        assert np.array_equal(made.images, expected(some, image, channels))


def test_statistics_are_those_of_numpy(tmp_path):
    part = train_part(write_classes(tmp_path / "photos", {"a": 5, "b": 5}))
    made = pixels(part, (16, 16), 3, folder=tmp_path, progress=False)
    mean, std = statistics(made)
    assert np.allclose(mean, made.images.mean((0, 1, 2)) / 255, atol=1e-12)
    assert np.allclose(std, made.images.std((0, 1, 2)) / 255, atol=1e-12)
    flat = np.full((len(part), 4, 4, 1), 51, np.uint8)
    assert statistics(cache.Pixels(part, (4, 4), 1, flat)) == ((0.2,), (1 / 255,))


def test_decode_full_is_the_decoder_of_the_cache(part):
    data = part.source.read(part.items[0])
    whole = decode_full(data, 3)
    assert np.array_equal(decode(data, whole.shape[:2], 3), whole)
