"""Every kind of image that Pillow opens comes out right, or with the reason why it does not."""

import io
import os
import struct
import subprocess
import sys
import textwrap
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from support.fuzz import fuzz
from support.pictures import photo, write_classes
from support.rasters import chunk, png, png16, tiff

from vitrail.data import formats, jpeg
from vitrail.data.cache import pixels
from vitrail.data.decode import (
    BrokenImage,
    decode,
    decode_full,
    decode_image,
    read_file,
    read_picture,
)
from vitrail.data.depth import Range, look, range_of, together
from vitrail.data.gate import Inspection, inspect
from vitrail.data.opening import open_source
from vitrail.data.parallel import Room
from vitrail.data.split import divide
from vitrail.errors import extra


def encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def bytes_of(*values) -> np.ndarray:
    """One row of pixels."""
    return np.array([values], np.uint8)


def row(data: bytes, channels: int = 3) -> list:
    """The first row of an image, decoded."""
    out = decode_full(data, channels)[0]
    return out.tolist() if channels == 3 else out[:, 0].tolist()


def near(found: list, wanted: list, by: int = 1) -> bool:
    return bool((abs(np.array(found, int) - np.array(wanted, int)) <= by).all())


RED, GREEN, BLUE, WHITE = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]


# Modes and bit depths


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("pixels", "photometric", "more", "wanted"),
    [
        (bytes_of(7, 200), 1, {}, [[7] * 3, [200] * 3]),
        (bytes_of(7, 200), 0, {}, [[248] * 3, [55] * 3]),
        (np.array([[-128, -1, 0, 127]], np.int8), 1, {}, [[v] * 3 for v in (0, 127, 128, 255)]),
        # Half covered: 100 * 51 / 255 + 255 * 204 / 255.
        (bytes_of([100, 51], [100, 255]), 1, {"extra": [2]}, [[224] * 3, [100] * 3]),
        # Already multiplied by the alpha: 50 + 255 - 128.
        (bytes_of([50, 128], [50, 255]), 1, {"extra": [1]}, [[177] * 3, [50] * 3]),
        (bytes_of([9, 77], [8, 0]), 1, {"extra": [0]}, [[9] * 3, [8] * 3]),
        (bytes_of(RED, [1, 2, 3]), 2, {}, [RED, [1, 2, 3]]),
        (bytes_of([255, 0, 0, 0], [0, 0, 255, 128]), 2, {"extra": [2]}, [WHITE, [127, 127, 255]]),
        (bytes_of([0, 0, 128, 128]), 2, {"extra": [1]}, [[127, 127, 255]]),
        (bytes_of([1, 2, 3, 99]), 2, {"extra": [0]}, [[1, 2, 3]]),
        (bytes_of([1, 2, 3, 99, 98]), 2, {"extra": [0, 0]}, [[1, 2, 3]]),
        (bytes_of([0, 255, 255, 0], [0, 0, 0, 128]), 5, {}, [RED, [127] * 3]),
        (bytes_of([76, 85, 255], [150, 44, 21]), 6, {}, [[254, 0, 0], GREEN]),
        (bytes_of([255, 0, 0], [127, 0, 0], [136, 80, 67]), 8, {}, [WHITE, [119] * 3, RED]),
    ],
)  # fmt: skip
def test_tiffs_of_8_bits(order, pixels, photometric, more, wanted):
    by = {6: 2, 8: 12}.get(photometric, 1)  # rounded to 8 bits before they are converted
    assert near(row(tiff(pixels, photometric, order=order, **more)), wanted, by)


def test_palettes_with_and_without_transparency():
    colours = np.zeros((3, 256), int)
    colours[:, 1], colours[:, 2] = np.array(RED) * 257, np.array(BLUE) * 257
    plain = tiff(bytes_of(1, 2), 3, colours=colours.ravel().tolist())
    assert (row(plain), read_picture(plain).mode) == ([RED, BLUE], "palette")
    alpha = bytes_of([1, 255], [2, 0], [1, 128])
    half = tiff(alpha, 3, colours=colours.ravel().tolist(), extra=[2])
    assert near(row(half), [RED, WHITE, [255, 127, 127]])
    image = Image.new("P", (3, 1))
    image.putdata([0, 1, 2])
    image.putpalette([*RED, *GREEN, *BLUE])
    assert row(encoded(image, "PNG")) == [RED, GREEN, BLUE]
    assert row(encoded(image, "PNG", transparency=1)) == [RED, WHITE, BLUE]
    several = encoded(image, "PNG", transparency=bytes([255, 0, 128]))
    assert near(row(several), [RED, WHITE, [127, 127, 255]])
    assert row(encoded(image, "GIF", transparency=2)) == [RED, GREEN, WHITE]


def test_every_mode_of_an_image_in_memory():
    wanted = {
        "HSV": ((85, 255, 255), GREEN), "RGBX": ((1, 2, 3, 9), [1, 2, 3]),
        "La": ((50, 128), [177] * 3), "RGBa": ((0, 0, 128, 128), [127, 127, 255]),
        "LA": ((100, 51), [224] * 3), "1": (1, WHITE), "CMYK": ((0, 255, 255, 0), RED),
        "YCbCr": ((76, 85, 255), [254, 0, 0]), "LAB": ((255, 128, 128), WHITE),
        "I": (70_000, [136] * 3), "F": (0.5, [128] * 3), "I;16": (2048, [128] * 3),
    }  # fmt: skip
    for mode, (value, colour) in wanted.items():
        image = Image.new(mode, (3, 1), value)
        if mode in ("I", "F", "I;16"):
            # Beside two pixels that give the range: 17 bits, 1.0 and 12 bits.
            image.putpixel((1, 0), {"I": 131_071, "F": 1.0, "I;16": 4095}[mode])
            image.putpixel((2, 0), 0)
        assert near([decode_image(image, (1, 3), 3)[0, 0].tolist()], [colour], 1), mode
    palette = Image.new("P", (1, 1), 1)
    palette.putpalette([*RED, *BLUE])
    assert decode_image(palette, (1, 1), 3)[0, 0].tolist() == BLUE
    assert decode_image(palette.convert("PA"), (1, 1), 3)[0, 0].tolist() == BLUE


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize(
    ("values", "photometric", "wanted", "limits"),
    [
        (np.uint16([[0, 2048, 4095]]), 1, [0, 128, 255], ("16-bit", 0, 4095)),
        (np.uint16([[0, 32768, 65535]]), 1, [0, 128, 255], ("16-bit", 0, 65535)),
        (np.uint16([[40_000, 40_050, 40_100]]), 1, [0, 128, 255], ("16-bit", 40_000, 40_100)),
        (np.uint16([[0, 1, 1]]), 1, [0, 255, 255], ("16-bit", 0, 1)),
        (np.int16([[-100, 0, 100]]), 1, [0, 128, 255], ("16-bit", -100, 100)),
        (np.int32([[-(10**5), 0, 10**5]]), 1, [0, 128, 255], ("32-bit", -1e5, 1e5)),
        (np.float32([[0, 0.25, 1]]), 1, [0, 64, 255], ("float", 0, 1)),
        (np.float32([[0, 17, 200]]), 1, [0, 17, 200], ("float", 0, 255)),
        (np.float32([[0, 0.5, 2.5]]), 1, [0, 51, 255], ("float", 0, 2.5)),
        (np.float32([[0, 0.1, 0.2]]), 1, [0, 128, 255], ("float", 0, np.float32(0.2))),
        (np.float32([[0, 0.25, 1]]), 0, [255, 191, 0], ("float", 0, 1)),
    ],
)  # fmt: skip
def test_tiffs_of_more_bits(order, deflate, values, photometric, wanted, limits):
    data = tiff(values, photometric, order=order, deflate=deflate)
    assert near(row(data, 1), wanted)
    assert read_picture(data).limits == Range(*limits)


def test_unsigned_values_of_32_bits():
    data = tiff(np.uint32([[0, 2**31, 2**32 - 2]]), 1)
    assert near(row(data, 1), [0, 128, 255])
    assert read_picture(data).limits == Range("32-bit", 0, 2**32 - 1)


def test_sixteen_bits_where_zero_is_white():
    data = tiff(np.uint16([[0, 2048, 4095]]), 0)
    assert near(row(data, 1), [255, 127, 0])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("rows", [1, 3])
def test_colours_of_16_bits_keep_both_bytes(order, deflate, rows):
    values = np.arange(3 * 4 * 3, dtype=np.uint16).reshape(3, 4, 3) * 100 + 300
    wanted = np.rint(values * (255 / 4095)).astype(int)
    data = tiff(values, 2, order=order, deflate=deflate, rows=rows)
    assert near(decode_full(data, 3).tolist(), wanted.tolist(), 0)
    assert read_picture(data).values.high == values.max()
    alpha = np.full((3, 4, 1), 65535, np.uint16)
    alpha[0, 0] = 0
    clear = decode_full(tiff(np.concatenate([values, alpha], 2), 2, order=order, extra=[2]), 3)
    assert clear[0, 0].tolist() == WHITE
    assert near(clear[1:].tolist(), wanted[1:].tolist(), 0)


def test_pngs_of_16_bits_with_colour_alpha_and_a_key():
    values = np.array([[[0, 1000, 4095], [4095, 2048, 1]]], np.uint16)
    wanted = np.rint(values * (255 / 4095)).astype(int)
    assert row(png16(values, 2)) == wanted[0].tolist()
    key = chunk(b"tRNS", struct.pack(">3H", 0, 1000, 4095))
    assert row(png16(values, 2, key)) == [WHITE, wanted[0, 1].tolist()]
    other = chunk(b"tRNS", struct.pack(">3H", 0, 1001, 4095))
    assert row(png16(values, 2, other)) == wanted[0].tolist()
    grey = png16(np.uint16([[300, 4095]]), 0, chunk(b"tRNS", struct.pack(">H", 4095)))
    assert row(grey, 1) == [round(300 * 255 / 4095), 255]
    assert read_picture(grey).alpha
    veiled = np.array([[[2048, 65535], [0, 0], [4095, 32768]]], np.uint16)
    picture = read_picture(png16(veiled, 4))
    assert (picture.mode, picture.alpha, picture.image.mode) == ("16-bit", True, "L")
    assert near(row(png16(veiled, 4), 1), [128, 255, 255])


def test_pngs_of_few_bits():
    assert row(png(np.uint8([[0b00011011]]), 0, 2, 4), 1) == [0, 85, 170, 255]
    key = chunk(b"tRNS", struct.pack(">H", 2))
    assert row(png(np.uint8([[0b00011011]]), 0, 2, 4, key), 1) == [0, 85, 255, 255]
    assert row(png(np.uint8([[0x0A]]), 0, 4, 2, chunk(b"tRNS", b"\0\0")), 1) == [255, 170]
    assert row(png(np.uint8([[0b10000000]]), 0, 1, 2), 1) == [255, 0]


@pytest.mark.parametrize(
    ("data", "wanted", "mode"),
    [
        (b"P1 3 1\n0 1 0", [255, 0, 255], "bilevel"),
        (b"P4 3 1\n\x40", [255, 0, 255], "bilevel"),
        (b"P2 3 1 100\n0 50 100", [0, 128, 255], "grey"),
        (b"P5 3 1 255\n\x00\x80\xff", [0, 128, 255], "grey"),
        (b"P5 3 1 4095\n" + struct.pack(">3H", 0, 2048, 4095), [0, 128, 255], "16-bit"),
        (b"P5 3 1 65535\n" + struct.pack(">3H", 0, 2048, 4095), [0, 128, 255], "16-bit"),
        (b"Pf 3 1 -1\n" + struct.pack("<3f", 0, 0.5, 1), [0, 128, 255], "float"),
        (b"Pf 3 1 1\n" + struct.pack(">3f", 0, 0.5, 1), [0, 128, 255], "float"),
    ],
)
def test_portable_maps(data, wanted, mode):
    assert near(row(data, 1), wanted)
    assert read_picture(data).mode == mode


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP", "AVIF", "GIF"])
def test_of_several_frames_the_first_is_taken_and_told(form):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    assert read_picture(data).animated
    assert near(row(data)[:1], [RED], 6)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_jpeg_2000(mode):
    values = np.uint16([[0, 30_000, 60_000, 65_535]])
    image = Image.fromarray(values) if mode == "I;16" else photo(1, 8, 8).convert(mode)
    data = encoded(image, "JPEG2000")
    if mode == "I;16":
        assert near(row(data, 1), [0, 117, 233, 255])
    else:
        wanted = np.asarray(image.convert("RGB"))
        assert np.array_equal(decode_full(data, 3), wanted)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["TIFF", "AVIF"])
def test_orientation_is_applied_once(form, orientation):
    upright = np.asarray(photo(3, 24, 40))
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.swapaxes(0, 1), 6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": "4:4:4"} if form == "AVIF" else {}
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), form, exif=exif, **options)
    assert abs(decode_full(data, 3).astype(int) - upright).mean() < 2
    assert read_picture(data).orientation == orientation


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (tiff(np.zeros((1, 2, 5), np.uint16), 2, extra=[0, 0]), "unread", "5 values of 16 bits"),
        (tiff(np.zeros((1, 2, 3), np.float32), 2), "unread", "3 values of 32 bits"),
        (tiff(np.zeros((1, 2), np.uint32), 1, order=">"), "unread", "1 value of 32 bits"),
        (tiff(np.zeros((1, 2)), 1), "unread", "1 value of 64 bits"),
        (tiff(np.zeros((1, 2, 3), np.uint16), 2, planes=[2]), "unread", "separate planes"),
        (tiff(np.zeros((1, 2), np.float32) * np.nan, 1), "no values", "not one finite value"),
        (tiff(np.full((1, 2), 7, np.uint16), 1, nodata=b"7\0"), "no values", "not one finite"),
        (tiff(bytes_of(RED), 2, subfile=[1]), "camera raw", "preview.*: convert"),
        (tiff(bytes_of(RED), 2, dng=[1, 4]), "camera raw", "preview.*: convert"),
        (tiff(np.zeros((4, 4), np.uint8), 32803), "unread", "1 value of 8 bits"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "JPEG XL", "is JPEG XL, .*: convert"),
        (b"\xff\x0a" + bytes(40), "JPEG XL", "is JPEG XL, .*: convert"),
        (b"FUJIFILMCCD-RAW 0201" + bytes(40), "camera raw", "is camera raw, .*: convert"),
        (b"II*\0\x10\0\0\0CR\x02\0" + bytes(40), "camera raw", "is camera raw, .*: convert"),
        (b"\0\0\0\x18ftypcrx isom" + bytes(40), "camera raw", "is camera raw, .*: convert"),
        (b"8BPS\0\x01" + bytes(40), "Photoshop", "is Photoshop, .*: convert"),
        (b"<!DOCTYPE html><html>404</html>", "not an image", "is a web page, not an image"),
        (b"\n<svg xmlns='x'/>", "not an image", "is an SVG drawing"),
        (b"%PDF-1.7\n", "not an image", "is a PDF"),
        (b"\0\0\0\x18ftypmp42" + bytes(40), "not an image", "is a video"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not an image", "Git LFS"),
        (encoded(photo(0), "TIFF", compression="tiff_lzw")[:-90], "broken", "damaged or cut TIFF"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_called_by_its_name(data, kind, words):
    with pytest.raises(BrokenImage, match=words) as caught:
        decode(data, (8, 8), 3)
    assert caught.value.kind == kind


def test_bands_that_are_dropped_are_told():
    assert read_picture(tiff(bytes_of([1, 2, 3, 9, 9]), 2, extra=[0, 0])).spare
    assert not read_picture(tiff(bytes_of([1, 2, 3, 255]), 2, extra=[2])).spare
    assert not read_picture(encoded(photo(1), "TIFF")).spare


# HEIC

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)


def test_heic_is_named_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "known", lambda: ("JPEG", "PNG"))
    words = r"is HEIC, which pillow-heif would read: pip install '.*heif.*', or convert"
    with pytest.raises(BrokenImage, match=words) as caught:
        read_picture(HEIC)
    assert caught.value.kind == "HEIC"
    write_classes(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "a" / "really.jpg").write_bytes(HEIC)
    (finding,) = (f for f in looked_at(tmp_path).findings if f.kind == "HEIC")
    assert (finding.severity, finding.keys) == ("error", ("a/really.jpg",))
    assert extra("heif") in finding.message


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_heic_is_read_where_its_package_is(orientation):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = photo(3, 64, 96)
    image.info["exif"] = exif.tobytes()
    data = encoded(image, "HEIF", quality=95)
    turns = {1: 0, 3: 2, 6: -1}[orientation]
    out = decode_full(data, 3).astype(int)
    assert abs(out - np.rot90(np.asarray(image), turns)).mean() < 6
    with pytest.raises(BrokenImage, match="is HEIC, which pillow-heif cannot read"):
        decode_full(data[: len(data) // 2], 3)


# Tails


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 3}],
    ids=["plain", "progressive", "444", "restarts"],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_is_whole_where_every_pixel_is(options, mode):
    whole = encoded(photo(1, 90, 120).convert(mode), "JPEG", quality=90, **options)
    wanted = decode_full(whole, 3)
    assert whole.endswith(jpeg.END)
    for data in (whole[:-2], whole[:-1], whole + bytes(9), whole + b"\r\nafter the end"):
        assert np.array_equal(decode_full(data, 3), wanted)
    course = jpeg.scans(whole)
    assert (course.closed, course.missing, course.end) == (True, False, len(whole) - 2)
    for share in (0.5, 0.7, 0.9):
        cut = whole[: int(len(whole) * share)]
        for data in (cut, cut + jpeg.END):
            with pytest.raises(BrokenImage, match="is truncated") as caught:
                decode_full(data, 3)
            assert caught.value.kind == "truncated"


def test_a_grey_end_is_an_end_like_others():
    image = photo(1, 90, 120)
    image.paste((128, 128, 128), (0, 40, 120, 90))
    assert decode_full(encoded(image, "JPEG"), 3).shape == (90, 120, 3)
    assert decode_full(encoded(image.convert("L"), "JPEG"), 1).shape == (90, 120, 1)


def test_how_much_of_a_jpeg_is_missing_is_told():
    whole = encoded(photo(1, 160, 160), "JPEG", quality=95)
    with pytest.raises(BrokenImage, match=r"of the lower [456]\d% pixels are missing"):
        read_picture(whole[: int(len(whole) * 0.5)] + jpeg.END)


def test_a_progressive_jpeg_that_lost_whole_scans():
    whole = encoded(photo(1, 90, 120), "JPEG", progressive=True)
    starts = [at for at in range(len(whole) - 1) if whole[at : at + 2] == b"\xff\xda"]
    assert len(starts) > 4
    with pytest.raises(BrokenImage, match="whole scans are missing"):
        read_picture(whole[: starts[-1]])


@pytest.mark.parametrize("form", ["PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF"])
def test_half_a_file_is_no_picture(form):
    whole = encoded(photo(1, 90, 120), form)
    wanted = decode_full(whole, 3)
    for cut in (1, 2, 4, 16, len(whole) // 2):
        try:
            assert np.array_equal(decode_full(whole[:-cut], 3), wanted)
        except BrokenImage as error:
            assert error.kind in ("truncated", "broken")
        else:
            assert cut <= 16


# Texts


@pytest.mark.parametrize("compressed", [True, False])
def test_a_png_with_a_large_text_is_read(compressed):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("comment", "x" * (3 << 20), zip=compressed)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(photo(2), "PNG", pnginfo=texts, exif=exif)
    wanted = np.rot90(np.asarray(photo(2)), -1)
    assert np.array_equal(decode_full(data, 3), wanted)
    after = data[:-12] + chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(3 << 20))) + data[-12:]
    assert np.array_equal(decode_full(after, 3), wanted)


def test_a_png_with_damage_beside_its_pixels_is_read():
    data = bytearray(encoded(photo(2), "PNG", dpi=(70, 70), icc_profile=bytes(3 << 20)))
    data[data.index(b"pHYs") + 6] ^= 1
    assert np.array_equal(decode_full(bytes(data), 3), np.asarray(photo(2)))
    data[data.index(b"IDAT") + 40] ^= 1
    with pytest.raises(BrokenImage):
        decode_full(bytes(data), 3)


# One range for a set


def looked_at(root: Path) -> Inspection:
    return inspect(open_source(root), progress=False)


def deep_set(root: Path, draw) -> Path:
    for at in range(12):
        path = root / "ab"[at % 2] / f"{at:02d}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiff(draw(at), 1))
    return root


def relief(at: int, levels: float) -> np.ndarray:
    return np.asarray(photo(at, 24, 24).convert("L")).astype(np.float64) / 255 * levels


def test_twelve_bits_beside_eight_keep_their_levels(tmp_path):
    deep_set(tmp_path, lambda at: np.rint(relief(at, 4095 * (at + 1) / 12)).astype(np.uint16))
    for at in range(12, 18):
        photo(at, 24, 24).convert("L").save(tmp_path / "a" / f"{at}.png")
    found = looked_at(tmp_path)
    assert found.source.ranges == (Range("16-bit", 0, 4095),)
    (told,) = (f for f in found.findings if f.kind == "16-bit")
    assert told.message == (
        "12 images have 16 bits per value, of which 0 to 4095 become 0 to 255 in all of them"
    )
    part = divide(found).train
    made = pixels(part, (24, 24), 1, folder=tmp_path / "cache", progress=False)
    for item, image in zip(part.items, made.images, strict=True):
        at = int(item.key[2:4])
        if at < 12:
            wanted = np.rint(np.rint(relief(at, 4095 * (at + 1) / 12)) * (255 / 4095))
            assert np.array_equal(image[..., 0], wanted.astype(np.uint8))
        else:
            assert np.array_equal(image[..., 0], np.asarray(photo(at, 24, 24).convert("L")))


def test_missing_data_is_told_and_leaves_the_rest_alone(tmp_path):
    def draw(at: int) -> np.ndarray:
        values = (relief(at, 700) + 300).astype(np.float32)
        if at < 4:
            values[:3] = (np.nan, np.inf, -9999, np.finfo(np.float32).min)[at]
        return values

    deep_set(tmp_path, draw)
    (tmp_path / "a" / "nan.tif").write_bytes(tiff(np.full((24, 24), np.nan, np.float32), 1))
    (tmp_path / "b" / "none.tif").write_bytes(tiff(np.full((24, 24), -9999, np.float32), 1))
    found = looked_at(tmp_path)
    low = min(draw(at)[3:].min() for at in range(12))
    high = max(draw(at)[3:].max() for at in range(12))
    (limits,) = found.source.ranges
    assert (limits.kind, limits.low, limits.high) == ("float", pytest.approx(low), high)
    assert {entry.key: entry.kind for entry in found.broken} == {
        "a/nan.tif": "no values", "b/none.tif": "no values",
    }  # fmt: skip
    (told,) = (f for f in found.findings if f.kind == "no data")
    assert (told.severity, len(told.keys)) == ("warning", 4)
    for at, edge in ((0, 0), (1, 255), (2, 0), (3, 0)):
        out = decode_full(tiff(draw(at), 1), 1, found.source.ranges)[..., 0]
        assert (out[:3] == edge).all()
        wanted = np.rint((draw(at)[3:].astype(np.float64) - low) * (255 / (high - low)))
        assert abs(out[3:].astype(int) - wanted).max() <= 1
    assert any(f.kind == "stretched" for f in found.findings)


@pytest.mark.parametrize(
    ("rows", "kind", "wanted"),
    [
        ([[0, 65535, 65535]], "16-bit", (0, 65535)),
        ([[0, 4095, 65535]], "16-bit", (0, 4095)),
        ([[0, 40_000, 65535]], "16-bit", (0, 65535)),
        ([[-10_000.0, -9999.0, 10_000.0]], "float", (-10_000, 10_000)),
        ([[0.0, 1.0], [-9999.0, 0.5]], "float", (0, 1)),
        ([[-9999.0], [1e20], [3.0, 5.0]], "float", (3, 5)),
        ([[0]], "16-bit", (0, 65535)),
        ([[255, 0]], "16-bit", (0, 255)),
        ([[0.5]], "float", (0, 1)),
        ([[7.5]], "float", (0, 255)),
        ([[700.0]], "float", (700, 701)),
    ],
)
def test_the_range_of_a_set(rows, kind, wanted):
    dtype = np.float32 if kind == "float" else np.uint16
    values = [look([np.array(one, dtype)], kind) for one in rows]
    assert range_of(together(values)) == Range(kind, *wanted)


def test_duplicates_are_judged_by_the_common_range(tmp_path):
    # The same relief, once from 0 to 1,000 and once 40 times as flat: no duplicates.
    deep_set(tmp_path, lambda at: (relief(at, 1000)).astype(np.float32))
    (tmp_path / "a" / "flat.tif").write_bytes(tiff(relief(0, 25).astype(np.float32), 1))
    found = looked_at(tmp_path)
    assert len(np.unique(found.twins)) == len(found)
    (dim,) = (f for f in found.findings if f.kind == "dim")
    assert dim.keys == ("a/flat.tif",)


# Memory, pipes, silence


def test_what_decodes_at_once_is_bounded():
    room, together_now, most = Room(100), 0, 0
    lock = threading.Lock()

    def use(n: int) -> None:
        nonlocal together_now, most
        with room.taken(n):
            with lock:
                together_now += min(n, 100)
                most = max(most, together_now)
            threading.Event().wait(0.01)
            with lock:
                together_now -= min(n, 100)

    threads = [threading.Thread(target=use, args=(n,)) for n in (60, 60, 30, 500, 40, 70)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert 60 <= most <= 100


MEMORY = """
    import resource, sys
    import torch
    from vitrail.data.decode import decode

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    data = open(sys.argv[1], "rb").read()
    before = peak()
    decode(data, (64, 64), 3)
    print(peak() - before)
"""


@pytest.mark.slow
def test_a_large_image_takes_little_more_than_itself(tmp_path):
    side = 6000
    path = tmp_path / "large.png"
    Image.fromarray(np.zeros((side, side), np.uint16)).save(path, compress_level=1)
    command = [sys.executable, "-c", textwrap.dedent(MEMORY), str(path)]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown < 12 * side * side / 2**20


def test_a_pipe_is_no_image_and_nobody_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(BrokenImage, match="not a regular file"):
            read_file(path)
        assert not formats.looks_like_image(path)
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path)
    assert not formats.looks_like_image(tmp_path)
    sparse = tmp_path / "large.png"
    with sparse.open("wb") as file:
        file.truncate(formats.OVERSIZED_BYTES + 1)
    with pytest.raises(BrokenImage, match="bytes, at most"):
        read_file(sparse)


NOISE = """
    import sys
    sys.path.insert(0, "tests")
    from support.fuzz import damaged
    from vitrail.data.decode import BrokenImage, read_picture

    for name, data in damaged(3000, 5):
        if name.startswith(("TIFF", "JPEG", "PNG")):
            try:
                read_picture(data)
            except BrokenImage:
                pass
"""


def test_no_library_writes_to_the_terminal():
    command = [sys.executable, "-c", textwrap.dedent(NOISE)]
    here = Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=here, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("seed", [0])
def test_damaged_files_are_pictures_or_reasons(seed, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_000_000)
    outcome = fuzz(200, seed)
    assert not outcome.escaped
    assert outcome.kinds["read"] > 10 < outcome.kinds["broken"]
    assert outcome.slowest_s < 5


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_thousands_of_damaged_files_are_pictures_or_reasons(seed):
    outcome = fuzz(10_000, seed)
    assert not outcome.escaped
    assert outcome.slowest_s < 30
    assert outcome.grown_mib < 2048
