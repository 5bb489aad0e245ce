"""Synthetic scans: a seeded ray caster drives a spinning sensor along a made-up street.

There is no sensor and no city behind them: ground, boxes for cars and houses, cylinders for poles
and persons. They show whether code works and how parts of a network compare on thin and small
things; they say nothing of any real street.

    python -m vitrail.data.lidar.cast street --beams 16 --columns 256
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitrail import files
from vitrail.data.lidar.reading import Scan
from vitrail.errors import ConfigError, DataError

CLASSES = ("ground", "building", "car", "pole", "person")
GROUND, BUILDING, CAR, POLE, PERSON = range(5)
HEIGHT_M = 1.8  # of the sensor above the ground
FARTHEST_M = 60.0
STREET_M = 120.0


@dataclass(frozen=True)
class Sensor:
    """A spinning sensor: `beams` from `up` to `down` degrees, `columns` a turn.

    `noise` is the deviation of a range in metres, `lost` the share of beams that do not come back.
    """

    beams: int = 16
    columns: int = 256
    up: float = 10.0
    down: float = -30.0
    noise: float = 0.02
    lost: float = 0.02

    def __post_init__(self) -> None:
        if not (2 <= self.beams <= 256 and 8 <= self.columns <= 8192):
            raise ConfigError(
                f"{self.beams} beams of {self.columns} columns: give 2 to 256 and 8 to 8192"
            )

    def rays(self) -> np.ndarray:
        """Return the directions in the order of a file, ring by ring: (N, 3) of length 1."""
        step = (self.up - self.down) / self.beams
        elevation = np.radians(self.up - step * (np.arange(self.beams) + 0.5))
        azimuth = 2 * math.pi * (np.arange(self.columns) + 0.5) / self.columns
        e, a = np.meshgrid(elevation, azimuth, indexing="ij")
        rays = np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], -1)
        return rays.reshape(-1, 3)


@dataclass(frozen=True)
class Box:
    """A block on the ground: its middle (x, y), sides, height, turn in radians, and class."""

    middle: tuple[float, float]
    sides: tuple[float, float]
    height: float
    turn: float
    label: int
    albedo: float

    @property
    def reach(self) -> float:
        """Return how far it goes from its middle, seen from above."""
        return math.hypot(*self.sides) / 2

    def hit(self, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
        """Return how far along each ray it is met, inf where it is not."""
        c, s = math.cos(self.turn), math.sin(self.turn)
        turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        start = turn @ (origin - np.array([*self.middle, self.height / 2]))
        half = np.array([self.sides[0] / 2, self.sides[1] / 2, self.height / 2])
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = 1 / (rays @ turn.T)
            one, two = (-half - start) * inverse, (half - start) * inverse
        enter = np.minimum(one, two).max(1)
        leave = np.maximum(one, two).min(1)
        return np.where((enter <= leave) & (enter > 0), enter, np.inf)


@dataclass(frozen=True)
class Cylinder:
    """A post on the ground: its middle (x, y), radius, height and class."""

    middle: tuple[float, float]
    radius: float
    height: float
    label: int
    albedo: float

    @property
    def reach(self) -> float:
        """Return how far it goes from its middle, seen from above."""
        return self.radius

    def hit(self, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
        """Return how far along each ray its side is met, inf where it is not."""
        start = origin[:2] - np.array(self.middle)
        a = (rays[:, :2] ** 2).sum(1)
        b = rays[:, :2] @ start
        inside = b**2 - a * (start @ start - self.radius**2)
        with np.errstate(invalid="ignore", divide="ignore"):
            far = (-b - np.sqrt(inside)) / a
            top = origin[2] + far * rays[:, 2]
        met = (inside > 0) & (far > 0) & (top >= 0) & (top <= self.height)
        return np.where(met, far, np.inf)


Thing = Box | Cylinder


def street(seed: int) -> list[Thing]:
    """Return what stands along a street of 120 metres along x: houses, cars, poles and persons."""
    random = np.random.default_rng(seed)
    things: list[Thing] = []
    for side in (-1, 1):
        x = -STREET_M / 2
        while x < STREET_M / 2:
            length, gap = random.uniform(8, 20), random.uniform(1, 5)
            y = side * (random.uniform(9, 13) + 4)
            things.append(_box(random, (x + length / 2, y), (length, 8), (5, 12), BUILDING))
            x += length + gap
        for place in np.arange(-STREET_M / 2, STREET_M / 2, 12.0):
            y = side * random.uniform(6.0, 7.5)
            radius = random.uniform(0.06, 0.15)
            middle = (place + random.uniform(-3, 3), y)
            things.append(Cylinder(middle, radius, random.uniform(3, 7), POLE, _albedo(random)))
        for _ in range(7):
            middle = (random.uniform(-STREET_M / 2, STREET_M / 2), side * random.uniform(3.0, 4.5))
            size = (random.uniform(3.6, 4.8), random.uniform(1.6, 1.9))
            things.append(_box(random, middle, size, (1.4, 1.9), CAR))
        for _ in range(9):
            middle = (random.uniform(-STREET_M / 2, STREET_M / 2), side * random.uniform(2.5, 8.0))
            radius = random.uniform(0.2, 0.32)
            things.append(
                Cylinder(middle, radius, random.uniform(1.5, 1.9), PERSON, _albedo(random))
            )
    return things


def _box(
    random: np.random.Generator,
    middle: tuple[float, float],
    sides: tuple[float, float],
    heights: tuple[float, float],
    label: int,
) -> Box:
    turn = random.normal(0, 0.05)
    return Box(middle, sides, random.uniform(*heights), turn, label, _albedo(random))


def _albedo(random: np.random.Generator) -> float:
    return float(random.uniform(0.15, 0.85))


def cast(sensor: Sensor, things: Sequence[Thing], x: float, random: np.random.Generator) -> Scan:
    """Return what the sensor sees of a street at (x, 0), labels among it, in the file's order."""
    rays, origin = sensor.rays(), np.array([x, 0.0, HEIGHT_M])
    with np.errstate(divide="ignore"):
        far = np.where(rays[:, 2] < 0, -HEIGHT_M / rays[:, 2], np.inf)
    label, albedo = np.full(len(rays), GROUND), np.full(len(rays), 0.3)
    for thing in things:
        some = _towards(thing, origin, rays)
        hit = thing.hit(origin, rays[some])
        nearer = hit < far[some]
        met = some[nearer]
        far[met], label[met], albedo[met] = hit[nearer], thing.label, thing.albedo
    there = (far < FARTHEST_M) & (random.random(len(rays)) >= sensor.lost)
    far = far[there] + random.normal(0, sensor.noise, int(there.sum()))
    light = albedo[there] * np.exp(-far / 80) + random.normal(0, 0.03, len(far))
    xyz = (rays[there] * far[:, None]).astype(np.float32)
    return Scan(xyz, light.clip(0, 1).astype(np.float32), label[there].astype(np.int64))


def _towards(thing: Thing, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Return the rays that may meet a thing, seen from above: int64 (n,)."""
    away = np.array(thing.middle) - origin[:2]
    far = math.hypot(*away)
    if far > FARTHEST_M + thing.reach:
        return np.empty(0, np.int64)
    if far <= thing.reach:
        return np.arange(len(rays))
    flat = rays[:, :2]
    ahead = flat @ away
    aside = np.abs(flat @ np.array([-away[1], away[0]]))
    return np.flatnonzero((ahead > 0) & (aside <= thing.reach * np.hypot(*flat.T)))


def drive(sensor: Sensor, seed: int, scans: int, step_m: float = 2.0) -> list[Scan]:
    """Return the scans of one drive, `step_m` metres apart."""
    things, random = street(seed), np.random.default_rng([seed, 1])
    start = -step_m * (scans - 1) / 2
    return [cast(sensor, things, start + step_m * at, random) for at in range(scans)]


def write_street(
    folder: Path, sensor: Sensor, *, drives: int = 6, scans: int = 20, seed: int = 0
) -> None:
    """Write scans/, labels/ and classes.txt in KITTI's formats to a new folder. Raises DataError.

    Examples:
        >>> from vitrail.data.lidar.cast import Sensor, write_street
        >>> write_street(Path("street"), Sensor(beams=16, columns=64), drives=1, scans=2)
        >>> sorted(path.name for path in Path("street").iterdir())
        ['README.txt', 'classes.txt', 'labels', 'scans']
    """
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} exists and is not overwritten: name another folder")
    for number in range(drives):
        for name in ("scans", "labels"):
            (folder / name / f"drive-{number:02}").mkdir(parents=True, exist_ok=True)
        for at, scan in enumerate(drive(sensor, seed * 1000 + number, scans)):
            assert scan.labels is not None
            key = f"drive-{number:02}/{at:06}"
            points = np.concatenate([scan.xyz, scan.intensity[:, None]], 1).astype("<f4")
            files.write(folder / "scans" / f"{key}.bin", points.tobytes())
            files.write(folder / "labels" / f"{key}.label", scan.labels.astype("<u4").tobytes())
    files.write(folder / "classes.txt", "\n".join(CLASSES) + "\n")
    files.write(
        folder / "README.txt",
        f"Synthetic scans of made-up streets by a ray caster (seed {seed}, {sensor.beams} beams, "
        f"{sensor.columns} columns). No sensor and no city is behind them.\n",
    )


def main() -> None:
    """Write a street from the command line."""
    from argparse import ArgumentParser

    words = ArgumentParser(prog="python -m vitrail.data.lidar.cast", description=__doc__)
    words.add_argument("folder", type=Path, help="new folder for the scans")
    words.add_argument("--beams", type=int, default=16, help="beams of the sensor, 16 to 64")
    words.add_argument("--columns", type=int, default=256, help="points of a beam in one turn")
    words.add_argument("--drives", type=int, default=6, help="streets")
    words.add_argument("--scans", type=int, default=20, help="scans of each street")
    words.add_argument("--seed", type=int, default=0, help="which streets")
    asked = words.parse_args()
    try:
        sensor = Sensor(asked.beams, asked.columns)
        write_street(asked.folder, sensor, drives=asked.drives, scans=asked.scans, seed=asked.seed)
    except (ConfigError, DataError) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{asked.drives * asked.scans} synthetic scans are in {asked.folder}")


if __name__ == "__main__":
    main()
