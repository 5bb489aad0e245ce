"""What a file is by its first bytes, for the sentence about one that cannot be read."""

import io

from vitrail.units import counted

# By which the formats that are read are known; what is cut or damaged is called by its name.
_READ = (
    (0, b"\xff\xd8\xff", "JPEG"), (0, b"\x89PNG\r\n\x1a\n", "PNG"), (0, b"GIF8", "GIF"),
    (0, b"II*\0", "TIFF"), (0, b"MM\0*", "TIFF"), (0, b"II+\0", "TIFF"), (0, b"MM\0+", "TIFF"),
    (8, b"WEBP", "WebP"), (0, b"BM", "BMP"), (4, b"ftypavif", "AVIF"), (4, b"ftypavis", "AVIF"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"), (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
)  # fmt: skip

# Images that are not read, or only where another package is installed.
_UNREAD = (
    *((4, b"ftyp" + brand, "HEIC") for brand in (
        b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1",
    )),
    (0, b"\xff\x0a", "JPEG XL"), (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (8, b"CR\x02", "camera raw"), (4, b"ftypcrx ", "camera raw"), (0, b"FUJIFILM", "camera raw"),
    (0, b"IIRO", "camera raw"), (0, b"IIRS", "camera raw"), (0, b"MMOR", "camera raw"),
    (0, b"IIU\0", "camera raw"), (0, b"FOVb", "camera raw"), (0, b"\0MRM", "camera raw"),
    (6, b"HEAPCCDR", "camera raw"),
    (0, b"8BPS", "Photoshop"), (0, b"qoif", "QOI"), (0, b"icns", "ICNS"), (0, b"DDS ", "DDS"),
    (0, b"II\xbc", "JPEG XR"), (0, b"\x0a\x05\x01\x08", "PCX"), (0, b"\x01\xda", "SGI"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"), (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"SIMPLE  =", "FITS"), (128, b"DICM", "DICOM"), (0, b"\x89HDF", "HDF5"),
)  # fmt: skip

_OTHER = (
    (0, b"%PDF", "a PDF"), (0, b"%!PS", "a PostScript file"), (0, b"\xc5\xd0\xd3\xc6", "an EPS"),
    (0, b"PK\x03\x04", "a zip archive"), (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"Rar!", "a RAR archive"), (0, b"7z\xbc\xaf", "a 7z archive"),
    (0, b"version https://git-lfs", "a pointer of Git LFS without its content"),
    (4, b"ftyp", "a video"), (0, b"RIFF", "a video or a sound"),
    (0, b"\x1aE\xdf\xa3", "a video"), (0, b"\x93NUMPY", "a NumPy array"),
)  # fmt: skip
_MARKUP = (
    (b"<svg", "an SVG drawing"), (b"<!doctype html", "a web page"), (b"<html", "a web page"),
    (b"<?xml", "an XML document"),
)  # fmt: skip

UNREAD = frozenset(name for _, _, name in _UNREAD)


def readable(head: bytes) -> str | None:
    """Name the format of these first bytes, among those that are always read."""
    return _named(head, _READ)


def unread(head: bytes) -> str | None:
    """Name the image format of these first bytes, among those that are not always read."""
    return _named(head, _UNREAD)


def other(head: bytes) -> str | None:
    """Name what these first bytes are of that is not an image of pixels."""
    start = head[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<?xml") and b"<svg" in start:
        return "an SVG drawing"
    markup = next((name for words, name in _MARKUP if start.startswith(words)), None)
    return markup or _named(head, _OTHER)


def tiff_kind(data: bytes) -> str | None:
    """Say how many values of how many bits a TIFF has per pixel, if it tells."""
    from PIL import TiffImagePlugin as tiff

    try:
        head = data[: 16 if data[2] == 43 or data[3] == 43 else 8]
        tags = tiff.ImageFileDirectory_v2(head)
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        bits = tags[258]
        values = counted(len(bits), "value")
        return f"{values} of {bits[0]} bits per pixel" if max(bits) <= 64 else None
    except Exception:
        # Whatever a damaged header makes the parser stumble over: then nothing is known.
        return None


def _named(head: bytes, table: tuple[tuple[int, bytes, str], ...]) -> str | None:
    return next((name for at, mark, name in table if head[at : at + len(mark)] == mark), None)
