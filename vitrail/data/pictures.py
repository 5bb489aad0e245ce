"""Small pictures of images, for pages that show what a finding means."""

import io
from collections.abc import Iterable

from PIL import Image

from vitrail.data.decode import BrokenImage, read_picture
from vitrail.data.parallel import in_order
from vitrail.data.sounds import sound_picture
from vitrail.data.source import Item, Source

# From this side on a photograph is kept as JPEG, which takes a fifth of the bytes; smaller ones are
# looked at pixel by pixel.
SMALL = 64
QUALITY = 80


def thumbnails(source: Source, keys: Iterable[str], *, side: int = 96) -> dict[str, bytes]:
    """Return the images called `keys` as PNG or JPEG files of at most `side` x `side` pixels.

    Images that cannot be read any more, and keys that the source does not have, are left out, and
    so is what is not an image.
    """
    if source.kind != "images":
        return {}
    wanted = dict.fromkeys(keys)
    items = {item.key: item for item in source.items if item.key in wanted}
    found = [items[key] for key in wanted if key in items]
    drawn = in_order(
        lambda rows: [_small(source, found[row], side) for row in rows], len(found), size=4,
        workers=None, title="", progress=False,
    )  # fmt: skip
    small = [one for some in drawn for one in some]
    return {item.key: data for item, data in zip(found, small, strict=True) if data is not None}


def _image(source: Source, data: bytes) -> Image.Image:
    """Return the picture of a file, of a sound its spectrogram."""
    if source.hearing is None:
        return read_picture(data, source.ranges).image
    return Image.fromarray(sound_picture(data, source.hearing, source.hearing.image)[..., 0])


def _small(source: Source, item: Item, side: int) -> bytes | None:
    try:
        image = _image(source, source.read(item))
    except (OSError, BrokenImage):
        return None
    image.thumbnail((side, side), Image.Resampling.BOX, reducing_gap=2.0)
    buffer = io.BytesIO()
    if max(image.size) < SMALL:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
