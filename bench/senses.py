"""The kinds of files beside pictures that users bring: sounds, clips, scans, series, masks, boxes,
sentences, and what names their classes. How to make sound ones, and what reading them gives.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mutate
import numpy as np
from kind import Kind
from PIL import Image

from vitrail.data.captioned import open_captions
from vitrail.data.clip_gate import _seen
from vitrail.data.film_sounds import read_track
from vitrail.data.gate import inspect
from vitrail.data.hearing import Hearing
from vitrail.data.lidar.folder import open_scans
from vitrail.data.lidar.gate import inspect_scans
from vitrail.data.lidar.reading import BrokenScan, read_scan
from vitrail.data.opening import open_boxes, open_masks
from vitrail.data.series import open_series
from vitrail.data.sounds import BrokenSound, sound_picture
from vitrail.data.videos import BrokenClip, frames_of
from vitrail.data.words import learned, opened
from vitrail.errors import RunError

SIDE, PICTURES = 24, 4


def _pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def _beside(folder: Path, where: str = "images") -> list[str]:
    """A few pictures; returns their names."""
    names = [f"{number}.png" for number in range(PICTURES)]
    (folder / where).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(_pixels(number)).save(folder / where / name)
    return names


def _written(path: Path, text: str) -> list[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return [path]


# ---- sounds and clips ------------------------------------------------------------------


def _sounds(folder: Path) -> list[Path]:
    import soundfile

    wave = np.sin(np.arange(4000) / 9) * np.random.default_rng(0).uniform(0.2, 0.6, 4000)
    files = []
    for kind in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64"):
        files.append(folder / f"sound.{kind.lower()}")
        soundfile.write(files[-1], wave.astype(np.float32), 8000, format=kind)
    soundfile.write(folder / "deep.wav", np.stack([wave, wave], 1), 44_100, subtype="FLOAT")
    return [*files, folder / "deep.wav"]


def _sound(file: Path, _: Path) -> Any:
    try:
        hearing = Hearing.of(rate=8000, seconds=0.2)
        return sound_picture(file.read_bytes(), hearing, (16, 16)).tobytes()
    except BrokenSound as error:
        raise RunError(error.reason) from error


def _clips(folder: Path) -> list[Path]:
    import av

    files, codecs = [], {"mp4": "mpeg4", "mkv": "mpeg4", "avi": "mjpeg", "webm": "libvpx"}
    for suffix, codec in codecs.items():
        files.append(folder / f"clip.{suffix}")
        with av.open(str(files[-1]), "w") as container:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height = 32, 32
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for number in range(6):
                shown = np.resize(_pixels(number), (32, 32, 3))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
            container.mux(stream.encode())
    return files


def _clip(file: Path, _: Path) -> Any:
    try:
        return _seen(file).timing, frames_of(file, (8, 8)).tobytes()
    except (BrokenClip, OSError) as error:
        raise RunError(str(error)) from error


def _heard(folder: Path) -> list[Path]:
    """Make clips with a sound track, whose sound is read."""
    import av

    wave = np.sin(np.arange(4096) / 9) * 0.5
    files = []
    for suffix, codec in {"mp4": "aac", "mkv": "pcm_s16le", "webm": "libopus"}.items():
        files.append(folder / f"heard.{suffix}")
        with av.open(str(files[-1]), "w") as container:
            picture = "libvpx" if suffix == "webm" else "mpeg4"
            seen = container.add_stream(picture, rate=10)
            seen.width, seen.height, seen.pix_fmt = 32, 32, "yuv420p"
            rate = 48_000 if codec == "libopus" else 8000
            heard = container.add_stream(codec, rate=rate, layout="mono")
            shown = np.resize(_pixels(0), (32, 32, 3))
            for _ in range(6):
                container.mux(seen.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
            container.mux(seen.encode())
            samples = (wave * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate = rate
            container.mux(heard.encode(frame))
            container.mux(heard.encode())
    return files


def _track(file: Path, _: Path) -> Any:
    try:
        known, sound = read_track(file)
        return known, sound.rate, sound.wave.tobytes()
    except (BrokenSound, OSError) as error:
        raise RunError(str(error)) from error


# ---- scans of lidar --------------------------------------------------------------------


def _points() -> np.ndarray:
    random = np.random.default_rng(0)
    found = random.uniform(-20, 20, (64, 4)).astype(np.float32)
    found[:, 3] = random.uniform(0, 1, 64)
    return found


def _scans(suffix: str) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        values, path = _points(), folder / f"scan.{suffix}"
        if suffix == "bin":
            values.tofile(path)
        elif suffix == "npy":
            np.save(path, np.concatenate([values, np.zeros((64, 1), np.float32)], 1))
            np.save(folder / "wide.npy", values.astype(np.float64))
            return [path, folder / "wide.npy"]
        elif suffix == "pcd":
            return _pcd(folder, values)
        elif suffix == "ply":
            return _ply(folder, values)
        else:
            import laspy

            found = laspy.LasData(laspy.LasHeader(point_format=3, version="1.2"))
            found.x, found.y, found.z = values.T[:3]
            found.intensity = (values[:, 3] * 1000).astype(np.uint16)
            found.write(path)
        return [path]

    return make


def _pcd(folder: Path, values: np.ndarray) -> list[Path]:
    import pypcd4

    cloud, files = pypcd4.PointCloud.from_xyzi_points(values), []
    for name in ("ASCII", "BINARY", "BINARY_COMPRESSED"):
        files.append(folder / f"{name.lower()}.pcd")
        cloud.save(files[-1], encoding=pypcd4.Encoding[name])
    return files


def _ply(folder: Path, values: np.ndarray) -> list[Path]:
    from plyfile import PlyData, PlyElement

    kind = [(name, "f4") for name in ("x", "y", "z", "intensity")] + [("label", "u1")]
    rows = np.array([(*row, 1) for row in values.tolist()], kind)
    for name, text in (("text.ply", True), ("binary.ply", False)):
        PlyData([PlyElement.describe(rows, "vertex")], text=text).write(folder / name)
    return [folder / "text.ply", folder / "binary.ply"]


def _scan(file: Path, _: Path) -> Any:
    try:
        found = read_scan(file)
    except (BrokenScan, OSError) as error:
        raise RunError(str(error)) from error
    return found.xyz.tobytes(), found.intensity.tobytes(), found.labels is None


def _point_labels(folder: Path) -> list[Path]:
    (folder / "scans").mkdir()
    (folder / "labels").mkdir()
    for number in range(2):
        _points().tofile(folder / f"scans/{number}.bin")
        (np.arange(64, dtype="<u4") % 3).tofile(folder / f"labels/{number}.label")
    return [folder / "labels/0.label"]


def _street(file: Path, folder: Path) -> Any:
    found = inspect_scans(open_scans(folder), progress=False)
    return found.counts.tolist(), found.projection


def _tables(folder: Path) -> list[Path]:
    """nuScenes' tables beside scans."""
    place = folder / "v1.0-mini"
    place.mkdir()
    (folder / "samples").mkdir()
    (folder / "lidarseg").mkdir()
    sweep = np.concatenate([_points(), np.zeros((64, 1), np.float32)], 1)
    rows, labels = [], []
    for number in range(2):
        scan, beside = f"samples/drive__{number}.pcd.bin", f"lidarseg/{number}_lidarseg.bin"
        sweep.tofile(folder / scan)
        (np.arange(64, dtype=np.uint8) % 3).tofile(folder / beside)
        rows.append({"token": f"t{number}", "filename": scan})
        labels.append({"sample_data_token": f"t{number}", "filename": beside})
    names = ("noise", "vehicle.car", "flat.driveable_surface")
    kinds = [{"index": at, "name": name} for at, name in enumerate(names)]
    _written(place / "lidarseg.json", json.dumps(labels))
    _written(place / "category.json", json.dumps(kinds))
    return _written(place / "sample_data.json", json.dumps(rows))


def _first_of(make: Callable[[Path], Any], name: str) -> Callable[[Path], list[Path]]:
    """What `make` makes, of which the file `name` is the one that is damaged."""

    def made(folder: Path) -> list[Path]:
        make(folder)
        return [folder / name]

    return made


# ---- series ----------------------------------------------------------------------------


def _ts(folder: Path) -> list[Path]:
    random, lines = np.random.default_rng(0), []
    for row in range(12):
        bands = (",".join(f"{v:.3f}" for v in random.normal(size=6)) for _ in range(2))
        lines.append(":".join([*bands, "ab"[row % 2]]))
    head = ["@problemName toy", "@timeStamps false", "@missing false", "@univariate false",
            "@dimensions 2", "@equalLength true", "@seriesLength 6", "@classLabel true a b",
            "@data"]  # fmt: skip
    return _written(folder / "toy.ts", "\n".join([*head, *lines]) + "\n")


def _long(folder: Path) -> list[Path]:
    random, rows = np.random.default_rng(0), ["series,time,left,right,label"]
    for case in range(8):
        for step in range(5):
            left, right = random.normal(size=2).round(3)
            rows.append(f"s{case},{step},{left},{right},{'ab'[case % 2]}")
    return _written(folder / "walks.csv", "\n".join(rows) + "\n")


def _series(file: Path, _: Path) -> Any:
    found = inspect(open_series(file), progress=False)
    return found.size, found.counts, len(found.broken)


# ---- masks and boxes -------------------------------------------------------------------


def _masks(folder: Path) -> list[Path]:
    names = _beside(folder)
    (folder / "masks").mkdir()
    mask = Image.fromarray(np.tile(np.arange(SIDE, dtype=np.uint8) // 8, (SIDE, 1)), "L")
    for name in names:
        mask.save(folder / "masks" / name)
    palette = mask.convert("P")
    palette.save(folder / "palette.png")
    mask.convert("1").save(folder / "plain.png")
    return [folder / "masks/0.png", folder / "palette.png", folder / "plain.png"]


def _classed(name: str, content: str) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        _masks(folder)
        for spare in ("palette.png", "plain.png"):
            (folder / spare).unlink()
        return _written(folder / name, content)

    return make


def _coloured(folder: Path) -> list[Path]:
    names = _beside(folder)
    (folder / "masks").mkdir()
    bands = np.array([[0, 0, 0], [200, 0, 0], [0, 0, 200]], np.uint8)
    mask = np.tile(bands[np.arange(SIDE) // 8], (SIDE, 1, 1))
    for name in names:
        Image.fromarray(mask).save(folder / "masks" / name)
    text = "name,r,g,b\nnothing,0,0,0\nred,200,0,0\nblue,0,0,200\n"
    return _written(folder / "class_dict.csv", text)


def _masked(_: Path, folder: Path) -> Any:
    found = inspect(open_masks(folder), progress=False)
    return found.classes, len(found), [item.labels for item in found.items]


def _coco(folder: Path) -> list[Path]:
    names = _beside(folder)
    images = [
        {"id": at, "file_name": name, "width": SIDE, "height": SIDE}
        for at, name in enumerate(names)
    ]
    square = [2, 2, 12, 2, 12, 12, 2, 12]
    marks: list[dict[str, Any]] = [
        {"id": at, "image_id": at, "category_id": 1 + at % 2, "bbox": [2, 2, 10, 10],
         "area": 100, "iscrowd": 0, "segmentation": [square]}
        for at in range(len(names))
    ]  # fmt: skip
    marks[0]["segmentation"] = {"size": [SIDE, SIDE], "counts": [100, 50, SIDE * SIDE - 150]}
    kinds = [{"id": 1, "name": "cell"}, {"id": 2, "name": "gap"}]
    whole = {"images": images, "annotations": marks, "categories": kinds}
    return _written(folder / "annotations.json", json.dumps(whole))


def _boxed(_: Path, folder: Path) -> Any:
    found = inspect(open_boxes(folder), progress=False)
    boxes = found.source.boxes
    assert boxes is not None
    return found.classes, len(found), [one.boxes.tolist() for one in boxes.truths]


def _voc(folder: Path) -> list[Path]:
    for name in _beside(folder, "JPEGImages"):
        text = (
            f"<annotation><filename>{name}</filename><size><width>{SIDE}</width><height>{SIDE}"
            "</height><depth>3</depth></size><object><name>cell</name><difficult>0</difficult>"
            "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>12</xmax><ymax>14</ymax></bndbox></object>"
            "</annotation>"
        )
        _written(folder / "Annotations" / name.replace("png", "xml"), text)
    return [folder / "Annotations/0.xml"]


def _yolo(folder: Path) -> list[Path]:
    for name in _beside(folder):
        _written(
            folder / "labels" / name.replace("png", "txt"), "0 0.5 0.5 0.25 0.5\n1 .2 .2 .1 .1"
        )
    _written(folder / "data.yaml", "nc: 2\nnames: [cell, gap]\n")
    return [folder / "labels/0.txt"]


def _box_table(folder: Path) -> list[Path]:
    rows = ["image,xmin,ymin,xmax,ymax,class,split"]
    rows += [f"images/{n},2,3,12,14,{'ab'[i % 2]},train" for i, n in enumerate(_beside(folder))]
    return _written(folder / "boxes.csv", "\n".join(rows) + "\n")


# ---- sentences -------------------------------------------------------------------------


def _captions(folder: Path) -> list[Path]:
    rows = ["image,caption,label"]
    rows += [f"images/{n},a picture of {i},{'ab'[i % 2]}" for i, n in enumerate(_beside(folder))]
    return _written(folder / "captions.csv", "\n".join(rows) + "\n")


def _lines(folder: Path) -> list[Path]:
    rows = [{"file_name": name, "text": f"number {name}"} for name in _beside(folder, ".")]
    return _written(folder / "metadata.jsonl", "\n".join(map(json.dumps, rows)) + "\n")


def _captioned(file: Path, _: Path) -> Any:
    found = open_captions(file)
    assert found.captions is not None
    return len(inspect(found, progress=False)), found.captions.texts, found.classes


def _tokenizer(folder: Path) -> list[Path]:
    words = learned(["a red shirt", "a blue bag", "the shirt"], 8, most=300)
    return _written(folder / "tokenizer.json", words.text())


def _worded(file: Path, _: Path) -> Any:
    return opened(file, 8)(["a red bag", ""]).tolist()


def _inside(random: Any, data: bytes) -> bytes:
    """A NumPy file whose header or values change, or one that is a zip."""
    if random.random() < 0.1:
        packed = io.BytesIO()
        np.savez(packed, a=np.zeros(3))
        return mutate.in_bytes(random, packed.getvalue())
    return mutate.in_bytes(random, data[:128]) + data[128:]


JSON, CELLS, WORDS = (mutate.in_json,), (mutate.in_cells,), (mutate.in_words,)
HEAD = (mutate.in_head,)
KINDS: Sequence[Kind] = (
    Kind("sound", _sounds, _sound, HEAD),
    Kind("clip", _clips, _clip, HEAD),
    Kind("film-sound", _heard, _track, HEAD),
    Kind("scan-bin", _scans("bin"), _scan),
    Kind("scan-npy", _scans("npy"), _scan, (_inside,)),
    *(Kind(f"scan-{name}", _scans(name), _scan, WORDS) for name in ("pcd", "ply")),
    Kind("scan-las", _scans("las"), _scan, HEAD),
    Kind("scan-label", _point_labels, _street),
    Kind("nuscenes", _tables, _street, JSON),
    Kind("nuscenes-labels", _first_of(_tables, "v1.0-mini/lidarseg.json"), _street, JSON),
    Kind("nuscenes-classes", _first_of(_tables, "v1.0-mini/category.json"), _street, JSON),
    Kind("ts", _ts, _series, WORDS),
    Kind("series-csv", _long, _series, CELLS),
    Kind("mask", _masks, _masked, HEAD),
    Kind("classes-txt", _classed("classes.txt", "none\nleft\nright\n"), _masked, WORDS),
    Kind("classes-json", _classed("classes.json", '{"0": "none", "1": "a", "2": "b"}'), _masked,
         JSON),
    Kind("classes-csv", _coloured, _masked, CELLS),
    Kind("coco-masks", _coco, _masked, JSON),
    Kind("coco-boxes", _coco, _boxed, JSON),
    Kind("voc", _voc, _boxed, WORDS),
    Kind("yolo", _yolo, _boxed, WORDS),
    Kind("yolo-yaml", _first_of(_yolo, "data.yaml"), _boxed, WORDS),
    Kind("box-csv", _box_table, _boxed, CELLS),
    Kind("captions-csv", _captions, _captioned, CELLS),
    Kind("captions-jsonl", _lines, _captioned, (mutate.in_lines,)),
    Kind("tokenizer", _tokenizer, _worded, JSON),
)  # fmt: skip
