"""Goldens: what published reference implementations compute, rebuilt from names and shapes.

Every floating-point entry of a state dict is a function of its name and shape, and so is the
input; so a file needs to hold only names, shapes and figures of the outputs.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch

from vitrail.layers.points import Points

FOLDER = Path(__file__).parents[1] / "goldens"


def files() -> list[Path]:
    return sorted(FOLDER.glob("*.json"))


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float64 value of the state-dict entry `name`."""
    z = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode()))).standard_normal(shape)
    if name.endswith("running_var"):
        return 1 + 0.1 * np.abs(z)
    if name.endswith("running_mean"):
        return 0.1 * z
    if len(shape) <= 1:
        return 1 + 0.1 * z if name.endswith("weight") else 0.1 * z
    if shape[0] == 1 and len(shape) >= 3:
        return 0.5 * z
    return z / np.sqrt(np.prod(shape[1:]))


def image(shape: list[int], seed: int = 0) -> torch.Tensor:
    """The standard-normal float64 input."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    return torch.from_numpy(rng.standard_normal(tuple(shape)))


def inputs(golden: dict) -> tuple[torch.Tensor, ...]:
    """The input, and where series have `lengths` the mask of their steps; where range images have
    `points`, so many of each."""
    x = image(golden["input_shape"])
    if "points" in golden:
        return x, points(len(x), golden["points"])
    if "lengths" not in golden:
        return (x,)
    return x, (torch.arange(x.shape[1]) < torch.tensor(golden["lengths"])[:, None]).double()


def points(images: int, each: int) -> Points:
    """Points of range images, with the seven nearest of the same image."""
    n = images * each
    xyz, places = 0.5 * image([n, 3], 1), image([n, 2], 2).tanh()
    near = [torch.cdist(some, some).argsort(1)[:, :7] for some in xyz.split(each)]
    offsets = torch.arange(images).repeat_interleave(each)[:, None] * each
    return Points(places, xyz, torch.cat(near) + offsets, (each,) * images)


def state(golden: dict) -> dict[str, torch.Tensor]:
    """The reference's state dict, under its own names."""
    return {n: torch.from_numpy(np.asarray(tensor(n, tuple(s)))) for n, s in golden["state"]}


def deviation(output: torch.Tensor, expected: dict) -> float:
    """The largest difference from a golden's figures, relative to the output's scale."""
    flat = output.detach().double().numpy().reshape(-1)
    assert list(output.shape) == expected["shape"]
    scale = expected["norm"] / max(1, flat.size) ** 0.5
    head = np.abs(flat[: len(expected["head"])] - np.array(expected["head"])).max() / scale
    total = abs(flat.sum() - expected["sum"]) / (scale * flat.size)
    norm = abs(np.linalg.norm(flat) - expected["norm"]) / expected["norm"]
    return float(max(head, total, norm))
