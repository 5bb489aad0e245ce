"""Scans and labels in files: KITTI's and nuScenes' arrays, NumPy, PCD, PLY and LAS.

Plain arrays are read by NumPy, the other formats by the libraries of the extra `lidar`.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.errors import DataError, extra
from vitrail.units import shortened

ENDINGS = (".bin", ".npy", ".pcd", ".ply", ".las", ".laz")
LABEL_ENDINGS = (".label", ".npy", ".bin")
# No sensor gives more points in a turn, and a survey of more has to be cut into pieces.
MOST_POINTS = 1 << 24
MOST_BYTES = 1 << 31
FEWEST = 16
_INTENSITIES = ("intensity", "scalar_intensity", "reflectance", "remission", "i")
_LABELS = ("label", "class", "classification", "scalar_label", "scalar_classification", "semantic")


class BrokenScan(Exception):
    """A scan that cannot be used: its kind, and the reason, which follows on "KEY ..."."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


@dataclass(frozen=True, eq=False)
class Scan:
    """Points in metres around the sensor: `xyz` float32 (N, 3), `intensity` float32 (N,), and
    `labels` int64 (N,), the values of the file, where it has some. Where points were not finite,
    `rows` int64 (N,) are those that stayed of the file's `points`."""

    xyz: np.ndarray
    intensity: np.ndarray
    labels: np.ndarray | None = None
    rows: np.ndarray | None = None
    points: int = 0

    def __len__(self) -> int:
        return len(self.xyz)


def read_scan(path: Path, labels: Path | None = None) -> Scan:
    """Return the scan in a file, with the labels beside it or in it.

    A .bin has float32 x, y, z, intensity (KITTI), a .pcd.bin a ring number as well (nuScenes).
    Points that are not finite are left out. Raises BrokenScan, OSError, and DataError where a
    library is missing.
    """
    reader = _reader(path)
    _check_file(path)
    scan = reader(path)
    if len(scan) > MOST_POINTS:
        raise BrokenScan("too large", f"has {len(scan):,} points, more than {MOST_POINTS:,}")
    if labels is not None:
        scan = replace(scan, labels=read_labels(labels))
    if scan.labels is not None and len(scan.labels) != len(scan):
        raise BrokenScan("label count", f"has {len(scan):,} points and {len(scan.labels):,} labels")
    return _finite(scan)


def read_labels(path: Path) -> np.ndarray:
    """Return the labels of a file, int64 (N,): the lower 16 bits of each number of a .label, the
    bytes of nuScenes' .bin, the numbers of a .npy. Raises BrokenScan and OSError."""
    _check_file(path)
    if path.suffix == ".npy":
        values = _loaded(path)
        if values.ndim != 1 or values.dtype.kind not in "iu":
            raise BrokenScan("labels", f"has labels of shape {values.shape} and {values.dtype}")
        return values.astype(np.int64)
    data = path.read_bytes()
    if path.suffix == ".bin":
        return np.frombuffer(data, np.uint8).astype(np.int64)
    if len(data) % 4:
        raise BrokenScan("labels", f"has labels of {len(data)} bytes, no whole numbers of four")
    return (np.frombuffer(data, "<u4") & 0xFFFF).astype(np.int64)


def _check_file(path: Path) -> None:
    """Refuse what might never end, or fill the memory."""
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise BrokenScan("unreadable", "is not a regular file")
    if facts.st_size > MOST_BYTES:
        raise BrokenScan("too large", f"has {facts.st_size:,} bytes, more than {MOST_BYTES:,}")


def _finite(scan: Scan) -> Scan:
    good = np.isfinite(scan.xyz).all(1) & np.isfinite(scan.intensity)
    n = int(good.sum())
    if n < FEWEST:
        what = "no point" if not len(scan) else f"{n} of {len(scan):,} points that are finite"
        kind = "empty" if not len(scan) else "not finite" if n < len(scan) else "too few points"
        raise BrokenScan(kind, f"has {what}, and {FEWEST} are the fewest")
    if not scan.xyz[good].any():
        raise BrokenScan("all zero", "has all its points at the sensor")
    if n == len(scan):
        return scan
    labels = None if scan.labels is None else scan.labels[good]
    return Scan(scan.xyz[good], scan.intensity[good], labels, np.flatnonzero(good), len(scan))


def _reader(path: Path) -> Callable[[Path], Scan]:
    name = path.name.lower()
    for ending, reader in _READERS.items():
        if name.endswith(ending):
            return reader
    raise BrokenScan("unknown format", f"is none of {', '.join(ENDINGS)}")


def _columns(path: Path, width: int) -> Scan:
    data = path.read_bytes()
    if len(data) % (4 * width):
        raise BrokenScan(
            "cut off", f"has {len(data):,} bytes, no whole points of {width} numbers of four bytes"
        )
    values = np.frombuffer(data, "<f4").reshape(-1, width)
    return Scan(np.ascontiguousarray(values[:, :3]), values[:, 3].copy())


def _loaded(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # whatever a damaged header makes NumPy's parser stumble over
        raise BrokenScan("damaged", f"is not a whole NumPy file ({_first(error)})") from error


def _npy(path: Path) -> Scan:
    values = _loaded(path)
    if values.dtype.names:
        return _of_fields({name: values[name] for name in values.dtype.names})
    if values.ndim != 2 or values.shape[1] not in (3, 4, 5) or values.dtype.kind not in "fiu":
        raise BrokenScan(
            "shape",
            f"has an array of {values.shape} and {values.dtype}: points are rows of x, y, z, "
            "intensity, label, the last two if they are known",
        )
    names: list[str] = ["x", "y", "z", "intensity", "label"]
    return _of_fields(dict(zip(names, values.T, strict=False)))


def _of_fields(fields: Mapping[str, Any]) -> Scan:
    """Make a scan of columns by name."""
    known = {name.casefold(): np.asarray(values) for name, values in fields.items()}
    if not {"x", "y", "z"} <= known.keys():
        shown = shortened(", ".join(known)) or "nothing"
        raise BrokenScan("no places", f"has no x, y and z (but {shown})")
    wanted = [n for n in known if n in (*"xyz", *_INTENSITIES, *_LABELS)]
    for name in wanted:
        if known[name].dtype.kind not in "fiub" or known[name].ndim != 1:
            raise BrokenScan("shape", f"has no plain number {shortened(name)} for each point")
    xyz = np.stack([known[axis] for axis in "xyz"], 1).astype(np.float32)
    intensity = next((known[n] for n in _INTENSITIES if n in known), np.zeros(len(xyz)))
    labels = next((known[n] for n in _LABELS if n in known), None)
    if labels is not None:
        labels = np.nan_to_num(labels).astype(np.int64)
    return Scan(xyz, intensity.astype(np.float32), labels)


def _library(name: str, path: Path) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise DataError(f"{path} needs {name}, which is not installed: {extra('lidar')}") from error


def _pcd(path: Path) -> Scan:
    library = _library("pypcd4", path)
    try:
        data = library.PointCloud.from_path(path).pc_data
        return _of_fields({name: data[name] for name in data.dtype.names})
    except (BrokenScan, OSError):
        raise
    except Exception as error:  # whatever a damaged header makes the library stumble over
        raise BrokenScan("damaged", f"is not a whole PCD file ({_first(error)})") from error


def _ply(path: Path) -> Scan:
    library = _library("plyfile", path)
    try:
        data = library.PlyData.read(str(path))["vertex"].data
    except OSError:
        raise
    except Exception as error:  # whatever a damaged header makes the library stumble over
        raise BrokenScan("damaged", f"is not a whole PLY file ({_first(error)})") from error
    return _of_fields({name: data[name] for name in data.dtype.names})


def _las(path: Path) -> Scan:
    library = _library("laspy", path)
    _check_las(path)
    try:
        found = library.read(path)
        fields = {name: np.asarray(getattr(found, name)) for name in (*"xyz", "intensity")}
        fields["classification"] = np.asarray(found.classification)
    except OSError:
        raise
    except Exception as error:  # a missing decompressor, or a header that is none
        raise BrokenScan("damaged", f"cannot be read as LAS ({_first(error)})") from error
    return _of_fields(fields)


def _check_las(path: Path) -> None:
    """Refuse a head that tells more records than the file has room for: the library would make
    them all. There are variable records, of 54 bytes or more, and, from version 1.4, extended ones,
    of 60."""
    with path.open("rb") as file:
        head = file.read(375).ljust(375, b"\0")
    plain, extended = struct.unpack_from("<I", head, 100)[0], struct.unpack_from("<I", head, 243)[0]
    extended = extended if head[24:26] >= b"\x01\x04" else 0
    if (size := path.stat().st_size) < 54 * plain + 60 * extended:
        raise BrokenScan(
            "damaged", f"has {size:,} bytes and tells of {plain + extended:,} records beside points"
        )


def _first(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]


_READERS: dict[str, Callable[[Path], Scan]] = {
    ".pcd.bin": lambda path: _columns(path, 5),
    ".bin": lambda path: _columns(path, 4),
    ".npy": _npy,
    ".pcd": _pcd,
    ".ply": _ply,
    ".las": _las,
    ".laz": _las,
}
