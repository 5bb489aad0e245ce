"""Small pictures of images, for pages that show what a finding means."""

import io
from collections.abc import Iterable

from PIL import Image

from vitrail.data.decode import BrokenImage, read_picture
from vitrail.data.source import Source


def thumbnails(source: Source, keys: Iterable[str], *, side: int = 96) -> dict[str, bytes]:
    """Return the images called `keys` as PNG files of at most `side` x `side` pixels.

    Images that cannot be read any more, and keys that the source does not have, are left out.
    """
    wanted = dict.fromkeys(keys)
    found = {item.key: item for item in source.items if item.key in wanted}
    small = {}
    for key in wanted:
        try:
            image = read_picture(source.read(found[key])).image
        except (KeyError, OSError, BrokenImage):
            continue
        image.thumbnail((side, side), Image.Resampling.BOX, reducing_gap=2.0)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        small[key] = buffer.getvalue()
    return small
