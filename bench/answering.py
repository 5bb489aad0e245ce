"""Further kinds of files: what a run answers with beside model.onnx (the files of a dial, those of
OpenVINO), and the bodies of requests to `vitrail serve`."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import mutate
import numpy as np
import torch
from kind import Kind
from PIL import Image

import vitrail
from vitrail import digests, models
from vitrail.config import to_json
from vitrail.data.labels import Labels
from vitrail.engines.onnx import export_onnx, synthetic
from vitrail.errors import RunError
from vitrail.jobs.predict import Predictor, answering
from vitrail.jobs.serve import Served
from vitrail.methods import Flexivit
from vitrail.models import config_json
from vitrail.run import dial as dials
from vitrail.run.deploy import export_engine
from vitrail.run.dial import Dial, Point, Setting
from vitrail.run.dial_files import export_dial
from vitrail.run.folder import RunFolder
from vitrail.serve.app import Server
from vitrail.serve.limits import Limits

LABELS = Labels(("a", "b", "c"), (28, 28), 1, (0.3,), (0.4,), 1.5)
# So long a case of OpenVINO may compute, in a process of its own.
MOST_S = 30


def _saved(folder: Path, config: Any, methods: Sequence[Any] = ()) -> RunFolder:
    """A run whose weights are random, with its ONNX file and a picture beside it."""
    torch.manual_seed(0)
    model = vitrail.create(config)
    for method in methods:
        model = method.apply(model)
    told = [{"kind": "flexivit"} | to_json(method) for method in methods]
    with RunFolder.create(folder / "run") as run:
        recipe = {"model": to_json(config_json(model.config)), "methods": told}
        run.save_model(model.eval(), recipe, LABELS)
        export_onnx(model, LABELS, run.onnx, images=synthetic(LABELS)[:8])
    pixels = np.arange(784).reshape(28, 28) % 256
    Image.fromarray(pixels.astype(np.uint8)).save(folder / "image.png")
    return run


def _small() -> Any:
    return next(models.small_configs("resnet", image=(28, 28), channels=1, classes=3))


# ---- a dial ----------------------------------------------------------------------------


@cache
def _dialled() -> Any:
    sizes = {"dim": 32, "depth": 1, "heads": 2, "hidden": 64, "patch": 4}
    return models.resolve("vit_ti16", image=(28, 28), channels=1, classes=3, **sizes)


def _dial(name: str) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        run = _saved(folder, _dialled(), [Flexivit(test_patch=4)])
        points = tuple(
            Point(Setting(patch), 10**6, score, score / 2, (1 + score) / 2, 1e-3 / patch,
                  2e-3 / patch, 9, temperature=float(patch))
            for patch, score in ((2, 0.9), (4, 0.8), (7, 0.6))
        )  # fmt: skip
        dials.write(run, Dial("", "patch4", "accuracy", 90, (28, 28), 1, points))
        if name != dials.NAME:
            export_dial(run.path)
        return [run.path / name]

    return make


def _turned(_: Path, folder: Path) -> Any:
    run, found = folder / "run", []
    for place in (0.0, 1.0):
        one = answering(run, dial=place).predict([folder / "image.png"])[0]
        found.append((one.ranked, one.error))
    return found, to_json(dials.read(RunFolder.open(run)))


# ---- OpenVINO --------------------------------------------------------------------------


def _exported(name: str) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        run = _saved(folder, _small())
        # OpenVINO must not have computed in a process that is copied later.
        _apart(lambda: bool(export_engine(run.path, "openvino", progress=False)))
        return [run.path / name]

    return make


def _compiled(_: Path, folder: Path) -> Any:
    def answer() -> Any:
        one = Predictor(folder / "run", engine="openvino").predict([folder / "image.png"])[0]
        return [list(pair) for pair in one.ranked], one.error

    return _apart(answer)


def _tied(file: Path, folder: Path) -> Any:
    """What OpenVINO makes of a file that the run's record names as its own."""
    path = folder / "run" / "engine.json"
    told = json.loads(path.read_text())
    told["openvino"]["files"][file.name] = digests.of_file(file)
    path.write_text(json.dumps(told))
    return _compiled(file, folder)


def _apart(work: Callable[[], Any]) -> Any:
    """What `work` returns, in JSON, in a process of its own; RunError where it is refused there."""
    mine, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(MOST_S)
        try:
            said = {"found": work()}
        except vitrail.errors.VitrailError as error:
            said = {"refused": str(error)}
        except BaseException as error:
            said = {"bare": f"{type(error).__name__}: {error}"}
        try:
            os.write(theirs, json.dumps(said).encode()[:60_000])
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(mine, "rb") as file:
        data = file.read()
    _, status = os.waitpid(child, 0)
    if not data:
        raise SystemError(f"the process ended with {os.waitstatus_to_exitcode(status)}")
    said = json.loads(data)
    if "refused" in said:
        raise RunError(said["refused"])
    if "bare" in said:
        raise SystemError(said["bare"])
    return said["found"]


# ---- requests --------------------------------------------------------------------------


def _requests(folder: Path) -> list[Path]:
    """Requests as they are sent: a line of the path, lines of the head, an empty one, the body."""
    _saved(folder, _small())
    picture = (folder / "image.png").read_bytes()
    text = json.dumps({"images": [base64.b64encode(picture).decode()] * 2}).encode()
    mark = b"--edge\r\n"
    head = b'Content-Disposition: form-data; name="file"; filename="a.png"\r\n'
    part = mark + head + b"Content-Type: image/png\r\n\r\n" + picture + b"\r\n"
    form = part * 2 + b"--edge--\r\n"
    made = {
        "picture": (b"/predict", b"image/png", picture),
        "looked": (b"/looked", b"application/octet-stream", picture),
        "json": (b"/predict", b"application/json; charset=utf-8", text),
        "form": (b"/predict", b"multipart/form-data; boundary=edge", form),
    }
    files = []
    for name, (path, kind, body) in made.items():
        length = str(len(body)).encode()
        lines = [path, b"content-type: " + kind, b"content-length: " + length, b"", body]
        files.append(folder / f"{name}.request")
        files[-1].write_bytes(b"\n".join(lines))
    return files


@cache
def _server(run: Path) -> Server:
    return Server(Served(run), Limits(bytes=1 << 20, pixels=1 << 22, images=4, waiting=256))


def _replied(file: Path, folder: Path) -> Any:
    head, _, body = file.read_bytes().partition(b"\n\n")
    path, *lines = head.split(b"\n")
    headers = [
        (name.strip().lower(), value.strip())
        for name, colon, value in (line.partition(b":") for line in lines)
        if colon
    ]
    asked = _asked(_server(folder / "run"), path.decode("latin-1"), headers, body)
    status, text = asyncio.run(asked)
    said = text.decode("utf-8")
    if status >= 500:
        raise SystemError(f"{status}: {said[:80]}")
    if status >= 400:
        raise RunError(f"{status}: {said}")
    return said


async def _asked(
    server: Server, path: str, headers: Sequence[tuple[bytes, bytes]], body: bytes
) -> tuple[int, bytes]:
    """The status and the body of the reply to a request, which comes in two pieces."""
    half = len(body) // 2
    pieces = [
        {"type": "http.request", "body": body[:half], "more_body": True},
        {"type": "http.request", "body": body[half:], "more_body": False},
    ]
    found: dict[str, Any] = {"status": 0, "body": b""}

    async def receive() -> Any:
        return pieces.pop(0) if pieces else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        found["status"] = message.get("status", found["status"])
        found["body"] += message.get("body", b"")

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "path": path, "raw_path": path.encode("latin-1"), "query_string": b"", "root_path": "",
        "scheme": "http", "headers": list(headers), "client": ("here", 1), "server": ("here", 80),
    }  # fmt: skip
    async with server._life(None):
        await server.app(scope, receive, send)
    return found["status"], found["body"]


def _in_body(random: Random, data: bytes) -> bytes:
    """A request whose head stays, but for the length, and whose body is damaged by its kind."""
    head, _, body = data.partition(b"\n\n")
    if b"json" in head:
        ways = [mutate.in_json, _in_base64]
    elif b"form-data" in head:
        ways = [mutate.in_words, mutate.in_bytes]
    else:
        ways = [mutate.in_head, mutate.in_bytes]
    body = random.choice(ways)(random, body)
    lines = [line for line in head.split(b"\n") if not line.startswith(b"content-length")]
    return b"\n".join([*lines, b"content-length: " + str(len(body)).encode(), b"", body])


def _in_base64(random: Random, body: bytes) -> bytes:
    """JSON whose pictures are damaged before they are written as text."""
    value = json.loads(body)
    pictures = [mutate.in_bytes(random, base64.b64decode(one)) for one in value["images"]]
    value["images"] = [base64.b64encode(one).decode() for one in pictures]
    return json.dumps(value).encode()


def _in_request(random: Random, data: bytes) -> bytes:
    """A request with strange words in its head."""
    head, _, body = data.partition(b"\n\n")
    return mutate.in_words(random, head) + b"\n\n" + body


JSON = (mutate.in_json,)
KINDS: Sequence[Kind] = (
    Kind("dial", _dial(dials.NAME), _turned, JSON, strict=True),
    Kind("dial-file", _dial("dial/patch2.onnx"), _turned, strict=True),
    Kind("dial-weights", _dial("dial/weights.bin"), _turned, strict=True),
    Kind("openvino", _exported("model.xml"), _compiled, (mutate.in_words,), strict=True),
    Kind("openvino-weights", _exported("model.bin"), _compiled, strict=True),
    Kind("openvino-tied", _exported("model.xml"), _tied, (mutate.in_words,)),
    Kind("request", _requests, _replied, (_in_body, _in_request)),
)
