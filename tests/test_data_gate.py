"""The gate and the decoder: each kind of file, good and bad, made for real and looked at."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.pictures import grey, photo, write_classes

from vitrail import files
from vitrail.data import gate, twins
from vitrail.data.decode import BrokenImage, decode, decode_full, read_picture
from vitrail.data.gate import inspect
from vitrail.data.opening import open_source
from vitrail.data.source import Item, Source
from vitrail.errors import DataError


def encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def looked_at(root: Path, **options) -> gate.Inspection:
    return inspect(open_source(root), progress=False, **options)


def found(inspection: gate.Inspection, kind: str) -> list:
    return [finding for finding in inspection.findings if finding.kind == kind]


def bomb() -> bytes:
    """A PNG of some hundred bytes whose header claims 60,000 x 60,000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    return (
        signature
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(99)))
        + chunk(b"IEND", b"")
    )


# Decoding


def test_a_16_bit_gradient_keeps_its_steps():
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    for form in ("PNG", "TIFF"):
        data = encoded(Image.fromarray(ramp), form)
        out = decode_full(data, 1)[..., 0]
        assert np.array_equal(out, np.round(ramp * (255 / 65535)).astype(np.uint8))
        assert len(np.unique(out)) == 256
        assert (out == 255).mean() < 0.01
        assert np.array_equal(decode_full(data, 3), np.repeat(out[..., None], 3, 2))
        assert read_picture(data).mode == "16-bit"


def test_a_16_bit_colour_png_keeps_its_steps():
    ramp = np.linspace(0, 65535, 256).astype(">u2")
    rows = b"".join(b"\0" + np.stack([ramp, ramp[::-1], ramp], 1).tobytes() for _ in range(4))

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 256, 4, 16, 2, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    out = decode_full(png, 3)
    steps = np.arange(256)
    assert abs(out[0].astype(int) - np.stack([steps, 255 - steps, steps], 1)).max() <= 1


@pytest.mark.parametrize(
    ("values", "expected", "stretched"),
    [
        ([[0.0, 0.5, 1.0]], [0, 128, 255], False),
        ([[0.0, 17.0, 200.0]], [0, 17, 200], False),
        ([[-3.0, 0.0, 3.0]], [0, 128, 255], True),
        ([[0.0, 4000.0, 10_000.0]], [0, 102, 255], True),
    ],
)
def test_floating_point_tiffs(values, expected, stretched):
    picture = read_picture(encoded(Image.fromarray(np.array(values, np.float32)), "TIFF"))
    assert np.asarray(picture.image)[0].tolist() == expected
    assert (picture.mode, picture.stretched) == ("float", stretched)


def test_32_bit_tiffs_are_scaled_by_their_own_range():
    values = np.array([[-100_000, 0, 100_000]], np.int32)
    picture = read_picture(encoded(Image.fromarray(values), "TIFF"))
    assert np.asarray(picture.image)[0].tolist() == [0, 128, 255]
    assert (picture.mode, picture.stretched) == ("32-bit", True)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_exif_orientations_come_out_upright(form, orientation):
    upright = np.asarray(photo(3, 24, 40))
    # 6 is stored a quarter to the left of upright, so that showing it takes one to the right.
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.swapaxes(0, 1), 6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(form, {})
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), form, exif=exif, **options)
    out = decode_full(data, 3)
    assert out.shape == (24, 40, 3)
    error = abs(out.astype(int) - upright)
    assert error.mean() < (2 if form == "JPEG" else 0.001)
    assert read_picture(data).orientation == orientation


def test_transparency_lies_over_white():
    image = photo(1).convert("RGBA")
    image.putalpha(0)
    assert (decode_full(encoded(image, "PNG"), 3) == 255).all()
    half = Image.new("LA", (8, 8), (0, 128))
    assert set(np.unique(decode_full(encoded(half, "PNG"), 1))) == {127}
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((0, 0), 0)
    out = decode_full(encoded(palette, "PNG", transparency=0), 3)
    assert out[0, 0].tolist() == [255, 255, 255]
    assert out[1, 1].tolist() == [0, 0, 255]
    keyed = Image.new("RGB", (8, 8), (9, 9, 9))
    keyed.putpixel((0, 0), (1, 2, 3))
    out = decode_full(encoded(keyed, "PNG", transparency=(1, 2, 3)), 3)
    assert (out[0, 0].tolist(), out[1, 1].tolist()) == ([255] * 3, [9] * 3)


def test_cmyk_jpeg_becomes_the_colours_it_shows():
    colours = [(250, 10, 10), (10, 250, 10), (10, 10, 250), (250, 250, 250), (10, 10, 10)]
    for colour in colours:
        image = Image.new("RGB", (16, 16), colour).convert("CMYK")
        data = encoded(image, "JPEG", quality=95)
        assert read_picture(data).mode == "CMYK"
        assert abs(decode_full(data, 3).astype(int) - colour).max() <= 12


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "green", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_picture(data).animated
    assert decode_full(data, 3)[5, 5].tolist() == [255, 0, 0]


def test_decode_resizes_with_antialiasing_as_torchvision_does():
    import torch
    from torchvision.transforms.v2 import functional

    data = encoded(photo(2, 100, 130), "PNG")
    out = decode(data, (24, 32), 3)
    whole = torch.from_numpy(decode_full(data, 3)).permute(2, 0, 1)
    expected = functional.resize(whole, [24, 32], antialias=True).permute(1, 2, 0).numpy()
    assert np.array_equal(out, expected)
    stripes = Image.fromarray(np.tile(np.array([[0, 255]], np.uint8), (64, 32)))
    assert abs(decode(encoded(stripes, "PNG"), (8, 8), 1).astype(int)[:, 1:-1] - 128).max() <= 2


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"", "empty", "is empty"),
        (b"These are words.", "not an image", "is not an image that can be identified"),
        (encoded(photo(0, 200, 200), "JPEG")[:900], "truncated", "is truncated"),
        (encoded(photo(0, 200, 200), "PNG")[:900], "truncated", "is truncated"),
        (encoded(photo(0, 200, 200), "WEBP")[:900], "broken", "cannot be decoded|broken header"),
        (bomb(), "bomb", "larger than Pillow's limit against decompression bombs"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image", "not an image"),
    ],
)
def test_bytes_that_are_no_whole_image(data, kind, words):
    with pytest.raises(BrokenImage, match=words) as caught:
        decode(data, (8, 8), 3)
    assert caught.value.kind == kind


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_pillow_s_limit_is_a_limit_and_no_warning(tmp_path, monkeypatch):
    write_classes(tmp_path, {"a": 3, "b": 3})
    photo(7, 50, 48).save(tmp_path / "a" / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    assert [(entry.key, entry.kind) for entry in looked_at(tmp_path).broken] == [
        ("a/large.png", "bomb")
    ]
    with pytest.raises(BrokenImage, match="48x50 pixels"):
        decode_full((tmp_path / "a" / "large.png").read_bytes(), 3)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damage_anywhere_is_an_image_or_a_reason():
    random = np.random.RandomState(0)
    for form in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"):
        whole = encoded(photo(4, 30, 30), form)
        for _ in range(60):
            data = bytearray(whole)
            for at in random.randint(0, len(data), 4):
                data[at] = random.randint(256)
            try:
                assert decode_full(bytes(data), 3).dtype == np.uint8
            except BrokenImage as error:
                assert error.reason


# The gate


def broken_folder(root: Path) -> Path:
    write_classes(root, {"a": 4, "b": 4})
    (root / "a" / "empty.jpg").write_bytes(b"")
    (root / "a" / "text.jpg").write_text("These are words.")
    (root / "a" / "cut.jpg").write_bytes(encoded(photo(50, 200, 200), "JPEG")[:900])
    (root / "b" / "bomb.png").write_bytes(bomb())
    (root / "b" / "gone.png").symlink_to(root / "nowhere.png")
    return root


def test_broken_files_are_left_out_and_each_is_named(tmp_path):
    before = {path: path.lstat().st_mtime_ns for path in broken_folder(tmp_path).rglob("*")}
    inspection = looked_at(tmp_path)
    reasons = {entry.key: (entry.kind, entry.reason) for entry in inspection.broken}
    assert {key: kind for key, (kind, _) in reasons.items()} == {
        "a/empty.jpg": "empty", "a/text.jpg": "not an image", "a/cut.jpg": "truncated",
        "b/bomb.png": "bomb", "b/gone.png": "unreadable",
    }  # fmt: skip
    assert len(inspection) == 8
    assert inspection.counts == (4, 4)
    assert not {item.key for item in inspection.items} & set(reasons)
    for kind in ("empty", "not an image", "truncated", "bomb", "unreadable"):
        (finding,) = found(inspection, kind)
        assert finding.severity == "error"
        assert finding.message.startswith("1 file is ")
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_file_without_read_permission_is_named(tmp_path, monkeypatch):
    write_classes(tmp_path, {"a": 3, "b": 3})
    read = files.read

    def refuse(path, *most):
        # Root may read everything, so the refusal of the system is imitated.
        if path.name == "001.png":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *most)

    monkeypatch.setattr(files, "read", refuse)
    inspection = looked_at(tmp_path)
    assert [(entry.key, entry.kind) for entry in inspection.broken] == [
        ("a/001.png", "unreadable"), ("b/001.png", "unreadable"),
    ]  # fmt: skip
    assert inspection.broken[0].reason == "cannot be read (Permission denied)"


def test_threads_find_what_one_finds(tmp_path):
    write_classes(broken_folder(tmp_path), {"a": 30, "b": 30})
    one, many = looked_at(tmp_path, workers=1), looked_at(tmp_path, workers=4)
    assert one.to_json() == many.to_json()
    assert np.array_equal(one.digests, many.digests)
    assert np.array_equal(one.twins, many.twins)


def test_modes_and_traits_are_reported(tmp_path):
    write_classes(tmp_path, {"a": 2, "b": 2})
    ramp = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    files = {
        "deep.png": encoded(Image.fromarray(ramp), "PNG"),
        "dim.png": encoded(Image.fromarray(ramp.T // 16), "PNG"),
        "ink.jpg": encoded(photo(20).convert("CMYK"), "JPEG"),
        "palette.png": encoded(photo(21).quantize(16), "PNG"),
        "clear.png": encoded(photo(22).convert("RGBA"), "PNG"),
        "film.gif": encoded(photo(23), "GIF", save_all=True, append_images=[photo(24)]),
        "really.jpg": encoded(photo(25), "PNG"),
        "bare": encoded(photo(26), "PNG"),
    }
    exif = Image.Exif()
    exif[0x0112] = 6
    files["turned.jpg"] = encoded(photo(27, 20, 40), "JPEG", exif=exif)
    for name, data in files.items():
        (tmp_path / "a" / name).write_bytes(data)
    inspection = looked_at(tmp_path)
    assert not inspection.broken
    expected = {
        "16-bit": {"deep.png", "dim.png"}, "dim": {"dim.png"}, "CMYK": {"ink.jpg"},
        "palette": {"palette.png", "film.gif"}, "alpha": {"clear.png"}, "animated": {"film.gif"},
        "rotated": {"turned.jpg"}, "extension": {"really.jpg", "bare"},
    }  # fmt: skip
    for kind, names in expected.items():
        (finding,) = found(inspection, kind)
        assert {key.removeprefix("a/") for key in finding.keys} == names, kind
    assert found(inspection, "dim")[0].severity == "warning"
    assert found(inspection, "16-bit")[0].severity == "info"
    data = inspection.to_json()
    assert data["modes"]["16-bit"] == 2
    assert data["modes"]["colour with alpha"] == 1
    assert json.loads(json.dumps(data)) == data
    turned = [item.key for item in inspection.items].index("a/turned.jpg")
    assert inspection.sizes[turned].tolist() == [40, 20]


def test_counts_sizes_and_imbalance(tmp_path):
    write_classes(tmp_path, {"many": 12, "few": 4}, lambda seed: photo(seed, 40, 48))
    photo(90, 10, 60).save(tmp_path / "few" / "wide.png")
    photo(91, 6, 6).save(tmp_path / "few" / "tiny.png")
    inspection = looked_at(tmp_path)
    data = inspection.to_json()
    assert data["classes"] == {"few": 6, "many": 12}
    assert data["height"] == {"min": 6, "median": 40, "max": 40}
    assert data["aspect"]["max"] == 6
    assert inspection.size == (40, 48)
    assert found(inspection, "aspect")[0].keys == ("few/wide.png",)
    assert found(inspection, "tiny")[0].keys == ("few/tiny.png",)
    assert not found(inspection, "imbalance")
    write_classes(tmp_path / "more", {"many": 12, "few": 4})
    assert found(looked_at(tmp_path / "more"), "imbalance")


def test_grey_is_what_has_no_colour(tmp_path):
    write_classes(tmp_path, {"a": 2, "b": 2}, lambda seed: grey(seed).convert("RGB"))
    write_classes(tmp_path / "jpeg", {"a": 2, "b": 2}, grey, ".jpg")
    assert looked_at(tmp_path / "jpeg").grey
    image = grey(9, 200, 200).convert("RGB")
    image.save(tmp_path / "a" / "x.png")
    for extra in (tmp_path / "jpeg").rglob("*.jpg"):
        extra.unlink()
    (tmp_path / "jpeg" / "a").rmdir()
    (tmp_path / "jpeg" / "b").rmdir()
    (tmp_path / "jpeg").rmdir()
    assert looked_at(tmp_path).grey
    image.putpixel((150, 150), (255, 0, 0))
    image.save(tmp_path / "a" / "x.png")
    assert not looked_at(tmp_path).grey


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("a/* b/*", r"none of the 6 files of .* \(first: a/000.png is empty\)"),
        ("a/*", "class 'a' of .* has no readable image .broken files left out: 3.: give it"),
        ("b/00[01]*", "class 'b' of .* has only one readable image .broken files left out: 2."),
        ("a/00[01]* b/*", "2 of 2 classes of .* than three readable images .'a' 1, 'b' 0. .broken"),
    ],
)  # fmt: skip
def test_too_little_is_left(tmp_path, spoil, words):
    write_classes(tmp_path, {"a": 3, "b": 3})
    for pattern in spoil.split():
        for path in tmp_path.glob(pattern):
            path.write_bytes(b"")
    with pytest.raises(DataError, match=words):
        looked_at(tmp_path)


# Duplicates


def test_exact_and_near_duplicates(tmp_path):
    write_classes(
        tmp_path,
        {"train/a": 3, "train/b": 3, "test/a": 3, "test/b": 3},
        lambda s: photo(s, 90, 120),
    )
    same = (tmp_path / "train/a/000.png").read_bytes()
    (tmp_path / "test/a/copy.png").write_bytes(same)
    (tmp_path / "train/b/copy.png").write_bytes((tmp_path / "train/a/001.png").read_bytes())
    photo(2, 90, 120).save(tmp_path / "test/a/again.jpg", quality=60)
    photo(3, 90, 120).resize((60, 45)).save(tmp_path / "train/b/small.png")
    inspection = looked_at(tmp_path)
    exact = {f.message.split(": ")[0]: f.keys for f in found(inspection, "exact duplicates")}
    near = {f.message.split(": ")[0]: f.keys for f in found(inspection, "near duplicates")}
    assert exact == {
        "1 group of identical files across the split": ("test/a/copy.png = train/a/000.png",),
        "1 group of identical files across classes": ("train/a/001.png = train/b/copy.png",),
    }
    assert near == {
        "1 group of nearly identical images across the split": (
            "test/a/again.jpg = train/a/002.png",
        ),
        "1 group of nearly identical images inside a class": (
            "train/b/000.png = train/b/small.png",
        ),
    }
    severities = {f.severity for f in inspection.findings if "across" in f.message}
    assert severities == {"warning"}


def all_pairs(signatures: np.ndarray) -> set:
    left, right = np.triu_indices(len(signatures), 1)
    a, b = (twins.luma(signatures[at]) for at in (left, right))
    tints = np.zeros((len(a), 128), np.float32)
    same = twins._alike_from_afar(a, b, tints, twins.LEVELS)
    same &= twins._alike_everywhere(a, b, tints, np.zeros(len(a), bool), twins.LEVELS)
    return set(zip(left[same].tolist(), right[same].tolist(), strict=True))


def test_the_quick_search_finds_what_comparing_all_pairs_finds():
    random = np.random.RandomState(0)
    base = np.stack([np.asarray(grey(seed, 24, 24)) for seed in range(20)])
    noisy = [np.clip(base + random.normal(0, s, base.shape), 0, 255) for s in (0, 1, 2, 6, 12)]
    pixels = np.concatenate(noisy).astype(np.uint8)
    signatures = twins.grey_signatures(pixels)
    n = len(signatures)
    quick = twins.close_pairs(signatures, np.zeros(n, np.int64), np.arange(n))
    found = set(zip(*(side.tolist() for side in quick), strict=True))
    assert found == all_pairs(signatures)
    assert 20 <= len(found) < 20 * 10


def test_flat_and_faint_images_are_no_twins():
    random = np.random.RandomState(0)
    faint = (100 + random.normal(0, 3, (40, 16, 16))).astype(np.uint8)
    assert len(np.unique(twins.twins(_fake_digests(40), twins.grey_signatures(faint)))) == 40


def test_colour_alone_tells_apart():
    red, blue = Image.new("RGB", (40, 40), (200, 30, 30)), Image.new("RGB", (40, 40), (30, 30, 255))
    for image in (red, blue):
        image.paste((250, 250, 250), (5, 5, 20, 20))
    marks = np.stack([twins.signature(red), twins.signature(blue), twins.signature(red)])
    marks[:, : 2 * 24 * 24] = marks[0, : 2 * 24 * 24]
    assert twins.twins(_fake_digests(3), marks).tolist() == [0, 1, 0]


@pytest.mark.parametrize(("height", "width"), [(32, 48), (28, 28), (7, 300), (500, 400)])
def test_array_and_file_signatures_agree(height, width):
    pixels = np.stack([np.asarray(grey(seed, height, width)) for seed in range(6)])
    marks = np.stack([twins.signature(Image.fromarray(image)) for image in pixels])
    made = twins.grey_signatures(pixels)
    assert abs(twins.luma(marks) - twins.luma(made)).max() <= 0.5
    assert np.array_equal(marks[:, 2 * 24 * 24 :], made[:, 2 * 24 * 24 :])


def _fake_digests(n: int) -> np.ndarray:
    return np.arange(2 * n, dtype=np.uint64).reshape(n, 2)


def test_the_sample_has_hardly_any_near_duplicates():
    inspection = inspect(open_source("fashion-sample"), progress=False)
    groups = sum(len(f.keys) for f in inspection.findings if "duplicates" in f.kind)
    assert groups < 10
    assert inspection.grey
    assert inspection.size == (28, 28)


def test_an_array_source_finds_its_copies():
    pixels = np.stack([np.asarray(grey(seed)) for seed in (0, 1, 2, 0, 3, 1)])
    items = tuple(Item(f"{i}.png", i % 2) for i in range(6))
    source = Source("made", ("x", "y"), items, "memory", pixels=pixels)
    inspection = inspect(source, progress=False)
    assert inspection.twins.tolist() == [0, 1, 2, 0, 4, 1]
    texts = {f.message.split(": ")[0] for f in found(inspection, "exact duplicates")}
    assert texts == {
        "1 group of identical files across classes",
        "1 group of identical files inside a class",
    }
