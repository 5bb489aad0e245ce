"""What a network says of whole scans, counted: the task's `answers` and `judge`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from vitrail.data.lidar.reader import Answered, Network
from vitrail.data.lidar.scans import Scans
from vitrail.data.masks import IGNORE
from vitrail.layers.points import Points
from vitrail.models.rangevit import PointHead
from vitrail.report.lidar import ShownScan
from vitrail.tasks import maps
from vitrail.tasks.maps import Maps
from vitrail.tasks.task import Outputs


@dataclass(frozen=True, eq=False)
class ScanMaps(Maps):
    """Counts of points in place of pixels, and scans to show."""

    scans: Sequence[ShownScan] = ()


def in_torch(model: nn.Module, device: torch.device, neighbours: int) -> Network:
    """Return a model as functions of arrays, which compute on `device`."""
    network: Any = model

    def maps_of(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network.maps(torch.from_numpy(images).to(device)).float().cpu().numpy()

    def refine(
        map: np.ndarray, places: np.ndarray, xyz: np.ndarray, near: np.ndarray
    ) -> np.ndarray:
        where, at, rows = (torch.from_numpy(one).to(device) for one in (places, xyz, near))
        points = Points(where, at, rows, (len(xyz),))
        with torch.no_grad():
            features = network.refiner(torch.from_numpy(map)[None].to(device), points)
            return network.head(features).float().cpu().numpy()

    refines = isinstance(network.config.points, PointHead)
    return Network(maps_of, refine if refines else None, neighbours)


@dataclass(frozen=True, eq=False)
class Asked:
    """Counts of all scans, and the answers of each."""

    maps: ScanMaps
    labels: Sequence[np.ndarray]


def counted(scans: Scans, answer: Any) -> Asked:
    """Ask about every scan of a part by its number, and count."""
    classes = len(scans.classes)
    values, table, answers = [], torch.zeros(classes, classes, dtype=torch.int64), []
    loss, labelled = 0.0, 0
    for at in range(len(scans)):
        said: Answered = answer(at)
        truth = torch.from_numpy(_truth(scans, at))
        there = int((truth != IGNORE).sum())
        total = F.cross_entropy(
            torch.from_numpy(said.scores), truth, ignore_index=IGNORE, reduction="sum"
        )
        loss, labelled = loss + float(total), labelled + there
        counts, confusion = maps.counted(torch.from_numpy(said.labels)[None], truth[None], classes)
        values.append(counts)
        table += confusion
        answers.append(said.labels)
    found = torch.cat(values)
    told = ScanMaps(found, found[:, maps.TRUE], loss / max(1, labelled), table)
    return Asked(told, answers)


def points_of(scans: Scans, at: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the points (N, 3) and intensities (N,) of a scan by its number."""
    scan = scans.scan(at)
    return scan.xyz, scan.intensity


def _truth(scans: Scans, at: int) -> np.ndarray:
    labels = scans.scan(at).labels
    assert labels is not None
    return labels


def shown_of(scans: Scans, at: int, answer: np.ndarray, overlap: float) -> ShownScan:
    """Return a scan as the page shows it."""
    scan = scans.scan(at)
    truth = _truth(scans, at).astype(np.uint8)
    return ShownScan(scans.keys[at], scan.xyz, scans.image_of(scan).index, truth, answer, overlap)


def scan_maps(outputs: Outputs) -> ScanMaps:
    """Return outputs as what this task gave."""
    assert isinstance(outputs, ScanMaps)
    return outputs
