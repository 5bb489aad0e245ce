"""The ASGI application: POST /predict and /looked, a page, /healthz and /metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vitrail.data.formats import BrokenImage
from vitrail.data.pieces import hidden, spans
from vitrail.serve.batching import Batcher
from vitrail.serve.body import pictures
from vitrail.serve.limits import Limits, Refused
from vitrail.serve.metrics import Metrics

# Images of a request to its reply in JSON.
Job = Callable[[Sequence[np.ndarray]], Awaitable[Mapping[str, Any]]]

PAGE = Path(__file__).with_name("page.html")
# A page that loads nothing from elsewhere and runs no script but its own.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
PARTS = {"page.css": "text/css", "page.js": "text/javascript"}


class Model(Protocol):
    """What is served."""

    @property
    def about(self) -> Mapping[str, Any]:
        """Return its facts in JSON."""
        ...

    def decoded(self, data: bytes, most_pixels: int) -> np.ndarray:
        """Return a file's picture, uint8 (H, W, C) at the size of the model.

        Raises BrokenImage, and Refused for more pixels.
        """
        ...

    def answers(self, images: np.ndarray) -> Sequence[Mapping[str, Any]]:
        """Return an answer in JSON for each of uint8 (N, H, W, C)."""
        ...


def rests(
    whole: Mapping[str, Any], without: Sequence[Mapping[str, Any]], rows: int
) -> Mapping[str, Any]:
    """Return the first class of an answer and by how much it loses where each piece is hidden.

    `whole` is the answer to the image and `without` those to it without each piece, row by row. A
    class that is not among those told has lost all.

    Examples:
        >>> cat = {"classes": [{"class": "cat", "p": 0.75}]}
        >>> dog = {"classes": [{"class": "dog", "p": 0.5}, {"class": "cat", "p": 0.5}]}
        >>> rests(cat, [cat, dog], rows=1)
        {'class': 'cat', 'p': 0.75, 'lost': [[0.0, 0.25]]}
    """
    name, share = whole["classes"][0]["class"], whole["classes"][0]["p"]
    told = [{one["class"]: one["p"] for one in answer["classes"]} for answer in without]
    lost = [round(max(0.0, share - found.get(name, 0.0)), 4) for found in told]
    columns = len(lost) // rows
    return {
        "class": name,
        "p": share,
        "lost": [lost[row * columns : (row + 1) * columns] for row in range(rows)],
    }


class Server:
    """A model behind its endpoints; `app` is the ASGI application.

    At most `limits.waiting` images are in memory, whoever comes then is told 503 and when to come
    again. Pictures are decoded in threads beside the one that computes.
    """

    def __init__(self, model: Model, limits: Limits | None = None) -> None:
        from starlette.applications import Starlette
        from starlette.routing import Route

        self.model, self.limits, self.metrics = model, limits or Limits(), Metrics()
        self._batcher: Batcher | None = None
        self.app = Starlette(
            routes=[
                Route("/", self._page),
                Route("/page.css", self._part),
                Route("/page.js", self._part),
                Route("/healthz", self._health),
                Route("/metrics", self._told),
                Route("/about", self._about),
                Route("/predict", self._predict, methods=["POST"]),
                Route("/looked", self._looked, methods=["POST"]),
            ],
            lifespan=self._life,
        )

    @asynccontextmanager
    async def _life(self, app: Any) -> AsyncIterator[None]:
        self._batcher = Batcher(self.model.answers, self.limits, self.metrics)
        self._batcher.start()
        try:
            yield
        finally:
            await self._batcher.stop()

    async def _page(self, request: Any) -> Any:
        from starlette.responses import HTMLResponse

        return HTMLResponse(PAGE.read_text("utf-8"), headers=HEADERS)

    async def _part(self, request: Any) -> Any:
        from starlette.responses import Response

        name = request.url.path[1:]
        return Response(PAGE.with_name(name).read_bytes(), media_type=PARTS[name], headers=HEADERS)

    async def _health(self, request: Any) -> Any:
        from starlette.responses import JSONResponse

        return JSONResponse({"status": "ok"})

    async def _about(self, request: Any) -> Any:
        from starlette.responses import JSONResponse

        return JSONResponse(dict(self.model.about))

    async def _told(self, request: Any) -> Any:
        from starlette.responses import PlainTextResponse

        assert self._batcher is not None
        return PlainTextResponse(
            self.metrics.text(self._batcher.waiting), media_type="text/plain; version=0.0.4"
        )

    async def _predict(self, request: Any) -> Any:
        return await self._replied(request, self._answered)

    async def _looked(self, request: Any) -> Any:
        return await self._replied(request, self._rested)

    async def _replied(self, request: Any, job: Job) -> Any:
        """Answer a request by what a job makes of its pictures, with places for these held."""
        from starlette.responses import JSONResponse

        began = time.perf_counter()
        try:
            content, status, headers = await self._found(request, job), 200, {}
        except Refused as error:
            status, content = error.status, {"error": error.reason}
            headers = {} if error.retry_s is None else {"Retry-After": str(error.retry_s)}
        self.metrics.requests[status] += 1
        self.metrics.seconds.add(time.perf_counter() - began)
        return JSONResponse(content, status, headers)

    async def _found(self, request: Any, job: Job) -> Mapping[str, Any]:
        """Do a job with the pictures of a request. Raises Refused."""
        assert self._batcher is not None
        self._batcher.reserve(1)  # before the body is in memory
        held = 1
        try:
            files = await pictures(request, self.limits)
            self._batcher.reserve(len(files) - 1)
            held = len(files)
            return await job(await self._decoded(files))
        finally:
            self._batcher.release(held)

    async def _answered(self, images: Sequence[np.ndarray]) -> Mapping[str, Any]:
        """Answer about images."""
        assert self._batcher is not None
        return {"predictions": await self._batcher.answer(images)}

    async def _rested(self, images: Sequence[np.ndarray]) -> Mapping[str, Any]:
        """Tell on what parts of one image its first class rests. Raises Refused."""
        if len(images) != 1:
            raise Refused(413, f"{len(images)} pictures: send one to see what its answer rests on")
        assert self._batcher is not None
        [whole] = await self._batcher.answer(images)
        some, without = list(hidden(images[0])), []
        # No more at once than leave room for others.
        for start in range(0, len(some), step := max(1, self.limits.waiting // 8)):
            part = some[start : start + step]
            self._batcher.reserve(len(part) - 1)
            try:
                without += await self._batcher.answer(part)
            finally:
                self._batcher.release(len(part) - 1)
        return rests(whole, without, rows=len(spans(images[0].shape[0])))

    async def _decoded(self, files: Sequence[bytes]) -> list[np.ndarray]:
        images = []
        for number, data in enumerate(files, 1):
            try:
                images.append(await asyncio.to_thread(self.model.decoded, data, self.limits.pixels))
            except BrokenImage as error:
                which = "the picture" if len(files) == 1 else f"picture {number}"
                raise Refused(422, f"{which} {error.reason}") from error
        return images
