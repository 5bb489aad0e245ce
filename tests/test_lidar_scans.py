"""Scans: projections, neighbours, votes, files of all formats, the gate and its parts."""

from __future__ import annotations

import json
import math

import laspy
import numpy as np
import plyfile
import pypcd4
import pytest
from support import streets

from vitrail.data.lidar import cast
from vitrail.data.lidar.folder import open_scans
from vitrail.data.lidar.gate import inspect_scans
from vitrail.data.lidar.meaning import numbered
from vitrail.data.lidar.near import nearest, voted
from vitrail.data.lidar.projection import ByScan, Spherical
from vitrail.data.lidar.reader import Network, Reader, window_begins
from vitrail.data.lidar.reading import BrokenScan, read_scan
from vitrail.data.lidar.split import divide_scans
from vitrail.data.masks import IGNORE
from vitrail.errors import ConfigError, DataError


def at(azimuth, elevation, depth):
    a, e = math.radians(azimuth), math.radians(elevation)
    flat = depth * math.cos(e)
    return [flat * math.cos(a), flat * math.sin(a), depth * math.sin(e)]


def test_a_point_lands_at_its_angles():
    seen = Spherical(height=32, width=360, up=10, down=-30)
    xyz = np.array([at(0, 9.9, 5), at(90, -10.5, 7), at(-90, -29.9, 9)], np.float32)
    image = seen.image(xyz, np.array([0.1, 0.2, 0.3], np.float32))
    row, column = image.cells()
    assert row.tolist() == [0, 16, 31]
    assert column.tolist() == [180, 90, 270]
    assert image.features[0, 16, 90] == pytest.approx(7)
    assert image.features[4, 31, 270] == pytest.approx(0.3)


def slowly(projection, xyz, intensity):
    """Points one after the other, the farthest first."""
    whole = projection.image(xyz, intensity)
    row, column = whole.cells()
    index = np.full(whole.index.shape, -1)
    for point in np.argsort(-whole.depth, kind="stable"):
        index[row[point], column[point]] = point
    return index


@pytest.mark.parametrize("projection", [Spherical(8, 32), ByScan(8, 32)])
def test_the_nearest_point_of_a_pixel_is_seen(projection):
    random = np.random.default_rng(0)
    xyz = (random.normal(size=(2000, 3)) * [20, 20, 2]).astype(np.float32)
    image = projection.image(xyz, np.zeros(2000, np.float32))
    assert np.array_equal(image.index, slowly(projection, xyz, np.zeros(2000, np.float32)))
    assert (image.features[0][~image.seen] == -1).all()
    mean, std = (1.0,) * 5, (2.0,) * 5
    assert (image.normalised(mean, std)[:, ~image.seen] == 0).all()


def test_point_number_0_is_a_point():
    image = Spherical(4, 8).image(np.array([[9.0, 0, 0]], np.float32), np.ones(1, np.float32))
    assert image.seen.sum() == 1


def test_rows_follow_the_order_of_the_file():
    sensor = cast.Sensor(beams=6, columns=64, lost=0.0)
    scan = cast.cast(sensor, [], 0.0, np.random.default_rng(0))
    image = ByScan(6, 64).image(scan.xyz, scan.intensity)
    beams = sum(angle < -2 for angle in np.degrees(np.arcsin(sensor.rays()[::64, 2])))
    assert image.seen.any(1).sum() == beams
    assert image.seen.sum() == len(scan)


def test_a_sensor_is_found_again():
    sensor = cast.Sensor(16, 128)
    scans = cast.drive(sensor, 1, 2)
    again = cast.drive(sensor, 1, 2)
    assert np.array_equal(scans[1].xyz, again[1].xyz)
    assert {*np.unique(scans[0].labels)} >= {cast.GROUND, cast.BUILDING, cast.CAR}
    ground = scans[0].xyz[scans[0].labels == cast.GROUND]
    assert abs(np.median(ground[:, 2]) + cast.HEIGHT_M) < 0.05


def test_a_box_and_a_cylinder_are_met_where_they_stand():
    ahead = np.array([[1.0, 0, 0]])
    origin = np.array([0, 0, 1.0])
    box = cast.Box((10.0, 0.0), (2.0, 4.0), 2.0, 0.0, cast.CAR, 0.5)
    assert box.hit(origin, ahead) == pytest.approx(9)
    assert np.isinf(box.hit(origin, -ahead))
    post = cast.Cylinder((10.0, 0.0), 0.5, 0.8, cast.POLE, 0.5)
    assert np.isinf(post.hit(origin, ahead))  # which goes over it
    down = np.array([[math.cos(-0.05), 0, math.sin(-0.05)]])
    assert post.hit(origin, down)[0] * down[0, 0] == pytest.approx(9.5)


def test_the_nearest_points_begin_with_the_point_itself():
    random = np.random.default_rng(0)
    xyz = random.normal(size=(200, 3)).astype(np.float32)
    xyz[50:60] = xyz[0]  # of ten at one place each is its own first
    near = nearest(xyz, 7)
    far = np.linalg.norm(xyz[:, None] - xyz, axis=-1)
    assert np.array_equal(near[:, 0], np.arange(200))
    expected = np.sort(far, 1)[:, :7]
    assert np.allclose(np.sort(np.take_along_axis(far, near, 1), 1), expected, atol=1e-5)
    assert nearest(xyz[:3], 7).shape == (3, 7)


def test_a_hidden_point_takes_the_class_of_its_own_range():
    columns = np.arange(-4, 5) * 2.0
    wall = np.array([at(c, 0, 20.0) for c in columns], np.float32)
    post = np.array([at(0, 0, 5.0)], np.float32)
    xyz = np.concatenate([wall, post])
    image = Spherical(3, 180, 3, -3).image(xyz, np.zeros(10, np.float32))
    labels = np.where(image.index == 9, 1, 0).astype(np.uint8)
    said = voted(labels, image, 2)
    assert said.tolist() == [0] * 9 + [1]
    row, column = image.cells()
    assert labels[row[4], column[4]] == 1  # though the post is before it


def test_windows_cover_the_image_and_are_averaged():
    assert window_begins(2048, 384, 256)[-2:] == [1536, 1664]
    assert window_begins(256, 384, 256) == [0]
    reader = Reader(Spherical(2, 10), 4, 3, (0.0,) * 5, (1.0,) * 5)
    image = np.random.default_rng(0).normal(size=(5, 2, 10)).astype(np.float32)
    assert np.allclose(reader.averaged(image, lambda x: x), image, atol=1e-6)
    # Each window says its own first column: where two overlap, their mean is said.
    firsts = reader.averaged(image, lambda x: np.broadcast_to(x[..., :1], x.shape))
    assert np.allclose(firsts[:, :, 3], (image[:, :, 0] + image[:, :, 3]) / 2)


def test_a_reader_answers_points_by_pixels_or_by_a_refiner():
    scan = cast.drive(cast.Sensor(8, 64), 0, 1)[0]
    reader = Reader(Spherical(8, 64, 10, -30), 32, 16, (0.0,) * 5, (1.0,) * 5)
    low = reader.answer(
        scan.xyz, scan.intensity, Network(lambda x: np.stack([x[:, 3], -x[:, 3]], 1))
    )
    assert low.scores.shape == (len(scan), 2)
    row, column = low.image.cells()
    seen = low.image.index[row, column] == np.arange(len(scan))
    assert np.allclose(low.scores[seen, 0], scan.xyz[seen, 2])
    pixels = np.where(low.image.features[3] >= 0, 0, 1).astype(np.uint8)
    assert np.array_equal(low.labels, voted(pixels, low.image, 2))

    def refine(map, places, xyz, near):
        assert near.shape == (len(xyz), 3)
        return np.stack([xyz[:, 2], -xyz[:, 2]], 1)

    by_point = reader.answer(scan.xyz, scan.intensity, Network(lambda x: x, refine, 3))
    assert np.array_equal(by_point.labels == 0, scan.xyz[:, 2] >= 0)


# ---- files ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one():
    return cast.drive(cast.Sensor(8, 64), 3, 1)[0]


def same(found, one, intensity=True):
    assert np.allclose(found.xyz, one.xyz, atol=2e-3)
    if intensity:
        assert np.allclose(found.intensity, one.intensity, atol=1e-6)
    if found.labels is not None:
        assert np.array_equal(found.labels, one.labels)


def test_kitti_and_nuscenes_files(one, tmp_path):
    four = np.concatenate([one.xyz, one.intensity[:, None]], 1).astype("<f4")
    (tmp_path / "a.bin").write_bytes(four.tobytes())
    instances = (one.labels + (7 << 16)).astype("<u4")
    (tmp_path / "a.label").write_bytes(instances.tobytes())
    same(read_scan(tmp_path / "a.bin", tmp_path / "a.label"), one)
    ring = np.concatenate([four, np.zeros((len(one), 1), "<f4")], 1)
    (tmp_path / "b.pcd.bin").write_bytes(ring.tobytes())
    (tmp_path / "b_lidarseg.bin").write_bytes(one.labels.astype(np.uint8).tobytes())
    same(read_scan(tmp_path / "b.pcd.bin", tmp_path / "b_lidarseg.bin"), one)


def test_npy_files(one, tmp_path):
    rows = np.concatenate([one.xyz, one.intensity[:, None], one.labels[:, None]], 1)
    np.save(tmp_path / "a.npy", rows)
    same(read_scan(tmp_path / "a.npy"), one)
    np.save(tmp_path / "b.npy", one.xyz)
    np.save(tmp_path / "c.npy", one.labels)
    found = read_scan(tmp_path / "b.npy", tmp_path / "c.npy")
    same(found, one, intensity=False)
    assert not found.intensity.any()


@pytest.mark.parametrize("text", [False, True])
def test_ply_files(one, tmp_path, text):
    rows = np.empty(len(one), [("x", "f4"), ("y", "f4"), ("z", "f4"), ("intensity", "f4"),
                               ("label", "i4")])  # fmt: skip
    rows["x"], rows["y"], rows["z"] = one.xyz.T
    rows["intensity"], rows["label"] = one.intensity, one.labels
    element = plyfile.PlyElement.describe(rows, "vertex")
    plyfile.PlyData([element], text=text).write(str(tmp_path / "a.ply"))
    same(read_scan(tmp_path / "a.ply"), one)


@pytest.mark.parametrize("kind", ["ascii", "binary", "binary_compressed"])
def test_pcd_files(one, tmp_path, kind):
    cloud = pypcd4.PointCloud.from_points(
        [*one.xyz.T, one.intensity, one.labels.astype(np.int32)],
        fields=("x", "y", "z", "intensity", "label"),
        types=(np.float32,) * 4 + (np.int32,),
    )
    cloud.save(tmp_path / "a.pcd", pypcd4.Encoding(kind))
    same(read_scan(tmp_path / "a.pcd"), one)


def test_las_files(one, tmp_path):
    header = laspy.LasHeader(point_format=3, version="1.2")
    header.scales = np.full(3, 0.001)
    las = laspy.LasData(header)
    las.x, las.y, las.z = one.xyz.T.astype(np.float64)
    las.intensity = (one.intensity * 1000).astype(np.uint16)
    las.classification = one.labels.astype(np.uint8)
    las.write(str(tmp_path / "a.las"))
    found = read_scan(tmp_path / "a.las")
    same(found, one, intensity=False)
    assert np.abs(found.intensity - one.intensity * 1000).max() <= 1


def test_points_that_are_not_finite_are_left_out(one, tmp_path):
    rows = np.concatenate([one.xyz, one.intensity[:, None], one.labels[:, None]], 1)
    rows[5, 1] = np.nan
    np.save(tmp_path / "a.npy", rows)
    found = read_scan(tmp_path / "a.npy")
    assert len(found) == len(one) - 1 and found.points == len(one) and 5 not in found.rows


# ---- folders, gate, parts ------------------------------------------------------------------


def test_a_folder_of_broken_scans_has_an_answer_for_each(tmp_path):
    answers = streets.broken(tmp_path / "street")
    found = inspect_scans(open_scans(tmp_path / "street"), progress=False)
    assert {one.key.rpartition("/")[2]: one.kind for one in found.broken} == answers.broken
    kinds = {one.kind: one.keys for one in found.findings}
    for kind, keys in answers.findings.items():
        assert keys <= {key.rpartition("/")[2] for entry in kinds[kind] for key in
                        entry.split(" = ")}, kind  # fmt: skip
    assert len(found) == answers.good


def test_semantic_kitti_by_its_folders(one, tmp_path):
    labels = np.array([40, 50, 10, 80, 30])[one.labels]
    for sequence in ("00", "08"):
        for number in range(12):
            streets.write_kitti(tmp_path, sequence, number, one, labels)
    source = open_scans(tmp_path)
    assert source.classes[0] == "car" and len(source.classes) == 19
    assert source.projection == ByScan()
    scan = source.scan(0)
    names = np.array([*source.classes])[scan.labels[:1]]
    assert names[0] == ("road", "building", "car", "pole", "person")[one.labels[0]]
    found = inspect_scans(source, progress=False)
    assert {source.drives[row] for row in found.rows} == {"00", "08"}
    assert all((item.part == "test") == ("/08/" in item.key) for item in source.items)


def test_nuscenes_by_its_tables(one, tmp_path):
    streets.write_nuscenes(tmp_path, one)
    source = open_scans(tmp_path)
    assert source.classes[3] == "car" and source.projection == Spherical()
    scan = source.scan(0)
    car = source.classes.index("car")
    assert np.array_equal(scan.labels == car, one.labels == cast.CAR)
    assert (scan.labels[one.labels == cast.POLE] == IGNORE).all()
    assert source.drives[0] == "n015-2018"
    categories = tmp_path / "v1.0-mini" / "category.json"
    rows = json.loads(categories.read_text())
    # A label is one byte: what else is counted as an index names no points.
    strange = [{"name": "vehicle.car", "index": index} for index in (10**12, -1, "3", None, [])]
    categories.write_text(json.dumps([*rows, *strange]))
    assert np.array_equal(open_scans(tmp_path).scan(0).labels, scan.labels)
    (tmp_path / "v1.0-mini" / "category.json").write_text("{}")
    with pytest.raises(DataError, match=r"category\.json is not a table"):
        open_scans(tmp_path)


def test_parts_are_stretches_of_drives_and_copies_stay_together(tmp_path):
    cast.write_street(tmp_path / "s", cast.Sensor(8, 32), drives=2, scans=10)
    scans = tmp_path / "s" / "scans" / "drive-00"
    (scans / "000000.bin").write_bytes((scans / "000009.bin").read_bytes())
    labels = tmp_path / "s" / "labels" / "drive-00"
    (labels / "000000.label").write_bytes((labels / "000009.label").read_bytes())
    found = inspect_scans(open_scans(tmp_path / "s"), progress=False)
    split = divide_scans(found, val=0.2, test=0.2)
    assert (len(split.train), len(split.val), len(split.test)) == (11, 4, 5)
    assert {key[-10:] for key in split.val.keys} == {"000006.bin", "000007.bin"}
    assert "moved copies" in {one.kind for one in split.findings}
    with pytest.raises(ConfigError, match="together below 1"):
        divide_scans(found, val=0.6, test=0.6)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "is not a folder"),
        (lambda path: path.mkdir(), "has no scan with labels"),
        (lambda path: streets.unlabelled(path), "has no scan with labels"),
    ],
)
def test_folders_without_scans_are_refused(tmp_path, make, said):
    make(tmp_path / "x")
    with pytest.raises(DataError, match=said):
        open_scans(tmp_path / "x")


def test_an_unknown_file_is_told(tmp_path):
    (tmp_path / "a.xyz").write_text("1 2 3")
    with pytest.raises(BrokenScan, match="is none of"):
        read_scan(tmp_path / "a.xyz")


def test_values_of_labels_may_be_as_large_as_a_file_can_say():
    meaning = numbered([3, 4_000_000_000])
    labels = np.array([4_000_000_000, 3, 3], np.uint32)
    assert meaning.of(labels).tolist() == [1, 0, 0]
    with pytest.raises(BrokenScan, match="has labels 7, which no class has"):
        meaning.of(np.array([3, 7], np.uint32))
