"""Folders of scans for tests: broken ones with their answers, and published layouts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitrail.data.lidar import cast
from vitrail.data.lidar.reading import Scan


@dataclass(frozen=True)
class Answers:
    """What the gate has to say: kinds of broken files, files of findings, and how many are good."""

    broken: dict[str, str]
    findings: dict[str, set[str]]
    good: int


def broken(folder: Path) -> Answers:
    """Write a street with every fault that a scan may have."""
    cast.write_street(folder, cast.Sensor(8, 32), drives=1, scans=20)
    scans, labels = folder / "scans" / "drive-00", folder / "labels" / "drive-00"

    def path(number: int) -> Path:
        return scans / f"{number:06}.bin"

    def label(number: int) -> Path:
        return labels / f"{number:06}.label"

    def points(number: int) -> np.ndarray:
        return np.frombuffer(path(number).read_bytes(), "<f4").reshape(-1, 4).copy()

    path(0).write_bytes(b"")
    label(0).write_bytes(b"")
    path(1).write_bytes(path(1).read_bytes()[:-5])
    label(2).write_bytes(label(2).read_bytes()[:-4])
    label(3).write_bytes(label(3).read_bytes()[:-2])
    changed = np.frombuffer(label(4).read_bytes(), "<u4").copy()
    changed[3] = 77
    label(4).write_bytes(changed.tobytes())
    path(5).write_bytes(np.full_like(points(5), np.nan).tobytes())
    path(6).write_bytes(np.zeros_like(points(6)).tobytes())
    path(7).write_bytes(points(7)[:5].tobytes())
    label(7).write_bytes(label(7).read_bytes()[: 5 * 4])
    some = points(8)
    some[2, 0] = np.inf
    path(8).write_bytes(some.tobytes())
    far = points(9)
    far[0, :3] = 900
    path(9).write_bytes(far.tobytes())
    path(10).write_bytes(points(10)[:20].tobytes())
    label(10).write_bytes(label(10).read_bytes()[: 20 * 4])
    path(12).write_bytes(path(11).read_bytes())
    label(12).write_bytes(label(11).read_bytes())
    label(13).unlink()
    return Answers(
        {
            "000000.bin": "empty", "000001.bin": "cut off", "000002.bin": "label count",
            "000003.bin": "labels", "000004.bin": "label value", "000005.bin": "not finite",
            "000006.bin": "all zero", "000007.bin": "too few points",
        },
        {
            "points left out": {"000008.bin"}, "far points": {"000009.bin"},
            "thin scan": {"000010.bin"}, "duplicates": {"000011.bin", "000012.bin"},
            "scan without labels": {"000013.bin"},
        },
        11,
    )  # fmt: skip


def unlabelled(folder: Path) -> None:
    """Write scans without labels."""
    cast.write_street(folder, cast.Sensor(8, 32), drives=1, scans=2)
    for file in (folder / "labels").rglob("*.label"):
        file.unlink()


def _columns(scan: Scan, width: int) -> bytes:
    rows = np.zeros((len(scan), width), "<f4")
    rows[:, :3], rows[:, 3] = scan.xyz, scan.intensity
    return rows.tobytes()


def write_kitti(root: Path, sequence: str, number: int, scan: Scan, labels: np.ndarray) -> None:
    """Write a scan where SemanticKITTI has it."""
    folder = root / "dataset" / "sequences" / sequence
    for name in ("velodyne", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "velodyne" / f"{number:06}.bin").write_bytes(_columns(scan, 4))
    (folder / "labels" / f"{number:06}.label").write_bytes(labels.astype("<u4").tobytes())


def write_nuscenes(root: Path, scan: Scan) -> None:
    """Write a scan with the tables that name its labels, as nuScenes has them."""
    name = "samples/LIDAR_TOP/n015-2018__LIDAR_TOP__1.pcd.bin"
    labels = "lidarseg/v1.0-mini/abc_lidarseg.bin"
    for key in (name, labels, "v1.0-mini/x"):
        (root / key).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(_columns(scan, 5))
    values = np.array([24, 28, 17, 31, 2], np.uint8)[scan.labels]
    (root / labels).write_bytes(values.tobytes())
    tables = {
        "sample_data": [{"token": "abc", "filename": name}],
        "lidarseg": [{"token": "abc", "sample_data_token": "abc", "filename": labels}],
        "category": [
            {"name": "flat.driveable_surface", "index": 24},
            {"name": "static.manmade", "index": 28}, {"name": "vehicle.car", "index": 17},
            {"name": "vehicle.ego", "index": 31}, {"name": "human.pedestrian.adult", "index": 2},
        ],
    }  # fmt: skip
    for table, rows in tables.items():
        (root / "v1.0-mini" / f"{table}.json").write_text(json.dumps(rows))
