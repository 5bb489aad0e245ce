"""The data sets that are known by name: fashion-sample, fashion-mnist, digits.

Fashion-MNIST: Han Xiao, Kashif Rasul, Roland Vollgraf, 2017, arXiv:1708.07747 (MIT licence).
"""

import gzip
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from vitrail.data.source import Item, PartName, Source
from vitrail.errors import DataError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
SAMPLES = Path(__file__).parent / "samples"
SIDE = 28
CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def cache_folder() -> Path:
    """Return $VITRAIL_CACHE, or ~/.cache/vitrail."""
    return Path(os.environ.get("VITRAIL_CACHE") or "~/.cache/vitrail").expanduser()


def read_idx(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the gzipped IDX pair of MNIST as uint8 (N, 28, 28) and uint8 (N,). Raises DataError."""
    try:
        with gzip.open(labels) as file:
            label = np.frombuffer(file.read()[8:], np.uint8)
        with gzip.open(images) as file:
            pixels = np.frombuffer(file.read()[16:], np.uint8).reshape(-1, SIDE, SIDE)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{images} is not readable ({error}): install the data set again") from None
    if len(label) != len(pixels):
        raise DataError(f"{images} has {len(pixels)} images but {len(label)} labels: install again")
    return pixels, label


def fashion_pair(folder: Path, part: PartName) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels of "train" (60,000) or "test" (10,000) of the full Fashion-MNIST."""
    stem = {"train": "train", "test": "t10k"}[part]
    return read_idx(
        folder / f"{stem}-images-idx3-ubyte.gz", folder / f"{stem}-labels-idx1-ubyte.gz"
    )


def unpack_sheet(path: Path, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut a contact sheet, class after class in rows, into uint8 (N, 28, 28) and labels (N,)."""
    from PIL import Image

    with Image.open(path) as sheet:
        grid = np.asarray(sheet.convert("L"))
    tiles = grid.reshape(grid.shape[0] // SIDE, SIDE, grid.shape[1] // SIDE, SIDE)
    images = np.ascontiguousarray(tiles.swapaxes(1, 2)).reshape(-1, SIDE, SIDE)
    return images, np.repeat(np.arange(len(CLASSES), dtype=np.uint8), per_class)


def _fashion_sample(download: bool | None) -> Source:
    train = unpack_sheet(SAMPLES / "fashion_train.png", 600)
    test = unpack_sheet(SAMPLES / "fashion_test.png", 100)
    return _fashion("fashion-sample", "the sample of Fashion-MNIST in vitrail", train, test)


def _fashion_mnist(download: bool | None) -> Source:
    folder = DEBIAN if DEBIAN.is_dir() else cache_folder() / "downloads" / "FashionMNIST" / "raw"
    if not folder.is_dir():
        allowed = os.environ.get("VITRAIL_DOWNLOAD") == "1" if download is None else download
        if not allowed:
            raise DataError(
                f"fashion-mnist is not on this machine ({DEBIAN}): apt install "
                "dataset-fashion-mnist, or set VITRAIL_DOWNLOAD=1 to download it"
            )
        _download(folder.parent.parent)
    pairs = fashion_pair(folder, "train"), fashion_pair(folder, "test")
    return _fashion("fashion-mnist", str(folder), *pairs)


def _download(root: Path) -> None:
    from torchvision.datasets import FashionMNIST

    try:
        for train in (True, False):
            FashionMNIST(str(root), train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"fashion-mnist could not be downloaded ({error}): check the network, or apt install "
            "dataset-fashion-mnist"
        ) from None


def _fashion(name: str, origin: str, train: tuple, test: tuple) -> Source:
    pairs: tuple[tuple[PartName, np.ndarray], ...] = (("train", train[1]), ("test", test[1]))
    items = tuple(
        Item(f"{part}/{row:05d}.png", int(label), part)
        for part, labels in pairs
        for row, label in enumerate(labels)
    )
    return Source(name, CLASSES, items, origin, pixels=np.concatenate([train[0], test[0]]))


def _digits(download: bool | None) -> Source:
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    pixels = np.round(values * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    items = tuple(Item(f"{row:04d}.png", int(label)) for row, label in enumerate(labels))
    classes = tuple(str(digit) for digit in range(10))
    return Source("digits", classes, items, "scikit-learn's digits", pixels=pixels)


BUILTIN: Mapping[str, Callable[[bool | None], Source]] = MappingProxyType(
    {"fashion-sample": _fashion_sample, "fashion-mnist": _fashion_mnist, "digits": _digits}
)
