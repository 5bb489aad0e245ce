"""The pictures of a request: its body as it is, a form's files, or base64 in JSON; all bounded."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from typing import Any

from vitrail.serve.limits import Limits, Refused

FORMS = (
    "send a picture as the body (Content-Type image/jpeg ...), a form with files, or JSON "
    '{"images": ["<base64>", ...]}'
)


async def pictures(request: Any, limits: Limits) -> list[bytes]:
    """Return the files in a request, in order. Raises Refused for what is none, or too much."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("image/") or kind == "application/octet-stream":
        found = [await _whole(request, limits)]
    elif kind == "application/json":
        found = _from_json(await _whole(request, limits), limits)
    elif kind == "multipart/form-data":
        found = await _from_form(request, limits)
    else:
        raise Refused(415, f"the content type is {kind[:60] or 'missing'}: {FORMS}")
    if not found or not all(found):
        raise Refused(400, f"there is no picture in the request: {FORMS}")
    return found


async def _whole(request: Any, limits: Limits) -> bytes:
    """Read the body, no further than the limit and no longer than it may take."""
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > limits.bytes:
        raise _large(limits)
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.body_s):
            async for part in request.stream():
                size += len(part)
                if size > limits.bytes:
                    raise _large(limits)
                parts.append(part)
    except TimeoutError:
        raise Refused(408, f"the body was not there after {limits.body_s:g} s") from None
    return b"".join(parts)


def _from_json(body: bytes, limits: Limits) -> list[bytes]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, f"the body is not JSON: {FORMS}") from None
    images = value.get("images") if isinstance(value, dict) else None
    if not isinstance(images, list) or not all(isinstance(one, str) for one in images):
        raise Refused(400, f'the body has no list of texts "images": {FORMS}')
    _check_count(len(images), limits)
    try:
        return [base64.b64decode(one, validate=True) for one in images]
    except (binascii.Error, ValueError):
        raise Refused(400, "an image is not base64: encode the bytes of the file") from None


async def _from_form(request: Any, limits: Limits) -> list[bytes]:
    """Return the files of a form, which is read whole first, so that the
    limit holds for all of it.
    """
    from starlette.datastructures import UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    body = await _whole(request, limits)

    async def stream():
        yield body

    parser = MultiPartParser(
        request.headers, stream(), max_files=limits.images, max_fields=limits.images
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        if "many files" in str(error).lower():
            _check_count(limits.images + 1, limits)
        raise Refused(400, "the form cannot be read: send multipart/form-data") from None
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    found = [await one.read() for one in files]
    await form.close()
    return found


def _check_count(images: int, limits: Limits) -> None:
    if images > limits.images:
        raise Refused(413, f"more than {limits.images} images: send several requests")


def _large(limits: Limits) -> Refused:
    return Refused(413, f"the body has more than {limits.bytes:,} bytes: send smaller pictures")
