"""Where images come from: a folder of classes, a table, tar files, or a built-in name.

Opening a source lists its images and reads none of them; nothing is ever written to it.
"""

from dataclasses import replace
from pathlib import Path

from vitrail.data.box_coco import boxes_alone, read_box_coco
from vitrail.data.box_table import box_table, read_box_table
from vitrail.data.builtin import BUILTIN
from vitrail.data.coco import coco_files, read_coco
from vitrail.data.folder import read_folder
from vitrail.data.hearing import Wanted
from vitrail.data.masked import is_masked, read_masked
from vitrail.data.series import is_series
from vitrail.data.shards import read_shards, shards_in
from vitrail.data.sounds import SUFFIXES, require_soundfile
from vitrail.data.source import Source
from vitrail.data.table import read_table
from vitrail.data.tree import is_picture, walked
from vitrail.data.videos import are_videos
from vitrail.data.voc import read_voc, voc_files
from vitrail.data.yolo import read_yolo, yolo_files
from vitrail.errors import DataError

# So many files of a folder say that it is one of sounds.
LOOKED_AT = 20


def open_source(spec: str | Path, *, download: bool | None = None, several: bool = False) -> Source:
    """List the images behind `spec`.

    `spec` is a folder with one subfolder per class, with or without train/ val/ test/ above
    them; a folder of tar files with images, or one such file; a .csv or .parquet file with the
    columns path,label and, if wanted, split; or one of "fashion-sample", "fashion-mnist", "digits"
    (a folder of such a name is "./digits").
    `download` allows fashion-mnist to be fetched; by default VITRAIL_DOWNLOAD=1 does. `several`
    allows tables that give an image several labels; a table's source then says `several` and
    its items hold them all. Raises DataError.
    """
    if isinstance(spec, str) and spec in BUILTIN:
        return BUILTIN[spec](download)
    path = Path(spec).expanduser()
    try:
        if (path.is_dir() or path.is_file()) and shards_in(path):
            return read_shards(path)
        if path.is_dir():
            return read_folder(path, several=several)
        if path.is_file():
            return read_table(path, several=several)
        path.lstat()
    except PermissionError as error:
        where = error.filename or path
        raise DataError(
            f"{where} cannot be read: no read permission, allow it (chmod +rX)"
        ) from None
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{path} does not exist: give a folder with one subfolder per class, a .csv or "
            f".parquet of path,label, or one of {', '.join(BUILTIN)}"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    raise DataError(f"{path} is neither a folder nor a file: give a folder of class subfolders")


def open_masks(spec: str | Path, *, progress: bool = False) -> Source:
    """List the images behind `spec` with a mask for each, read once.

    `spec` is a folder with images/ and masks/ in it, whose files have the same names, or one with
    COCO's JSON of polygons or run lengths, or such a file. Raises DataError.
    """
    path = Path(spec).expanduser()
    try:
        if is_masked(path):
            return read_masked(path, progress=progress)
        if coco_files(path):
            return read_coco(path, progress=progress)
        if path.is_dir():
            return read_masked(path, progress=progress)
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{path} does not exist: give a folder with images/ and masks/ in it"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    raise DataError(f"{path} is not a folder: give a folder with images/ and masks/ in it")


def open_boxes(spec: str | Path) -> Source:
    """List the images behind `spec` with the boxes in each.

    `spec` is a folder with COCO's JSON, Pascal VOC's XML files or YOLO's texts beside images, or
    COCO's file itself, or a table with a row for each box. Raises DataError.
    """
    path = Path(spec).expanduser()
    try:
        if coco_files(path):
            return read_box_coco(path)
        if box_table(path) is not None:
            return read_box_table(path)
        if voc_files(path):
            return read_voc(path)
        if yolo_files(path):
            return read_yolo(path)
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path} does not exist: give a folder of images with boxes") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    raise DataError(
        f"{path} has no boxes beside its images: give COCO's JSON, Pascal VOC's XML, YOLO's texts, "
        "or a table of image,xmin,ymin,xmax,ymax,class"
    )


def open_sounds(spec: str | Path, wanted: Wanted) -> Source:
    """List the sounds behind `spec`, a folder of classes or a table of path,label.

    Raises DataError, and ConfigError where no library decodes sounds.
    """
    require_soundfile()
    if isinstance(spec, str) and spec in BUILTIN:
        raise DataError(
            f"{spec} is of images: give a folder with one subfolder of sounds per class"
        )
    return replace(open_source(spec), wanted=wanted)


def task_of_data(spec: str | Path) -> str | None:
    """Return the task that data is for where that is certain: "segmentation" for masks beside
    images, "detection" for boxes, "series" for files of time series, "video" for folders of video
    files alone, "audio" for folders of sounds; None where it is that of labels, or cannot be told.
    """
    if isinstance(spec, str) and spec in BUILTIN:
        return None
    path = Path(spec).expanduser()
    if is_series(path):
        return "series"
    if are_videos(path):
        return "video"
    if is_masked(path):
        return "segmentation"
    if _is_boxed(path):
        return "detection"
    return "audio" if _sounding(path) else None


def _is_boxed(path: Path) -> bool:
    try:
        if coco := coco_files(path):
            return boxes_alone(coco)
        return box_table(path) is not None or voc_files(path) or yolo_files(path)
    except (OSError, DataError):
        return False


def _sounding(path: Path) -> bool:
    """Return whether most of the first files below a folder are sounds by their names, and none a
    picture."""
    found = others = 0
    for _, names, _ in walked(path):
        for name in names:
            if is_picture(name):
                return False
            heard = name.lower().endswith(SUFFIXES)
            found, others = found + heard, others + (not heard)
            if found + others == LOOKED_AT:
                return found > others
    return found > others
