"""A run over HTTP: the same answers as `predict`, hundreds at once, and no hostile body a fault."""

import asyncio
import base64
import http.client
import io
import json
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import uvicorn
from PIL import Image
from test_export import finished

from vitrail.cli import main
from vitrail.errors import ConfigError, RunError
from vitrail.jobs import serve
from vitrail.jobs.predict import Predictor
from vitrail.serve.app import PAGE, Server
from vitrail.serve.batching import Batcher
from vitrail.serve.limits import Limits, Refused
from vitrail.serve.metrics import Metrics
from vitrail.serve.running import listening


def png(pixels):
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, "PNG")
    return made.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("runs") / "run").path


@pytest.fixture(scope="module")
def photos():
    """Pictures of several sizes."""
    random = np.random.default_rng(0)
    sizes = [(28, 28), (40, 60), (200, 90), (9, 11)]
    return [png(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


@contextmanager
def running(server):
    """A server in a thread of its own; gives the port."""
    listener = listening("127.0.0.1", 0)
    config = uvicorn.Config(server.app, log_level="error", http="h11", ws="none", lifespan="on")
    serving = uvicorn.Server(config)
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [listener]})
    thread.start()
    while not serving.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield listener.getsockname()[1]
    finally:
        serving.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def port(run):
    limits = Limits(bytes=200_000, pixels=40_000, images=4, waiting=64)
    with running(serve.server(run, limits)) as found:
        yield found


def ask(port, body, kind="image/png", *, path="/predict", method="POST", headers=()):
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    line.request(method, path, body, {"Content-Type": kind, **dict(headers)})
    reply = line.getresponse()
    text = reply.read()
    line.close()
    return reply.status, text, reply.headers


def predictions(reply):
    status, text, _ = reply
    assert status == 200, text
    return json.loads(text)["predictions"]


def test_answers_are_those_of_predict(run, port, photos):
    expected = Predictor(run).predict(photos)
    alone = [predictions(ask(port, one))[0] for one in photos]
    encoded = {"images": [base64.b64encode(one).decode() for one in photos]}
    together = predictions(ask(port, json.dumps(encoded), "application/json"))
    form = b"".join(
        b"--x\r\nContent-Disposition: form-data; name=f; filename=a.png\r\n"
        b"Content-Type: image/png\r\n\r\n" + one + b"\r\n"
        for one in photos
    )
    sent = predictions(ask(port, form + b"--x--\r\n", "multipart/form-data; boundary=x"))
    for found in (alone, together, sent):
        for one, other in zip(expected, found, strict=True):
            told = {c["class"]: c["p"] for c in other["classes"]}
            assert max(abs(told[name] - share) for name, share in one.ranked) < 0.02


def test_hundreds_at_once_are_all_answered(port, photos):
    first = [predictions(ask(port, one))[0] for one in photos]
    with ThreadPoolExecutor(16) as clients:
        found = list(clients.map(lambda n: (n, ask(port, photos[n % 4])), range(320)))
    for n, reply in found:
        told = {c["class"]: c["p"] for c in predictions(reply)[0]["classes"]}
        for one in first[n % 4]["classes"]:
            assert abs(told[one["class"]] - one["p"]) < 1e-4
    _, text, headers = ask(port, None, path="/metrics", method="GET")
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    figures = dict(
        line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#")
    )
    assert float(figures["vitrail_images_total"]) >= 324
    assert float(figures["vitrail_waiting_images"]) == 0
    assert (
        figures['vitrail_request_seconds_bucket{le="+Inf"}']
        == figures["vitrail_request_seconds_count"]
    )
    assert float(figures["vitrail_batch_images_count"]) < float(figures["vitrail_images_total"])


LARGE = png(np.zeros((201, 200, 3), np.uint8))
HOSTILE = {
    "nothing": (b"", "image/png", 400),
    "noise": (b"\x00\xff" * 300, "image/png", 422),
    "a cut picture": (LARGE[: len(LARGE) // 2], "image/png", 413),
    "a text": (b"hello", "text/plain", 415),
    "no type": (b"hello", "", 415),
    "no JSON": (b"{", "application/json", 400),
    "deep JSON": (b"[" * 100_000, "application/json", 400),
    "another JSON": (b'{"images": [1]}', "application/json", 400),
    "no images": (b'{"images": []}', "application/json", 400),
    "no base64": (b'{"images": ["%%"]}', "application/json", 400),
    "too many": (json.dumps({"images": ["AAAA"] * 5}).encode(), "application/json", 413),
    "no boundary": (b"x", "multipart/form-data", 400),
    "a broken form": (b"--x\r\nfoo", "multipart/form-data; boundary=x", 400),
    "a form without files": (
        b"--x\r\nContent-Disposition: form-data; name=f\r\n\r\n1\r\n--x--\r\n",
        "multipart/form-data; boundary=x", 400,
    ),
    "too many pixels": (LARGE, "image/png", 413),
    "too many bytes": (b"\x00" * 200_001, "image/png", 413),
    "an SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml", 422),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_picture_gets_a_sentence(port, name):
    body, kind, status = HOSTILE[name]
    found, text, _ = ask(port, body, kind)
    said = json.loads(text)["error"]
    assert found == status, said
    assert said and "\n" not in said and "Traceback" not in said
    assert ask(port, None, path="/healthz", method="GET")[0] == 200


def test_a_body_without_an_end_is_cut(port):
    """A chunked body tells no length: it is read no further than the limit."""

    def endless():
        for _ in range(64):
            yield b"\x00" * 65536

    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        line.request(
            "POST", "/predict", endless(), {"Content-Type": "image/png"}, encode_chunked=True
        )
        assert line.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server has closed the line while it was written to
    finally:
        line.close()
    assert ask(port, None, path="/healthz", method="GET")[0] == 200


def test_a_claim_of_ten_gigabytes_is_refused_before_it_is_read(port):
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    line.putrequest("POST", "/predict")
    line.putheader("Content-Type", "image/png")
    line.putheader("Content-Length", str(10 << 30))
    line.endheaders()
    assert line.getresponse().status == 413
    line.close()


def test_paths_and_methods(port):
    assert ask(port, None, path="/predict", method="GET")[0] == 405
    for path in ("/nothing", "/../../etc/passwd", "/page.js/..", "/%2e%2e/x"):
        assert ask(port, None, path=path, method="GET")[0] == 404


def test_the_page_fetches_nothing_from_elsewhere(port):
    status, text, headers = ask(port, None, path="/", method="GET")
    assert status == 200 and b"Drop a picture" in text
    assert "default-src 'none'" in headers["content-security-policy"]
    for name in ("page.css", "page.js"):
        status, part, _ = ask(port, None, path=f"/{name}", method="GET")
        assert status == 200 and part == PAGE.with_name(name).read_bytes()
        assert b"http" not in part and name.encode() in text
    about = json.loads(ask(port, None, path="/about", method="GET")[1])
    assert about["classes"] and about["sentence"]


# ---- what an answer rests on ------------------------------------------------------------


class Corner:
    """A model that tells a cat by its upper left quarter, which must be white."""

    def __init__(self):
        self.about = {"title": "corner", "classes": ["cat", "dog"], "sentence": ""}

    def decoded(self, data, most_pixels):
        image = np.zeros((20, 30, 3), np.uint8)
        image[:10, :15] = 255
        return image

    def answers(self, images):
        shares = images[:, :10, :15].mean((1, 2, 3)) / 255
        both = [[("cat", float(share)), ("dog", 1 - float(share))] for share in shares]
        return [{"classes": [{"class": name, "p": p} for name, p in one]} for one in both]


def test_what_an_answer_rests_on_is_where_hiding_takes_it_away():
    # A place of the queue for one image at a time: they come one after the other.
    with running(Server(Corner(), Limits(images=2, waiting=2))) as port:
        status, text, _ = ask(port, b"1", path="/looked")
        found = json.loads(text)
        assert status == 200 and (found["class"], found["p"]) == ("cat", 1.0)
        lost = np.array(found["lost"])
        assert lost.shape == (9, 9)
        # Of a piece of 4x6 in the white quarter of 10x15, 64 of 255 are left: a quarter was white.
        expected = (1 - 64 / 255) * 24 / 150
        assert np.abs(lost[:4, :4] - expected).max() < 1e-3
        assert (lost[5:] == 0).all() and (lost[:, 5:] == 0).all()
        held = ask(port, None, path="/metrics", method="GET")[1]
        assert b"vitrail_waiting_images 0" in held
        two = json.dumps({"images": ["MQ==", "MQ=="]})
        status, text, _ = ask(port, two, "application/json", path="/looked")
        assert (status, json.loads(text)["error"][:10]) == (413, "2 pictures")


def test_a_run_tells_what_its_answer_rests_on(port, photos):
    [answer] = predictions(ask(port, photos[1]))
    status, text, _ = ask(port, photos[1], path="/looked")
    found = json.loads(text)
    assert status == 200 and found["class"] == answer["classes"][0]["class"]
    assert np.array(found["lost"]).shape == (9, 9) and np.max(found["lost"]) > 0


# ---- batches ------------------------------------------------------------------------------


class Slow:
    """A model whose answer waits until it may go on."""

    def __init__(self):
        self.about = {"title": "slow", "classes": ["a"], "sentence": ""}
        self.go, self.sizes = threading.Event(), []

    def decoded(self, data, most_pixels):
        return np.zeros((2, 2, 3), np.uint8)

    def answers(self, images):
        self.go.wait(20)
        self.sizes.append(len(images))
        return [{"classes": []}] * len(images)


def test_who_comes_when_too_many_wait_is_told_when_to_come_again():
    model = Slow()
    with running(Server(model, Limits(images=1, waiting=3, batch=1))) as port:
        with ThreadPoolExecutor(3) as clients:
            waiting = [clients.submit(ask, port, b"1") for _ in range(3)]
            while (
                b"vitrail_waiting_images 3" not in ask(port, None, path="/metrics", method="GET")[1]
            ):
                time.sleep(0.01)
            status, text, headers = ask(port, b"1")
            assert (status, headers["retry-after"]) == (503, "1")
            assert "come again" in json.loads(text)["error"]
            model.go.set()
            assert [one.result()[0] for one in waiting] == [200] * 3
        assert ask(port, b"1")[0] == 200


def test_what_has_begun_is_answered_before_the_end():
    model = Slow()
    with ThreadPoolExecutor(2) as clients:
        with running(Server(model)) as port:
            begun = clients.submit(ask, port, b"1")
            while (
                b"vitrail_waiting_images 1" not in ask(port, None, path="/metrics", method="GET")[1]
            ):
                time.sleep(0.01)
            clients.submit(lambda: (time.sleep(0.2), model.go.set()))
        assert begun.result()[0] == 200


def test_batches_are_as_large_as_what_waits():
    model = Slow()

    async def gather():
        batcher = Batcher(model.answers, Limits(batch=8), Metrics())
        batcher.start()
        asked = [
            asyncio.create_task(batcher.answer([np.zeros((2, 2, 3), np.uint8)])) for _ in range(20)
        ]
        await asyncio.sleep(0.05)
        model.go.set()
        await asyncio.gather(*asked)
        await batcher.stop()
        with pytest.raises(Refused, match="shutting down"):
            batcher.reserve(1)

    asyncio.run(gather())
    assert sum(model.sizes) == 20 and max(model.sizes) == 8 and len(model.sizes) <= 4


def test_a_fault_of_the_model_is_told_to_those_who_asked():
    def broken(images):
        raise MemoryError("no room")

    async def gather():
        batcher = Batcher(broken, Limits(), Metrics())
        batcher.start()
        with pytest.raises(MemoryError):
            await batcher.answer([np.zeros((2, 2, 3), np.uint8)])
        await batcher.stop()

    asyncio.run(gather())


# ---- before it serves ---------------------------------------------------------------------


def test_it_answers_with_what_its_image_installs(run):
    """Torch is not loaded, and nothing that the Dockerfile leaves out."""
    recipe = (Path(__file__).parents[1] / "Dockerfile").read_text()
    code = f"""
import sys, io
import numpy as np
from pathlib import Path
from PIL import Image
import vitrail.cli
from vitrail.jobs.serve import server, Served
server(Path({str(run)!r}))
model = Served(Path({str(run)!r}))
made = io.BytesIO()
Image.fromarray(np.zeros((50, 70, 3), np.uint8)).save(made, "PNG")
print(len(model.answers(model.decoded(made.getvalue(), 10**6)[None])))
files = {{n: getattr(m, "__file__", None) or "" for n, m in sys.modules.items()}}
print(*{{n.partition(".")[0] for n, f in files.items() if "site-packages" in f}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    answered, loaded = done.stdout.splitlines()
    assert answered == "1"
    found = metadata.packages_distributions()
    needed = {found[name][0].lower().replace("_", "-") for name in loaded.split() if name in found}
    assert "torch" not in needed
    allowed = {"setuptools", "click", "annotated-doc", "shellingham", "markupsafe", "h11", "anyio"}
    allowed |= {"typing-extensions", "idna", "protobuf", "ml-dtypes", "flatbuffers", "pygments"}
    allowed |= {"pillow-heif", "annotated-types", "pydantic-core", "typing-inspection", "packaging"}
    strange = {name for name in needed - allowed if not re.search(rf"\b{name}\b", recipe)}
    assert not strange


def test_what_cannot_be_served(run, tmp_path, capsys, monkeypatch):
    with pytest.raises(ConfigError, match="--batch is 0"):
        Limits(batch=0)
    with pytest.raises(ConfigError, match="as many wait at least"):
        Limits(images=9, waiting=8)
    with pytest.raises(ConfigError, match="--top is 0"):
        serve.server(run, top=0)
    taken = listening("127.0.0.1", 0)
    with pytest.raises(ConfigError, match="choose another by --port"):
        listening("127.0.0.1", taken.getsockname()[1])
    taken.close()
    for kind, what in (("maps", "masks"), ("boxes", "boxes")):
        told = {"maps": False, "boxes": False} | {kind: True}
        answers = SimpleNamespace(labels=SimpleNamespace(**told))
        with monkeypatch.context() as patched:
            patched.setattr(serve, "Predictor", lambda *_, answers=answers, **__: answers)
            with pytest.raises(ConfigError, match=f"tells {what}, which are not served"):
                serve.server(run)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError):
        serve.server(tmp_path / "empty")
    monkeypatch.setitem(sys.modules, "starlette", None)
    with pytest.raises(SystemExit) as caught:
        main(["serve", str(run)])
    assert caught.value.code == 2
    assert "packages that are not installed" in capsys.readouterr().err


def test_a_signal_ends_it_without_an_error(run):
    command = [sys.executable, "-m", "vitrail", "serve", str(run), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert ask(int(line.rsplit(":", 1)[1]), None, path="/healthz", method="GET")[0] == 200
        process.terminate()
        assert process.stderr.read().split() == ["stopped"]
    assert process.returncode == 0
