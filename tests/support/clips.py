"""Tiny clips: a bright square moves over noise, and a folder of clips of which some are broken."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SIDE, FRAMES = 32, 20
CLASSES = ("left", "right")


def frames(seed: int, label: str, n: int = FRAMES, side: int = SIDE) -> np.ndarray:
    """Return uint8 (n, side, side, 3): a square goes through the picture, to the left or right."""
    random = np.random.default_rng(seed)
    ground = random.integers(0, 90, (side, side, 3), dtype=np.uint8)
    colour = random.integers(150, 256, 3)
    top, size = int(random.integers(4, side - 12)), 8
    out = np.repeat(ground[None], n, 0)
    for at in range(n):
        place = round(at * (side - size) / max(1, n - 1))
        start = place if label == "right" else side - size - place
        out[at, top : top + size, start : start + size] = colour
    return out


def write(path: Path, shown: np.ndarray, *, times: list[int] | None = None, bits: int = 0) -> Path:
    """Write frames as a video of 20 a second; `times` are their places in hundredths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=20)
        stream.width, stream.height, stream.pix_fmt = shown.shape[2], shown.shape[1], "yuv420p"
        stream.bit_rate = bits or 2_000_000
        stream.codec_context.time_base = stream.time_base = Fraction(1, 100)
        for at, one in enumerate(shown):
            frame = av.VideoFrame.from_ndarray(one, format="rgb24")
            frame.pts, frame.time_base = 5 * at if times is None else times[at], Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """Write a second of silence without any picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        silence = np.zeros((1, 8000), np.float32)
        sound = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return path


def write_heard(path: Path, shown: np.ndarray, wave: np.ndarray, rate: int, late=0.0) -> Path:
    """Write frames as a video of 20 a second with a sound (n,) that begins so many seconds late."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        seen = container.add_stream("mpeg4", rate=20)
        seen.width, seen.height, seen.pix_fmt = shown.shape[2], shown.shape[1], "yuv420p"
        heard = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        for one in shown:
            container.mux(seen.encode(av.VideoFrame.from_ndarray(one, format="rgb24")))
        container.mux(seen.encode())
        whole = (wave * 32767).round().astype(np.int16)
        for start in range(0, len(whole), 512):
            frame = av.AudioFrame.from_ndarray(
                whole[None, start : start + 512], format="s16", layout="mono"
            )
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = start + round(late * rate)
            container.mux(heard.encode(frame))
        container.mux(heard.encode())
    return path


def turn(path: Path) -> None:
    """Say in the header of an MP4 that its picture is to be turned by a quarter."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def folder(root: Path, each: int = 12) -> Path:
    """Write `each` clips of both classes, all whole."""
    for label in CLASSES:
        for number in range(each):
            seed = 100 * CLASSES.index(label) + number
            write(root / label / f"{number:02}.mp4", frames(seed, label))
    return root


# What the gate has to say of the clips that `broken` adds: left out, and why.
KEY = {
    "left/cut.mkv": "truncated",
    "left/empty.mp4": "empty",
    "left/noise.mp4": "broken clip",
    "left/one.mp4": "too short",
    "right/sound.mp4": "no video",
    "right/text.txt": "broken clip",
}
# What it has to say of clips that stay.
TRAITS = {
    "turned": ("right/turned.mp4",),
    "uneven rate": ("right/uneven.mp4",),
    "short clip": ("right/short.mp4",),
    "still": ("left/still.mp4",),
}
COPIES = ("left/copy.mkv", "left/original.mp4")


def broken(root: Path) -> Path:
    """Add clips with one fault each to a folder; `KEY`, `TRAITS` and `COPIES` are the answers."""
    left, right = (root / label for label in CLASSES)
    whole = write(root / "whole.mkv", frames(901, "left", 60)).read_bytes()
    (root / "whole.mkv").unlink()
    (left / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    (left / "empty.mp4").touch()
    (left / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(4000))
    write(left / "one.mp4", frames(902, "left", 1))
    write_sound(right / "sound.mp4")
    (right / "text.txt").write_text("no video\n")
    turn(write(right / "turned.mp4", frames(903, "right")))
    times = [5 * at + (200 if at >= 10 else 0) for at in range(FRAMES)]
    write(right / "uneven.mp4", frames(904, "right"), times=times)
    write(right / "short.mp4", frames(905, "right", 6))
    write(left / "still.mp4", np.repeat(frames(906, "left")[:1], FRAMES, 0))
    original = frames(907, "left")
    write(left / "original.mp4", original)
    write(left / "copy.mkv", original, bits=600_000)
    return root
