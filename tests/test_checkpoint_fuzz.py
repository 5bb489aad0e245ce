"""Damaged and hostile files of weights: only CheckpointError comes out, soon and in little memory.

Bytes are changed in whole files, and inside of archives whose checksums are made right again, so
that what reads their contents is reached as well.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import resource
import struct
import time
import zipfile

import msgpack
import numpy as np
import pytest
import torch

import vitrail
from vitrail import checkpoint
from vitrail.errors import CheckpointError

NAME = "cct_2_3x2_32"
EVERY_DAY, SLOW = 5, 400
SECONDS, MEMORY = 20, 2**30


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return {k: torch.randn(v.shape).half() for k, v in vitrail.create(NAME).state_dict().items()}


def zipped(state):
    file = io.BytesIO()
    torch.save({"model": state, "epoch": 3, "args": {"lr": 0.1}}, file)
    return file.getvalue()


def streamed(state):
    file = io.BytesIO()
    torch.save({"state_dict": state}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def npz(state):
    file = io.BytesIO()
    np.savez_compressed(file, **{k: v.numpy() for k, v in state.items()})
    return file.getvalue()


def flax(state):
    def packed(value):
        data = msgpack.packb((value.shape, value.dtype.name, value.tobytes()))
        return msgpack.ExtType(1, data)

    return msgpack.packb({k: packed(v.numpy()) for k, v in state.items()})


def safetensors(state):
    from safetensors.torch import save

    config = vitrail.models.config_json(vitrail.catalog()[NAME].config)
    return save(state, {"vitrail": json.dumps({"config": config})})


def pickled(state):
    return pickle.dumps({"model": {k: v.numpy() for k, v in state.items()}}, protocol=4)


def changed(data: bytes, rng: random.Random, within: int | None = None) -> bytes:
    """Some bytes of the first `within` set, taken out, repeated, or all after them cut off."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, kind = rng.randrange(max(1, min(len(found), within or len(found)))), rng.random()
        if kind < 0.6 and found:
            found[at] = rng.choice((rng.randrange(256), found[at] ^ 1 << rng.randrange(8), 0, 255))
        elif kind < 0.75:
            del found[at : at + rng.randint(1, 8)]
        elif kind < 0.9:
            found[at:at] = found[at : at + rng.randint(1, 64)]
        else:
            del found[at:]
    return bytes(found)


def repacked(data: bytes, rng: random.Random, ends: tuple[str, ...]) -> bytes:
    """An archive with one of its entries changed, and the checksums of what is there now."""
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        entries = {name: source.read(name) for name in source.namelist()}
    chosen = rng.choice([name for name in entries if name.endswith(ends)])
    entries[chosen] = changed(entries[chosen], rng, 4096)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as out:
        for name, content in entries.items():
            out.writestr(name, content)
    return file.getvalue()


def reheaded(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file with a changed header of the right length."""
    size = struct.unpack("<Q", data[:8])[0]
    header = changed(data[8 : 8 + size], rng)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


KINDS = {
    "zip": (zipped, ".pth", changed),
    "zip-inside": (zipped, ".pth", lambda d, r: repacked(d, r, ("data.pkl",))),
    "stream": (streamed, ".pth", lambda d, r: changed(d, r, 20_000)),
    "pickle": (pickled, ".pkl", lambda d, r: changed(d, r, 2_000)),
    "safetensors": (safetensors, ".safetensors", lambda d, r: changed(d, r, 12_000)),
    "safetensors-header": (safetensors, ".safetensors", reheaded),
    "npz": (npz, ".npz", changed),
    "npz-inside": (npz, ".npz", lambda d, r: repacked(d, r, (".npy",))),
    "msgpack": (flax, ".msgpack", lambda d, r: changed(d, r, 20_000)),
}


def attempted(path):
    """Read a file in both ways; True if it was taken."""
    taken = 0
    for read in (vitrail.identify, lambda file: vitrail.load(NAME, file)):
        try:
            read(path)
            taken += 1
        except CheckpointError as error:
            assert len(str(error)) < 4000 and str(error)
    return taken > 0


def fuzzed(kind, tmp_path, state, count, seed):
    make, suffix, change = KINDS[kind]
    whole, path = make(state), tmp_path / f"file{suffix}"
    path.write_bytes(whole)
    assert attempted(path), "the file is not read even when whole"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        path.write_bytes(change(whole, random.Random(f"{seed} {kind} {number}")))
        start = time.process_time()
        attempted(path)
        assert time.process_time() - start < SECONDS, number
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(kind, tmp_path, state):
    fuzzed(kind, tmp_path, state, EVERY_DAY, 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_files(kind, tmp_path, state):
    fuzzed(kind, tmp_path, state, SLOW, 1)


def test_archives_that_unpack_to_gigabytes(tmp_path):
    """A few MB of zeros that would be read as GBs are refused by the sizes that they tell."""
    for name in ("bomb.npz", "bomb.pth"):
        inner = "archive/data.pkl" if name.endswith("pth") else "a.npy"
        path = tmp_path / name
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out,
            out.open(inner, "w") as entry,
        ):
            for _ in range(320):
                entry.write(bytes(2**20))
        assert (tmp_path / name).stat().st_size < 4 * 2**20
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(CheckpointError, match="would unpack to"):
            vitrail.identify(tmp_path / name)
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 64 * 2**20


def test_a_header_that_claims_more_than_there_is(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 1024)}"
    entry = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)
    with zipfile.ZipFile(tmp_path / "claims.npz", "w") as out:
        out.writestr("a.npy", entry)
    with pytest.raises(CheckpointError, match="has 16 values"):
        checkpoint.read(tmp_path / "claims.npz")


def test_tensors_that_repeat_or_leave_their_storage(tmp_path):
    spread = torch.zeros(1).expand(2**20, 2**20)
    torch.save({"a": spread}, tmp_path / "spread.pth")
    with pytest.raises(CheckpointError, match="repeats 1 values"):
        checkpoint.read(tmp_path / "spread.pth")
    torch.save({"a": torch.arange(6.0).view(2, 3).t()}, tmp_path / "turned.pth")
    assert checkpoint.read(tmp_path / "turned.pth")["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
    # A pickle of a tensor of 6 values whose storage has 2.
    data = (tmp_path / "turned.pth").read_bytes()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as source,
        zipfile.ZipFile(tmp_path / "short.pth", "w") as out,
    ):
        for name in source.namelist():
            out.writestr(name, bytes(8) if name.endswith("data/0") else source.read(name))
    with pytest.raises(CheckpointError, match="lies outside of its 2 values"):
        checkpoint.read(tmp_path / "short.pth")


def test_pickles_without_end(tmp_path):
    """Mappings that hold themselves, and keys and lists that double with each step."""
    own = {}
    own["model"] = own
    torch.save(own, tmp_path / "own.pth")
    with pytest.raises(CheckpointError, match="holds no tensors"):
        vitrail.identify(tmp_path / "own.pth")
    deep: object = ()
    for _ in range(200):
        deep = (deep, deep)
    # pickle itself would need the key's hash to write it
    lines = b"\x80\x02}" + pickle.dumps(deep, protocol=2)[2:-1] + b"K\x01s."
    (tmp_path / "key.pkl").write_bytes(lines)
    with pytest.raises(CheckpointError, match="holds no tensors"):
        vitrail.identify(tmp_path / "key.pkl")
    nested: object = torch.zeros(1)
    for _ in range(60):
        nested = {"a": nested, "b": nested}
    torch.save(nested, tmp_path / "nested.pth")
    with pytest.raises(CheckpointError):
        vitrail.identify(tmp_path / "nested.pth")
