"""What the values of label files mean: SemanticKITTI's and nuScenes' classes, or those that a file
of names tells.

A class is counted from 0; what counts for nothing is `IGNORE`, as in masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vitrail.data.lidar.reading import BrokenScan
from vitrail.data.masks import IGNORE


@dataclass(frozen=True, eq=False)
class Meaning:
    """Classes by name, and which value of a file is which class, or `IGNORE`."""

    classes: tuple[str, ...]
    values: Mapping[int, int]

    def of(self, labels: np.ndarray) -> np.ndarray:
        """Return the class of each value: uint8 (N,). Raises BrokenScan for an unknown one."""
        # Values are looked for, not counted up to: they may be as large as a file can say.
        known = np.array(sorted(self.values), np.int64)
        classes = np.array([self.values[value] for value in known.tolist()], np.int16)
        at = np.minimum(np.searchsorted(known, labels), len(known) - 1)
        found = np.where(known[at] == labels, classes[at], -1)
        if (found < 0).any():
            strange = np.unique(labels[found < 0])[:3].tolist()
            raise BrokenScan(
                "label value", f"has labels {', '.join(map(str, strange))}, which no class has"
            )
        return found.astype(np.uint8)


KITTI = Meaning(
    ("car", "bicycle", "motorcycle", "truck", "other-vehicle", "person", "bicyclist",
     "motorcyclist", "road", "parking", "sidewalk", "other-ground", "building", "fence",
     "vegetation", "trunk", "terrain", "pole", "traffic-sign"),
    {0: IGNORE, 1: IGNORE, 52: IGNORE, 99: IGNORE,
     10: 0, 11: 1, 13: 4, 15: 2, 16: 4, 18: 3, 20: 4, 30: 5, 31: 6, 32: 7, 40: 8, 44: 9, 48: 10,
     49: 11, 50: 12, 51: 13, 60: 8, 70: 14, 71: 15, 72: 16, 80: 17, 81: 18,
     252: 0, 253: 6, 254: 5, 255: 7, 256: 4, 257: 4, 258: 3, 259: 4},
)  # fmt: skip

# The sixteen classes of nuScenes' challenge, and which of its categories are each.
_NUSCENES = {
    "barrier": ("movable_object.barrier",),
    "bicycle": ("vehicle.bicycle",),
    "bus": ("vehicle.bus.bendy", "vehicle.bus.rigid"),
    "car": ("vehicle.car",),
    "construction_vehicle": ("vehicle.construction",),
    "motorcycle": ("vehicle.motorcycle",),
    "pedestrian": (
        "human.pedestrian.adult", "human.pedestrian.child", "human.pedestrian.construction_worker",
        "human.pedestrian.police_officer",
    ),
    "traffic_cone": ("movable_object.trafficcone",),
    "trailer": ("vehicle.trailer",),
    "truck": ("vehicle.truck",),
    "driveable_surface": ("flat.driveable_surface",),
    "other_flat": ("flat.other",),
    "sidewalk": ("flat.sidewalk",),
    "terrain": ("flat.terrain",),
    "manmade": ("static.manmade",),
    "vegetation": ("static.vegetation",),
}  # fmt: skip


def nuscenes(categories: Mapping[int, str]) -> Meaning:
    """Return what the values of nuScenes' lidarseg mean, from the names of its categories."""
    classes = tuple(_NUSCENES)
    of = {name: at for at, some in enumerate(_NUSCENES.values()) for name in some}
    return Meaning(classes, {value: of.get(name, IGNORE) for value, name in categories.items()})


def numbered(values: Sequence[int]) -> Meaning:
    """Return each value as a class of its own, called by it."""
    return Meaning(tuple(map(str, values)), {value: at for at, value in enumerate(values)})
