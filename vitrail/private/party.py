"""One of two parties that compute a transformer's answer on shares: run by the engine's own Python.

    python party.py client.json

This file knows nothing of vitrail, since SPU has an environment of its own. The JSON file says
which party it is and what both know; what one alone has lies in a file of arrays beside it. Party
0, the client, has the image and learns the answer; party 1, the server, has the weights. The client
also deals the random numbers that SEMI2K multiplies with. Exits with 3 and a sentence where the
other party is gone.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

NAMES = ("client", "server")
GONE = 3
# Seconds in which the other party has to be there, and the longest that one waits for a message.
MEET_S, WAIT_S = 120, 1800


class Watch:
    """A line to the other party over which nothing is said: when it closes, that one is gone."""

    def __init__(self, rank: int, port: int) -> None:
        self.over = False
        if rank == 0:
            with socket.create_server(("127.0.0.1", port)) as waiting:
                waiting.settimeout(MEET_S)
                self.line = waiting.accept()[0]
        else:
            self.line = _reached(port)
        self.line.settimeout(None)
        threading.Thread(target=self._listen, args=(NAMES[1 - rank],), daemon=True).start()

    def _listen(self, other: str) -> None:
        try:
            said = self.line.recv(1)
        except OSError:
            said = b""
        if not said and not self.over:
            end(f"the {other} is gone before the answer was there")

    def finish(self) -> None:
        """Say that all is done, so that the end of this party is none to the other."""
        self.over = True
        self.line.sendall(b".")


def _reached(port: int) -> socket.socket:
    until = time.monotonic() + MEET_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def end(sentence: str) -> None:
    """End this process at once with a sentence, whatever its other threads do."""
    sys.stderr.write(f"party: {sentence}\n")
    sys.stderr.flush()
    os._exit(GONE)


def network(told: Any, x: Any, w: Any) -> Any:
    """Return logits (classes,) of patches x (n, pixels): a pre-norm transformer with switches.

    Switches are public, so that only rows that are on are asked for their softmax or GELU.
    """
    import jax.numpy as np  # pyright: ignore[reportMissingImports]

    prefix = told["tokens"] - x.shape[0]
    x = np.concatenate([w["base"][:prefix], x @ w["stem"] + w["base"][prefix:]])
    for n, block in enumerate(told["blocks"]):
        part = {name: w[f"{n}.{name}"] for name in block["arrays"]}
        x = x + attention(block, norm(x, part["norm1"], block["eps"]), part)
        x = x + mlp(block, norm(x, part["norm2"], block["eps"]), part)
    x = norm(x, w["norm"], told["eps"])
    x = x.mean(0) if told["pool"] == "mean" else x[: told["read"]].reshape(-1)
    return x @ w["head"][:-1] + w["head"][-1]


def norm(x: Any, w: Any, eps: float) -> Any:
    """Return the LayerNorm of x (n, c) with weight and bias w (2, c)."""
    from jax import lax  # pyright: ignore[reportMissingImports]

    x = x - x.mean(-1, keepdims=True)
    return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + eps) * w[0] + w[1]


def attention(block: Any, x: Any, w: Any) -> Any:
    """Return the attention over x (n, c), of whose rows of scores those
    that are on take a softmax.
    """
    from jax import nn  # pyright: ignore[reportMissingImports]

    heads, n = block["heads"], x.shape[0]
    q, k, v = (x @ w["qkv"][:-1] + w["qkv"][-1]).reshape(n, 3, heads, -1).transpose(1, 2, 0, 3)
    rows = (q @ k.transpose(0, 2, 1)).reshape(heads * n, n)
    rows = switched(
        rows, block["softmaxes"], lambda s: nn.softmax(s, -1), lambda s: s * s * (1 / n)
    )
    mixed = (rows.reshape(heads, n, n) @ v).transpose(1, 0, 2).reshape(n, -1)
    return mixed @ w["proj"][:-1] + w["proj"][-1]


def mlp(block: Any, x: Any, w: Any) -> Any:
    """Return the MLP of x (n, c), of whose tokens those that are on take a GELU."""
    from jax import nn  # pyright: ignore[reportMissingImports]

    inside = x @ w["fc1"][:-1] + w["fc1"][-1]
    inside = switched(inside, block["gelus"], nn.gelu, lambda s: s)
    return inside @ w["fc2"][:-1] + w["fc2"][-1]


def switched(x: Any, on: list[int], dear: Any, cheap: Any) -> Any:
    """Return `dear` of the rows `on` of x (n, c) and `cheap` of the others, in one call of each."""
    import jax.numpy as np  # pyright: ignore[reportMissingImports]

    off = sorted(set(range(x.shape[0])) - set(on))
    if not on or not off:
        return dear(x) if on else cheap(x)
    order = on + off
    both = np.concatenate([dear(x[np.array(on)]), cheap(x[np.array(off)])])
    return both[np.array([order.index(n) for n in range(len(order))])]


def packed(parts: list[bytes]) -> bytes:
    """Return parts behind each other, each with its length in front of it."""
    return b"".join(struct.pack("<Q", len(part)) + part for part in parts)


def unpacked(data: bytes) -> list[bytes]:
    """Return the parts again."""
    found, at = [], 0
    while at < len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        found.append(bytes(data[at + 8 : at + 8 + size]))
        at += 8 + size
    return found


class Party:
    """This party on its line to the other: it counts what it sends of its own accord."""

    def __init__(self, told: Any, rank: int) -> None:
        from spu import api, libspu  # pyright: ignore[reportMissingImports]

        kinds, fields = libspu.ProtocolKind, libspu.FieldType
        self.config = libspu.RuntimeConfig(getattr(kinds, told["protocol"].upper()), fields.FM64)
        self.config.enable_pphlo_profile = self.config.enable_hal_profile = True
        line = libspu.link.Desc()
        for name, port in zip(NAMES, told["ports"], strict=True):
            line.add_party(name, f"127.0.0.1:{port}")
        line.recv_timeout_ms = 1000 * WAIT_S
        self.line, self.rank = libspu.link.create_brpc(line, rank), rank
        self.runtime, self.io = api.Runtime(self.line, self.config), api.Io(2, self.config)
        self.seen = libspu.Visibility
        self.bytes = self.messages = 0

    def send(self, value: Any) -> None:
        """Send a share to the other party."""
        data = packed([value.meta, *value.share_chunks])
        self.line.send(1 - self.rank, data)
        self.bytes, self.messages = self.bytes + len(data), self.messages + 1

    def received(self) -> Any:
        """Return a share that the other party sends."""
        from spu import libspu  # pyright: ignore[reportMissingImports]

        share = libspu.Share()
        share.meta, *share.share_chunks = unpacked(self.line.recv(1 - self.rank))
        return share

    def put(self, name: str, value: Any, owner: int, public: bool) -> None:
        """Make an array known to the runtime: by its owner's shares, or as it is."""
        if public:
            share = self.io.make_shares(value, self.seen.VIS_PUBLIC)[self.rank]
        elif owner == self.rank:
            shares = self.io.make_shares(value, self.seen.VIS_SECRET)
            self.send(shares[1 - self.rank])
            share = shares[self.rank]
        else:
            share = self.received()
        self.runtime.set_var(name, share)


def compute(told: Any, rank: int, own: Any) -> Any:
    """Do this party's part; returns the logits to the client, None to the server, and figures."""
    import jax  # pyright: ignore[reportMissingImports]
    import numpy as np
    from spu.utils import frontend  # pyright: ignore[reportMissingImports]

    party, public = Party(told, rank), told["weights"] == "public"
    names = sorted(told["arrays"])
    shapes = {n: jax.ShapeDtypeStruct(tuple(told["arrays"][n]), np.float32) for n in names}
    patches = jax.ShapeDtypeStruct(tuple(told["patches"]), np.float32)
    hidden, seen = party.seen.VIS_SECRET, party.seen.VIS_PUBLIC
    inputs = ["patches", *names]
    started = time.perf_counter()
    program, _ = frontend.compile(
        frontend.Kind.JAX,
        lambda x, *w: network(told, x, dict(zip(names, w, strict=True))),
        [patches, *(shapes[n] for n in names)], {}, inputs,
        [hidden, *[seen if public else hidden] * len(names)], lambda found: ["logits"],
    )  # fmt: skip
    compiled = time.perf_counter()
    party.put("patches", own.get("patches"), 0, public=False)
    for name in names:
        party.put(name, own.get(name), 1, public)
    shared, cpu = time.perf_counter(), time.process_time()
    party.runtime.run(program)
    ran, cpu = time.perf_counter(), time.process_time() - cpu
    logits = party.runtime.get_var("logits")
    answer = None
    if rank == 1:
        party.send(logits)
    else:
        answer = party.io.reconstruct([logits, party.received()]).tolist()
    figures = {
        "compile_s": compiled - started, "share_s": shared - compiled, "run_s": ran - shared,
        "processor_s": cpu, "shared_bytes": party.bytes, "shared_messages": party.messages,
    }  # fmt: skip
    return answer, figures, party


def main(path: Path) -> None:
    """Do what the JSON file says, and write what was found beside it."""
    told = json.loads(path.read_text())
    rank = NAMES.index(told["party"])
    watch = Watch(rank, told["watch"])
    import numpy as np

    with np.load(path.with_suffix(".npz")) as held:
        own = {name: held[name] for name in held.files}
    answer, figures, party = compute(told, rank, own)
    path.with_suffix(".found").write_text(json.dumps({"logits": answer, **figures}))
    watch.finish()
    party.line.stop_link()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
