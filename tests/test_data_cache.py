"""The cache: right pixels, whole or absent, whatever kills or runs beside it; and the stream."""

import json
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

from vitrail.cli import main
from vitrail.data import cache, store
from vitrail.data.cache import decode, decode_full, pixels, statistics
from vitrail.data.gate import inspect
from vitrail.data.opening import open_source
from vitrail.data.parallel import in_order
from vitrail.data.split import Part, divide
from vitrail.errors import ConfigError, DataError


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


def flipped(at: int):
    def spoil(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[at] ^= 1
        return bytes(changed)

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[:40],
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: data[:-400] + data[-200:],
        lambda data: data[:300] + bytes(64) + data[364:],
        lambda data: data[:200] + data[400:600] + data[200:400] + data[600:],
        *map(flipped, (0, 20, 127, 128, 700, -17, -13, -12, -9, -1)),
    ],
)
def test_a_damaged_file_is_made_again_with_a_word(part, tmp_path, spoil):
    made = pixels(part, (8, 8), 3, folder=tmp_path, progress=False)
    whole = np.array(made.images)
    (path,) = (tmp_path / "pixels").glob("*.npy")
    data = path.read_bytes()
    del made
    path.write_bytes(spoil(data))
    with pytest.warns(UserWarning, match=rf"the cache file .*{path.name} .*: it is made again"):
        again = pixels(part, (8, 8), 3, folder=tmp_path, progress=False)
    assert np.array_equal(again.images, whole)
    assert path.read_bytes() == data


def test_a_file_of_another_name_is_not_taken(part, tmp_path):
    other = Part(part.source, part.rows[::-1].copy(), part.digests[::-1].copy())
    pixels(part, (8, 8), 3, folder=tmp_path, progress=False)
    (first,) = (tmp_path / "pixels").iterdir()
    wanted = np.array(pixels(other, (8, 8), 3, folder=tmp_path, progress=False).images)
    (second,) = set((tmp_path / "pixels").iterdir()) - {first}
    second.write_bytes(first.read_bytes())
    with pytest.warns(UserWarning, match="checksums"):
        again = pixels(other, (8, 8), 3, folder=tmp_path, progress=False)
    assert np.array_equal(again.images, wanted)


@pytest.mark.parametrize("rows", [0, 1, 40, 200])
def test_files_of_several_chunks(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(store, "CHUNK", 1000)
    images = np.random.RandomState(0).randint(0, 256, (rows, 9, 7, 1), np.uint8)
    path = tmp_path / "some.npy"
    store.write_array(path, images.shape, (images[at : at + 7] for at in range(0, rows, 7)))
    found = store.open_array(path, images.shape)
    assert np.array_equal(found, images)
    assert np.array_equal(np.load(path), images)
    with pytest.raises(ValueError, match="instead of"):
        store.open_array(path, (rows, 7, 9, 1))
    data = bytearray(path.read_bytes())
    for at in range(0, len(data), 97):
        data[at] ^= 16
        path.write_bytes(data)
        with pytest.raises(ValueError, match="checksums"):
            store.open_array(path, images.shape)
        data[at] ^= 16


def test_a_file_is_checked_once_in_a_process(part, tmp_path, monkeypatch):
    pixels(part, (8, 8), 3, folder=tmp_path, progress=False)
    store._fault.cache_clear()
    checked = []
    monkeypatch.setattr(store, "in_order", lambda *a, **k: checked.append(1) or in_order(*a, **k))
    for _ in range(3):
        pixels(part, (8, 8), 3, folder=tmp_path, progress=False)
    assert checked == [1]


# The limit


def three(part, folder) -> list[Path]:
    """Files of three sizes, the first the one that was not used for longest."""
    found = []
    for n, side in enumerate((8, 9, 10)):
        before = set(folder.rglob("*.npy"))
        pixels(part, (side, side), 3, folder=folder, progress=False)
        (path,) = set(folder.rglob("*.npy")) - before
        os.utime(path, (1000 + n, 1000 + n))
        found.append(path)
    return found


def test_what_was_not_used_for_longest_makes_room(part, tmp_path, monkeypatch):
    first, second, third = three(part, tmp_path)
    pixels(part, (8, 8), 3, folder=tmp_path, progress=False)  # used again: now the second is older
    sizes = {path: path.stat().st_size for path in (first, second, third)}
    limit = sizes[first] + sizes[third] + len(part) * 12 * 12 * 3
    monkeypatch.setenv("VITRAIL_CACHE_LIMIT", str(limit))
    pixels(part, (12, 12), 3, folder=tmp_path, progress=False)
    assert (first.exists(), second.exists(), third.exists()) == (True, False, True)
    assert len(list(tmp_path.rglob("*.npy"))) == 3


def test_latencies_count_and_downloads_do_not(part, tmp_path, monkeypatch):
    for room in ("latency", "downloads"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "old").write_bytes(bytes(10**6))
        os.utime(tmp_path / room / "old", (1, 1))
    monkeypatch.setenv("VITRAIL_CACHE_LIMIT", "100kB")
    pixels(part, (8, 8), 3, folder=tmp_path, progress=False)
    assert not (tmp_path / "latency" / "old").exists()
    assert (tmp_path / "downloads" / "old").exists()


def test_a_file_in_use_is_never_removed(part, tmp_path, monkeypatch):
    held = pixels(part, (8, 8), 3, folder=tmp_path, progress=False)
    (used,) = tmp_path.rglob("*.npy")
    os.utime(used, (1, 1))
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(used), str(len(part))],
        stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    monkeypatch.setenv("VITRAIL_CACHE_LIMIT", "10kB")
    pixels(part, (9, 9), 3, folder=tmp_path, progress=False)
    assert used.exists()
    copy = np.array(held.images)
    del held
    pixels(part, (10, 10), 3, folder=tmp_path, progress=False)
    assert used.exists()  # by the other process
    process.communicate("\n", timeout=60)
    entry = next(entry for entry in store.entries(tmp_path) if entry.path == used)
    assert not store.in_use(entry)
    pixels(part, (11, 11), 3, folder=tmp_path, progress=False)
    assert not used.exists()
    again = pixels(part, (8, 8), 3, folder=tmp_path, progress=False)
    assert np.array_equal(again.images, copy)


HOLDER = """
    import sys
    from pathlib import Path
    from vitrail.data.store import open_array

    images = open_array(Path(sys.argv[1]), (int(sys.argv[2]), 8, 8, 3))
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_limit_that_is_told_is_kept_by_a_stream(part, tmp_path, monkeypatch):
    monkeypatch.setenv("VITRAIL_CACHE_LIMIT", "1kB")
    assert pixels(part, (8, 8), 3, folder=tmp_path, progress=False).images is None
    monkeypatch.setenv("VITRAIL_CACHE_LIMIT", "")
    monkeypatch.setattr(cache, "CACHE_BYTES", 1000)
    assert pixels(part, (8, 8), 3, folder=tmp_path, progress=False).images is not None
    monkeypatch.setenv("VITRAIL_CACHE_LIMIT", "plenty")
    with pytest.raises(ConfigError, match=r"VITRAIL_CACHE_LIMIT is 'plenty'.* like 10GB or 500MB"):
        pixels(part, (9, 9), 3, folder=tmp_path, progress=False)


def test_the_cache_is_shown_and_cleared(part, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "cache"
    monkeypatch.setenv("VITRAIL_CACHE", str(folder))
    first, *_ = three(part, folder)
    (folder / "downloads").mkdir()
    (folder / "downloads" / "set.gz").write_bytes(bytes(5000))
    held = pixels(part, (10, 10), 3, folder=folder, progress=False)

    def said(*arguments: str) -> str:
        try:
            main(["cache", *arguments])
        except SystemExit as stop:
            assert not stop.code
        return capsys.readouterr().out

    told = json.loads(said("--json"))
    assert told["folder"] == str(folder) and told["limit_bytes"] == 10**10
    rooms = told["rooms"]
    assert (rooms["pixels"]["files"], rooms["pixels"]["in_use"]) == (3, 1)
    assert rooms["pixels"]["bytes"] == sum(p.stat().st_size for p in folder.rglob("*.npy"))
    assert rooms["downloads"]["bytes"] == 5000
    assert rooms["pixels"]["oldest_s"] > 86400 * 365 * 40 > rooms["pixels"]["used_s"]
    text = said()
    assert "4 files" in text and "limit 10 GB" in text and "decoded images" in text
    assert "removed 2 files" in said("--clear")
    assert not first.exists()
    assert len(list(folder.rglob("*.npy"))) == 1 and held.images is not None
    assert (folder / "downloads" / "set.gz").exists()
    del held
    assert json.loads(said("--clear", "--json"))["removed"]["files"] == 1
    assert not list(folder.rglob("*.npy"))


def test_a_latency_is_forgotten_with_age_and_damage(tmp_path, monkeypatch):
    from vitrail.measure.latency import KEPT_S, Latency, remembered

    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path))
    answers = iter(Latency(float(n), 2.0, 3) for n in range(1, 9))

    def ask() -> float:
        return remembered({"what": "toy"}, lambda: next(answers)).p50_s

    assert (ask(), ask()) == (1.0, 1.0)
    (file,) = (tmp_path / "latency").iterdir()
    file.write_text(file.read_text().replace("1.0", "9.0"))
    assert (ask(), ask()) == (2.0, 2.0)
    for damage in ("", "{}", "null\nnull\n", '{"p50_s": 3}'):
        file.write_text(damage)
        ask()
    assert ask() == 6.0
    old = time.time() - KEPT_S - 60
    os.utime(file, (old, old))
    assert ask() == 7.0


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
    # It is only taken for a dead process's when it is no longer new.
    made = pixels(part, (16, 16), 3, folder=folder, progress=False)
    assert np.array_equal(made.images, expected(part, (16, 16), 3))
    assert left.exists()
    os.utime(left, (0, 0))
    pixels(part, (4, 4), 3, folder=folder, progress=False)
    assert not left.exists()


def test_what_another_process_is_writing_stays(part, tmp_path):
    photos, folder = part.source.root, tmp_path / "cache"
    process = child(photos, folder, 0.1)
    assert process.stdout.readline() == "ready\n"
    deadline = time.monotonic() + 30
    while not list(folder.rglob("*.part")) and time.monotonic() < deadline:
        time.sleep(0.01)
    (writing,) = folder.rglob("*.part")
    os.utime(writing, (0, 0))
    made = pixels(part, (4, 4), 3, folder=folder, progress=False)
    assert writing.exists() and made.images is not None
    total = str(int(expected(part, (16, 16), 3).sum()))
    assert process.communicate(timeout=120)[0].split() == [total]


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
