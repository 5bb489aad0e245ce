"""Images of many requests answered in batches, as many at once as wait, and no more than may."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np

from vitrail.serve.limits import Limits, Refused
from vitrail.serve.metrics import Metrics

# uint8 (N, H, W, C) to an answer for each.
Answers = Callable[[np.ndarray], Sequence[Any]]


class Batcher:
    """Gathers images into batches and gives each its answer.

    One thread computes, so that batches do not take the cores from each other. `answer` works
    inside a running event loop only; `start` before it, `stop` answers what waits and ends.
    """

    def __init__(self, answers: Answers, limits: Limits, metrics: Metrics) -> None:
        self._answers, self._limits, self._metrics = answers, limits, metrics
        self._queue: deque[tuple[np.ndarray, asyncio.Future]] = deque()
        self._more, self._thread = asyncio.Event(), ThreadPoolExecutor(1, "vitrail-batch")
        self._task: asyncio.Task | None = None
        self._held, self._ending = 0, False

    @property
    def waiting(self) -> int:
        """Return how many images are held for: decoded, or about to be, and not yet answered."""
        return self._held

    def reserve(self, images: int) -> None:
        """Hold places for the images of a request. Raises Refused, 503, where there are none."""
        if self._ending:
            raise Refused(503, "the server is shutting down", retry_s=5)
        if self._held + images > self._limits.waiting:
            raise Refused(
                503, f"{self._held} images wait already: come again in a second", retry_s=1
            )
        self._held += images

    def release(self, images: int) -> None:
        """Give places back."""
        self._held -= images

    async def answer(self, images: Sequence[np.ndarray]) -> list[Any]:
        """Return the answers to images for which places are reserved."""
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in images]
        self._queue.extend(zip(images, futures, strict=True))
        self._more.set()
        return list(await asyncio.gather(*futures))

    def start(self) -> None:
        """Begin to answer."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Answer what waits, and end."""
        self._ending = True
        self._more.set()
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._more.wait()
            if len(self._queue) < self._limits.batch and not self._ending:
                await asyncio.sleep(self._limits.gather_s)
            some = [self._queue.popleft() for _ in range(min(len(self._queue), self._limits.batch))]
            if not self._queue and not self._ending:
                self._more.clear()
            # Whoever went away while it waited needs no answer.
            some = [(image, future) for image, future in some if not future.cancelled()]
            if some:
                await self._answered(loop, some)
            elif self._ending and not self._queue:
                return

    async def _answered(self, loop: Any, some: list[tuple[np.ndarray, asyncio.Future]]) -> None:
        self._metrics.batches.add(len(some))
        whole = np.stack([image for image, _ in some])
        try:
            answers = await loop.run_in_executor(self._thread, self._answers, whole)
        except Exception as error:
            # Told to each request of the batch, and raised there.
            for _, future in some:
                with suppress(asyncio.InvalidStateError):
                    future.set_exception(error)
            return
        self._metrics.images += len(some)
        for (_, future), one in zip(some, answers, strict=True):
            with suppress(asyncio.InvalidStateError):
                future.set_result(one)
